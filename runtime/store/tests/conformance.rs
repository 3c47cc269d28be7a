//! The laws of a store, one suite for every backend.

mod backends;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use skysail_store::{Change, Entry, Error, Event, MAX_VALUE, Page, Revision, Store};

type Watch = BoxStream<'static, Result<Event, Error>>;

/// One test per backend and law.
macro_rules! laws {
    ($($law:ident)*) => {
        laws!(@ embedded: $($law)*);
        laws!(@ in_memory: $($law)*);
        laws!(@ etcd: $($law)*);
    };
    (@ $backend:ident: $($law:ident)*) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $law() {
                    let fresh = crate::backends::$backend().await;
                    crate::$law(std::sync::Arc::clone(&fresh.store)).await;
                }
            )*
        }
    };
}

laws! {
    a_create_needs_an_absent_key
    an_update_needs_the_expected_revision
    a_delete_needs_the_expected_revision
    a_recreated_key_starts_anew
    revisions_rise_with_every_write_and_with_nothing_else
    of_concurrent_writers_exactly_one_wins
    concurrent_increments_lose_nothing
    a_list_is_sorted_and_ends_with_its_prefix
    pages_show_one_revision_while_others_write
    an_old_revision_lists_as_it_was
    the_future_cannot_be_read
    a_value_may_be_as_large_as_the_limit_and_no_larger
    many_large_values_fit_in_a_list_and_a_watch
    a_watch_from_any_revision_yields_every_change_once_in_order
    a_watch_sees_what_is_written_after_it_began
    a_watch_sees_only_its_prefix
    a_watch_tells_old_and_new
    a_watch_of_a_quiet_prefix_tells_progress
    progress_is_never_ahead_of_changes
    compacted_history_is_refused_and_the_rest_stays
    a_compaction_keeps_the_newest_entries_and_deletions_stay_deleted
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn entry(key: &str, value: &str, created: Revision, modified: Revision) -> Entry {
    Entry {
        key: key.into(),
        value: bytes(value),
        created,
        modified,
    }
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries
        .iter()
        .map(|entry| entry.key.as_str())
        .collect()
}

/// The next change; progress marks are checked and passed over.
async fn change(watch: &mut Watch) -> Result<Change, Error> {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(20), watch.next())
            .await
            .expect("an event in time");
        match event.expect("the stream goes on")? {
            Event::Change(change) => return Ok(change),
            Event::Progress(_) => {}
        }
    }
}

async fn changes(store: &dyn Store, prefix: &str, after: Revision, count: usize) -> Vec<Change> {
    let mut watch = store.watch(prefix, after).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(change(&mut watch).await.unwrap());
    }
    seen
}

async fn a_create_needs_an_absent_key(store: Arc<dyn Store>) {
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

async fn an_update_needs_the_expected_revision(store: Arc<dyn Store>) {
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

async fn a_delete_needs_the_expected_revision(store: Arc<dyn Store>) {
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

async fn a_recreated_key_starts_anew(store: Arc<dyn Store>) {
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

async fn revisions_rise_with_every_write_and_with_nothing_else(store: Arc<dyn Store>) {
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

async fn of_concurrent_writers_exactly_one_wins(store: Arc<dyn Store>) {
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

async fn concurrent_increments_lose_nothing(store: Arc<dyn Store>) {
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

async fn a_list_is_sorted_and_ends_with_its_prefix(store: Arc<dyn Store>) {
    for key in [
        "/b/2", "/a/1", "/b0", "/b/10", "/b", "/b/é", "/b/1", "/c/1", "/b.",
    ] {
        store.create(key, bytes(key)).await.unwrap();
    }
    let head = store.revision().await.unwrap();
    let all = store.list("/b/", None, 0, None).await.unwrap();
    assert_eq!(
        (keys(&all), all.revision, all.remaining),
        (vec!["/b/1", "/b/10", "/b/2", "/b/é"], head, 0)
    );
    let part = store.list("/b/", Some("/b/1"), 2, None).await.unwrap();
    assert_eq!((keys(&part), part.remaining), (vec!["/b/10", "/b/2"], 1));
    let between = store.list("/b/", Some("/b/11"), 0, None).await.unwrap();
    assert_eq!(keys(&between), ["/b/2", "/b/é"], "`after` need not exist");
    for (after, count) in [("/a/9", 4), ("/b/é", 0), ("/c", 0)] {
        assert_eq!(
            store
                .list("/b/", Some(after), 0, None)
                .await
                .unwrap()
                .entries
                .len(),
            count,
            "after {after}"
        );
    }
    assert_eq!(
        store.list("", None, 0, None).await.unwrap().entries.len(),
        9
    );
    assert_eq!(
        store.list("/none/", None, 5, None).await.unwrap(),
        Page {
            entries: vec![],
            revision: head,
            remaining: 0
        }
    );
}

async fn pages_show_one_revision_while_others_write(store: Arc<dyn Store>) {
    for n in 0..50 {
        store
            .create(&format!("/p/{n:03}"), bytes("old"))
            .await
            .unwrap();
    }
    let mut page = store.list("/p/", None, 7, None).await.unwrap();
    let (revision, mut seen) = (page.revision, page.entries.clone());
    while page.remaining > 0 {
        let n = seen.len();
        let update = store.get(&format!("/p/{n:03}")).await.unwrap().unwrap();
        store
            .update(&update.key, bytes("new"), update.modified)
            .await
            .unwrap();
        store
            .create(&format!("/p/{n:03}+"), bytes("new"))
            .await
            .unwrap();
        let last = store
            .get(&format!("/p/{:03}", 49 - n / 7))
            .await
            .unwrap()
            .unwrap();
        store.delete(&last.key, last.modified).await.unwrap();
        let after = seen.last().unwrap().key.clone();
        page = store
            .list("/p/", Some(&after), 7, Some(revision))
            .await
            .unwrap();
        assert_eq!(
            (page.revision, page.remaining as usize),
            (revision, 50 - seen.len() - page.entries.len())
        );
        seen.extend(page.entries.iter().cloned());
    }
    let names: Vec<_> = seen.iter().map(|e| e.key.clone()).collect();
    assert_eq!(
        names,
        (0..50).map(|n| format!("/p/{n:03}")).collect::<Vec<_>>()
    );
    assert!(
        seen.iter()
            .all(|e| e.value == "old" && e.modified <= revision)
    );
}

async fn an_old_revision_lists_as_it_was(store: Arc<dyn Store>) {
    let mut model: Vec<Entry> = Vec::new();
    let mut moments = Vec::new();
    for step in 0..60_usize {
        let key = format!("/{}", (step * 7) % 11);
        let known = model.iter().position(|e| e.key == key);
        match known {
            Some(i) if step % 3 == 0 => {
                let gone = store.delete(&key, model[i].modified).await.unwrap();
                model.remove(i);
                moments.push((gone, model.clone()));
            }
            Some(i) => {
                let changed = store
                    .update(&key, bytes(&step.to_string()), model[i].modified)
                    .await
                    .unwrap();
                model[i] = entry(&key, &step.to_string(), model[i].created, changed);
                moments.push((changed, model.clone()));
            }
            None => {
                let made = store.create(&key, bytes(&step.to_string())).await.unwrap();
                model.push(entry(&key, &step.to_string(), made, made));
                model.sort_by(|a, b| a.key.cmp(&b.key));
                moments.push((made, model.clone()));
            }
        }
    }
    for (at, entries) in moments {
        let page = store.list("/", None, 0, Some(at)).await.unwrap();
        assert_eq!(
            page,
            Page {
                entries,
                revision: at,
                remaining: 0
            }
        );
    }
}

async fn the_future_cannot_be_read(store: Arc<dyn Store>) {
    let head = store.create("/a", bytes("1")).await.unwrap();
    let asked = head + 1;
    let is_future = |e: &Error| matches!(e, Error::Future { asked: a, current: c } if (*a, *c) == (asked, head));
    let listed = store.list("/", None, 0, Some(asked)).await.unwrap_err();
    assert!(is_future(&listed), "{listed:?}");
    let watched = store.watch("/", asked).await.err().expect("a refusal");
    assert!(is_future(&watched), "{watched:?}");
    let compacted = store.compact(asked).await.unwrap_err();
    assert!(is_future(&compacted), "{compacted:?}");
}

async fn a_value_may_be_as_large_as_the_limit_and_no_larger(store: Arc<dyn Store>) {
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

async fn many_large_values_fit_in_a_list_and_a_watch(store: Arc<dyn Store>) {
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

async fn a_watch_from_any_revision_yields_every_change_once_in_order(store: Arc<dyn Store>) {
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

async fn a_watch_sees_what_is_written_after_it_began(store: Arc<dyn Store>) {
    let mut watch = store
        .watch("/", store.revision().await.unwrap())
        .await
        .unwrap();
    for n in 0..50 {
        let made = store.create(&format!("/{n}"), bytes("x")).await.unwrap();
        assert_eq!(change(&mut watch).await.unwrap().revision, made);
    }
}

async fn a_watch_sees_only_its_prefix(store: Arc<dyn Store>) {
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

async fn a_watch_tells_old_and_new(store: Arc<dyn Store>) {
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

async fn a_watch_of_a_quiet_prefix_tells_progress(store: Arc<dyn Store>) {
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

async fn progress_is_never_ahead_of_changes(store: Arc<dyn Store>) {
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

async fn compacted_history_is_refused_and_the_rest_stays(store: Arc<dyn Store>) {
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

/// What a watch says first; `None` if it says within a moment that there is nothing.
async fn first(watch: Result<Watch, Error>) -> Result<Option<Change>, Error> {
    let mut watch = watch?;
    match tokio::time::timeout(Duration::from_millis(300), change(&mut watch)).await {
        Ok(change) => change.map(Some),
        Err(_) => Ok(None),
    }
}

async fn a_compaction_keeps_the_newest_entries_and_deletions_stay_deleted(store: Arc<dyn Store>) {
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
