//! What is forgotten, and what must not be.

use super::*;

pub async fn compacted_history_is_refused_and_the_rest_stays(store: Arc<dyn Store>) {
    let mut at = vec![store.create("/a", bytes("0")).await.unwrap()];
    for n in 1..10 {
        at.push(
            store
                .update("/a", bytes(&n.to_string()), at[n - 1])
                .await
                .unwrap(),
        );
    }
    let mut behind = store.watch("/", at[0]).await.unwrap();
    let mut ahead = store.watch("/", at[7]).await.unwrap();
    store.compact(at[5]).await.unwrap();
    for (n, old) in at.iter().enumerate() {
        let listed = store.list("/", None, 0, Some(*old)).await;
        let watched = store.watch("/", *old).await;
        if n < 5 {
            let watched = match watched {
                Ok(mut watch) => change(&mut watch).await.unwrap_err(),
                Err(error) => error,
            };
            for refusal in [listed.unwrap_err(), watched] {
                assert!(
                    matches!(refusal, Error::Compacted(floor) if floor > *old),
                    "{n}: {refusal:?}"
                );
            }
        } else {
            assert_eq!(listed.unwrap().entries[0].value, bytes(&n.to_string()));
            let mut watch = watched.unwrap();
            if let Some(next) = at.get(n + 1) {
                let change = change(&mut watch).await.unwrap();
                assert_eq!(change.revision, *next);
                assert_eq!(change.old.unwrap().value, bytes(&n.to_string()));
            }
        }
    }
    assert_eq!(change(&mut ahead).await.unwrap().revision, at[8]);
    // A watch that fell behind says so, unless its changes were under way already.
    for next in &at[1..] {
        match change(&mut behind).await {
            Ok(change) => assert_eq!(change.revision, *next, "no gap before the end"),
            Err(Error::Compacted(_)) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    store
        .compact(at[2])
        .await
        .expect("what is forgotten may be forgotten again");
}

pub async fn a_compaction_keeps_the_newest_entries_and_deletions_stay_deleted(
    store: Arc<dyn Store>,
) {
    let kept = store.create("/kept", bytes("k")).await.unwrap();
    let gone = store.create("/gone", bytes("g")).await.unwrap();
    let gone = store.delete("/gone", gone).await.unwrap();
    store.compact(gone).await.unwrap();
    assert_eq!(
        store.get("/kept").await.unwrap(),
        Some(entry("/kept", "k", kept, kept))
    );
    assert_eq!(store.get("/gone").await.unwrap(), None);
    assert_eq!(store.revision().await.unwrap(), gone);
    assert_eq!(
        keys(&store.list("/", None, 0, Some(gone)).await.unwrap()),
        ["/kept"]
    );
    let again = store.create("/gone", bytes("g")).await.unwrap();
    assert!(again > gone);
    let seen = changes(&*store, "/", gone, 1).await;
    assert_eq!(
        seen,
        [Change {
            revision: again,
            new: Some(entry("/gone", "g", again, again)),
            old: None
        }]
    );
}
