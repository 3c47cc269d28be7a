//! Compare-and-swap, revisions, sizes.

use super::*;

pub async fn a_create_needs_an_absent_key(store: Arc<dyn Store>) {
    let made = store.create("/a", bytes("1")).await.unwrap();
    assert_eq!(
        store.get("/a").await.unwrap(),
        Some(entry("/a", "1", made, made))
    );
    assert_eq!(store.get("/b").await.unwrap(), None);
    match store.create("/a", bytes("2")).await {
        Err(Error::Exists { key, current }) => assert_eq!(
            (key.as_str(), current),
            ("/a", entry("/a", "1", made, made))
        ),
        other => panic!("{other:?}"),
    }
    let empty = store.create("/empty", Bytes::new()).await.unwrap();
    assert_eq!(
        store.get("/empty").await.unwrap(),
        Some(entry("/empty", "", empty, empty))
    );
}

pub async fn an_update_needs_the_expected_revision(store: Arc<dyn Store>) {
    let made = store.create("/a", bytes("1")).await.unwrap();
    let changed = store.update("/a", bytes("2"), made).await.unwrap();
    let now = entry("/a", "2", made, changed);
    for stale in [0, made, changed + 1] {
        match store.update("/a", bytes("3"), stale).await {
            Err(Error::Conflict { key, current }) => {
                assert_eq!((key.as_str(), current), ("/a", Some(now.clone())))
            }
            other => panic!("{other:?}"),
        }
    }
    for expected in [0, made] {
        let absent = store.update("/b", bytes("3"), expected).await;
        assert!(
            matches!(absent, Err(Error::Conflict { current: None, .. })),
            "{absent:?}"
        );
    }
    assert_eq!(store.get("/a").await.unwrap(), Some(now));
    assert_eq!(store.get("/b").await.unwrap(), None);
}

pub async fn a_delete_needs_the_expected_revision(store: Arc<dyn Store>) {
    let made = store.create("/a", bytes("1")).await.unwrap();
    for stale in [0, made + 1] {
        let refused = store.delete("/a", stale).await;
        assert!(
            matches!(&refused, Err(Error::Conflict { current: Some(e), .. }) if e.modified == made),
            "{refused:?}"
        );
    }
    let gone = store.delete("/a", made).await.unwrap();
    assert!(gone > made);
    assert_eq!(store.revision().await.unwrap(), gone);
    assert_eq!(store.get("/a").await.unwrap(), None);
    for expected in [0, made, gone] {
        let again = store.delete("/a", expected).await;
        assert!(
            matches!(again, Err(Error::Conflict { current: None, .. })),
            "{again:?}"
        );
    }
}

pub async fn a_recreated_key_starts_anew(store: Arc<dyn Store>) {
    let first = store.create("/a", bytes("1")).await.unwrap();
    store.delete("/a", first).await.unwrap();
    let second = store.create("/a", bytes("2")).await.unwrap();
    assert_eq!(
        store.get("/a").await.unwrap(),
        Some(entry("/a", "2", second, second))
    );
    assert!(
        store.update("/a", bytes("3"), first).await.is_err(),
        "the old revision names another life of the key"
    );
}

pub async fn revisions_rise_with_every_write_and_with_nothing_else(store: Arc<dyn Store>) {
    let mut last = store.revision().await.unwrap();
    for step in 0..20 {
        let key = format!("/{step}");
        let made = store.create(&key, bytes("x")).await.unwrap();
        let changed = store.update(&key, bytes("y"), made).await.unwrap();
        let gone = store.delete(&key, changed).await.unwrap();
        assert!(
            last < made && made < changed && changed < gone,
            "{last} {made} {changed} {gone}"
        );
        store.create("/taken", bytes("x")).await.ok();
        let head = store.revision().await.unwrap();
        store.create("/taken", bytes("x")).await.unwrap_err();
        store.delete("/absent", head).await.unwrap_err();
        store.list("/", None, 0, None).await.unwrap();
        last = store.revision().await.unwrap();
        assert_eq!(last, head);
    }
}

pub async fn of_concurrent_writers_exactly_one_wins(store: Arc<dyn Store>) {
    for round in 0..10 {
        let key = format!("/contended/{round}");
        let attempts = (0..16).map(|n| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move { store.create(&key, bytes(&n.to_string())).await })
        });
        let results = futures::future::join_all(attempts).await;
        let (won, lost): (Vec<_>, Vec<_>) = results
            .into_iter()
            .map(Result::unwrap)
            .partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 15));
        let made = *won[0].as_ref().unwrap();
        for refusal in lost {
            assert!(
                matches!(&refusal, Err(Error::Exists { current, .. }) if current.modified == made),
                "{refusal:?}"
            );
        }
    }
}

pub async fn concurrent_increments_lose_nothing(store: Arc<dyn Store>) {
    store.create("/counter", bytes("0")).await.unwrap();
    let tasks = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..10 {
                let mut now = store.get("/counter").await.unwrap().unwrap();
                loop {
                    let count: u32 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                    match store
                        .update("/counter", bytes(&(count + 1).to_string()), now.modified)
                        .await
                    {
                        Ok(_) => break,
                        Err(Error::Conflict {
                            current: Some(current),
                            ..
                        }) => now = current,
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        })
    });
    for done in futures::future::join_all(tasks).await {
        done.unwrap();
    }
    assert_eq!(
        store.get("/counter").await.unwrap().unwrap().value,
        bytes("80")
    );
}

pub async fn a_value_may_be_as_large_as_the_limit_and_no_larger(store: Arc<dyn Store>) {
    let largest = Bytes::from(vec![7; MAX_VALUE]);
    let key = format!("/{}", "k".repeat(500));
    let made = store.create(&key, largest.clone()).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, largest);
    let larger = Bytes::from(vec![7; MAX_VALUE + 1]);
    let refusals = [
        store.create("/b", larger.clone()).await.unwrap_err(),
        store.update(&key, larger, made).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert!(
            matches!(refusal, Error::TooLarge(size) if size == MAX_VALUE + 1),
            "{refusal:?}"
        );
    }
    store.update(&key, largest, made).await.unwrap();
}
