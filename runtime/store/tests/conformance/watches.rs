//! Every change once, in order, with its old value.

use super::*;

pub async fn many_large_values_fit_in_a_list_and_a_watch(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    for n in 0..12 {
        store
            .create(&format!("/{n:02}"), Bytes::from(vec![n; 1_000_000]))
            .await
            .unwrap();
    }
    let page = store.list("/", None, 0, None).await.unwrap();
    assert_eq!(
        page.entries.iter().map(|e| e.value.len()).sum::<usize>(),
        12_000_000
    );
    assert_eq!(changes(&*store, "/", start, 12).await.len(), 12);
}

pub async fn a_watch_from_any_revision_yields_every_change_once_in_order(store: Arc<dyn Store>) {
    let mut revisions = vec![store.revision().await.unwrap()];
    for n in 0..15 {
        let key = format!("/{}", n % 4);
        let revision = match store.get(&key).await.unwrap() {
            None => store.create(&key, bytes("x")).await.unwrap(),
            Some(e) if n % 3 == 0 => store.delete(&key, e.modified).await.unwrap(),
            Some(e) => store.update(&key, bytes("y"), e.modified).await.unwrap(),
        };
        revisions.push(revision);
    }
    for (n, after) in revisions.iter().enumerate() {
        let seen: Vec<_> = changes(&*store, "/", *after, 15 - n)
            .await
            .iter()
            .map(|c| c.revision)
            .collect();
        assert_eq!(seen, revisions[n + 1..], "after {after}");
    }
    let seen: Vec<_> = changes(&*store, "/", 0, 15)
        .await
        .iter()
        .map(|c| c.revision)
        .collect();
    assert_eq!(seen, revisions[1..], "0 is before the first write");
}

pub async fn a_watch_sees_what_is_written_after_it_began(store: Arc<dyn Store>) {
    let mut watch = store
        .watch("/", store.revision().await.unwrap())
        .await
        .unwrap();
    for n in 0..50 {
        let made = store.create(&format!("/{n}"), bytes("x")).await.unwrap();
        assert_eq!(change(&mut watch).await.unwrap().revision, made);
    }
}

pub async fn a_watch_sees_only_its_prefix(store: Arc<dyn Store>) {
    let mut watch = store.watch("/b/", 0).await.unwrap();
    for key in ["/a/1", "/b/1", "/b", "/b0", "/c/1", "/b/2"] {
        store.create(key, bytes("x")).await.unwrap();
    }
    for expected in ["/b/1", "/b/2"] {
        assert_eq!(change(&mut watch).await.unwrap().new.unwrap().key, expected);
    }
    assert_eq!(
        changes(&*store, "", 0, 6).await.len(),
        6,
        "the empty prefix is everything"
    );
}

pub async fn a_watch_tells_old_and_new(store: Arc<dyn Store>) {
    let mut live = store.watch("/", 0).await.unwrap();
    let made = store.create("/a", bytes("1")).await.unwrap();
    let changed = store.update("/a", bytes("2"), made).await.unwrap();
    let gone = store.delete("/a", changed).await.unwrap();
    let again = store.create("/a", bytes("3")).await.unwrap();
    let (one, two, three) = (
        entry("/a", "1", made, made),
        entry("/a", "2", made, changed),
        entry("/a", "3", again, again),
    );
    let expected = [
        Change {
            revision: made,
            new: Some(one.clone()),
            old: None,
        },
        Change {
            revision: changed,
            new: Some(two.clone()),
            old: Some(one),
        },
        Change {
            revision: gone,
            new: None,
            old: Some(two),
        },
        Change {
            revision: again,
            new: Some(three),
            old: None,
        },
    ];
    for expected in &expected {
        assert_eq!(&change(&mut live).await.unwrap(), expected);
    }
    assert_eq!(changes(&*store, "/", 0, 4).await, expected);
    assert_eq!(changes(&*store, "/", made, 3).await, expected[1..]);
}

pub async fn a_watch_of_a_quiet_prefix_tells_progress(store: Arc<dyn Store>) {
    let mut watch = store
        .watch("/quiet/", store.revision().await.unwrap())
        .await
        .unwrap();
    let target = store.create("/loud/1", bytes("x")).await.unwrap();
    let reached = async {
        loop {
            match watch.next().await.unwrap().unwrap() {
                Event::Progress(revision) if revision >= target => break,
                Event::Progress(_) => {}
                Event::Change(change) => panic!("{change:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .expect("progress in time");
}

pub async fn progress_is_never_ahead_of_changes(store: Arc<dyn Store>) {
    let mut watch = store
        .watch("/a/", store.revision().await.unwrap())
        .await
        .unwrap();
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut last = 0;
            for n in 0..600 {
                let key = format!("/{}/{n}", if n % 3 == 0 { "a" } else { "b" });
                last = store.create(&key, bytes("x")).await.unwrap();
            }
            last
        })
    };
    let (mut told, mut count) = (0, 0);
    while count < 200 {
        match tokio::time::timeout(Duration::from_secs(20), watch.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Event::Change(change) => {
                assert!(
                    change.revision > told,
                    "{} was told before {}",
                    told,
                    change.revision
                );
                (told, count) = (change.revision, count + 1);
            }
            Event::Progress(revision) => {
                assert!(revision >= told);
                told = revision;
            }
        }
    }
    writer.await.unwrap();
}
