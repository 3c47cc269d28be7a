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
    let behind = store.watch("/", at[0]).await.unwrap();
    let mut ahead = store.watch("/", at[7]).await.unwrap();
    store.compact(at[5]).await.unwrap();
    for (n, old) in at.iter().enumerate() {
        let (listed, watched) = (
            store.list("/", None, 0, Some(*old)).await,
            first(store.watch("/", *old).await).await,
        );
        if n < 5 {
            assert!(
                matches!(listed, Err(Error::Compacted(floor)) if floor > *old),
                "{n}: {listed:?}"
            );
            assert!(
                matches!(watched, Err(Error::Compacted(floor)) if floor > *old),
                "{n}: {watched:?}"
            );
        } else {
            assert_eq!(listed.unwrap().entries[0].value, bytes(&n.to_string()));
            let next = watched.unwrap();
            assert_eq!(next.as_ref().map(|c| c.revision), at.get(n + 1).copied());
            assert!(
                next.is_none_or(|c| c.old.is_some_and(|old| old.value == bytes(&n.to_string())))
            );
        }
    }
    assert_eq!(change(&mut ahead).await.unwrap().revision, at[8]);
    // A watch that fell behind says so, unless its changes were under way already.
    let fate: Vec<_> = behind.take(9).collect().await;
    let yielded: Vec<_> = fate
        .iter()
        .flatten()
        .filter_map(|e| {
            if let Event::Change(c) = e {
                Some(c.revision)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(yielded, at[1..=yielded.len()], "no gap before the end");
    assert!(
        yielded.len() == 9 || matches!(fate.last(), Some(Err(Error::Compacted(_)))),
        "{fate:?}"
    );
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

/// What a watch says first; `None` if it says within a moment that there is nothing.
async fn first(watch: Result<Watch, Error>) -> Result<Option<Change>, Error> {
    let mut watch = watch?;
    match tokio::time::timeout(Duration::from_millis(300), change(&mut watch)).await {
        Ok(change) => change.map(Some),
        Err(_) => Ok(None),
    }
}
