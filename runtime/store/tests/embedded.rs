//! What only the store in a file can show: the file.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bytes::Bytes;
use futures::StreamExt;
use skysail_store::embedded::History;
use skysail_store::{Embedded, Error, Event, Revision, Store};

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    (directory, path)
}

async fn churn(store: &Embedded, key: &str, times: usize) -> Revision {
    let mut last = store.create(key, Bytes::from_static(b"0")).await.unwrap();
    for n in 1..times {
        last = store
            .update(key, Bytes::from(n.to_string()), last)
            .await
            .unwrap();
    }
    last
}

/// The next `count` changes after `after`, as `key@old→new`.
async fn changes(store: &Embedded, after: Revision, count: usize) -> Vec<String> {
    let watch = store.watch("", after).await.unwrap();
    let changes = watch.filter_map(|event| async move {
        let Event::Change(change) = event.unwrap() else {
            return None;
        };
        let key = change
            .new
            .as_ref()
            .or(change.old.as_ref())
            .unwrap()
            .key
            .clone();
        let at = |entry: Option<skysail_store::Entry>| entry.map_or(0, |e| e.modified);
        Some(format!("{key}@{}→{}", at(change.old), at(change.new)))
    });
    changes.take(count).collect().await
}

#[tokio::test]
async fn a_reopened_store_knows_its_entries_its_revision_and_its_history() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    let a = churn(&store, "/a", 3).await;
    let b = churn(&store, "/b", 2).await;
    let gone = store.delete("/a", a).await.unwrap();
    let (before, old) = (
        store.list("", None, 0, None).await.unwrap(),
        store.list("", None, 0, Some(4)).await.unwrap(),
    );
    drop(store);
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.list("", None, 0, None).await.unwrap(), before);
    assert_eq!(store.list("", None, 0, Some(4)).await.unwrap(), old);
    assert_eq!(
        (before.revision, store.revision().await.unwrap()),
        (gone, gone)
    );
    assert_eq!(
        changes(&store, 2, 4).await,
        ["/a@2→3", "/b@0→4", "/b@4→5", "/a@3→0"]
    );
    assert_eq!(store.update("/b", Bytes::new(), b).await.unwrap(), gone + 1);
}

#[tokio::test]
async fn a_revision_is_not_used_again_when_everything_was_deleted_and_compacted() {
    let (_directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    let last = churn(&store, "/a", 5).await;
    let gone = store.delete("/a", last).await.unwrap();
    store.compact(gone).await.unwrap();
    drop(store);
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.revision().await.unwrap(), gone);
    assert!(
        store
            .list("", None, 0, None)
            .await
            .unwrap()
            .entries
            .is_empty()
    );
    assert!(
        matches!(store.watch("", gone - 1).await.err(), Some(Error::Compacted(floor)) if floor == gone)
    );
    assert_eq!(store.create("/a", Bytes::new()).await.unwrap(), gone + 1);
    assert_eq!(
        changes(&store, gone, 1).await,
        [format!("/a@0→{}", gone + 1)]
    );
}

#[tokio::test]
async fn compaction_gives_space_back_for_new_writes() {
    let (_directory, path) = file();
    let value = Bytes::from(vec![b'x'; 10_000]);
    let mut sizes = Vec::new();
    let mut store = Embedded::open(&path).unwrap();
    let mut last = store.create("/a", value.clone()).await.unwrap();
    for _ in 0..3 {
        for _ in 0..300 {
            last = store.update("/a", value.clone(), last).await.unwrap();
        }
        store.compact(last).await.unwrap();
        drop(store);
        sizes.push(std::fs::metadata(&path).unwrap().len());
        store = Embedded::open(&path).unwrap();
    }
    assert!(sizes[2] < sizes[0] * 3 / 2, "{sizes:?}");
}

#[tokio::test]
async fn a_short_history_forgets_by_itself_and_its_watchers_learn_it() {
    let (_directory, path) = file();
    let history = History {
        changes: 10,
        bytes: usize::MAX,
    };
    let store = Embedded::open_with(&path, history).unwrap();
    let last = churn(&store, "/a", 50).await;
    let mut slow = store.watch("", last - 10).await.unwrap();
    let last = churn(&store, "/b", 50).await;
    assert!(matches!(slow.next().await, Some(Err(Error::Compacted(floor))) if floor == last - 10));
    assert!(
        slow.next().await.is_none(),
        "the stream ends after an error"
    );
    drop(store);
    let store = Embedded::open_with(&path, history).unwrap();
    assert_eq!(
        store.list("", None, 0, None).await.unwrap().entries.len(),
        2
    );
    assert_eq!(changes(&store, last - 10, 10).await.len(), 10);
}

#[tokio::test]
async fn a_watch_ends_with_an_error_when_the_store_is_closed() {
    let store = Embedded::in_memory().unwrap();
    let mut watch = store.watch("", 0).await.unwrap();
    store.create("/a", Bytes::new()).await.unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Some(Ok(Event::Change(change))) if change.revision == 1));
    assert!(matches!(
        watch.next().await,
        Some(Err(Error::Unavailable(_)))
    ));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_closed_store_is_one_file_for_its_owner_only() {
    let (directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    churn(&store, "/a", 5).await;
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            file.path()
        );
    }
    drop(store);
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert_eq!(left, [path]);
}

fn refusal(path: &std::path::Path) -> String {
    Embedded::open(path).err().expect("a refusal").to_string()
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_with_what_to_do() {
    let (directory, path) = file();
    let store = Embedded::open(&path).unwrap();
    assert!(
        refusal(&path).contains("in use by another process"),
        "{}",
        refusal(&path)
    );
    drop(store);
    let text = directory.path().join("text");
    std::fs::write(
        &text,
        "this is not a database, but it is long enough to look at ".repeat(100),
    )
    .unwrap();
    assert!(
        refusal(&text).contains("is not a store file"),
        "{}",
        refusal(&text)
    );
    let nowhere = directory.path().join("no/such/store.db");
    assert!(
        refusal(&nowhere).contains("directory must exist"),
        "{}",
        refusal(&nowhere)
    );
    assert!(
        refusal(directory.path()).contains("cannot open"),
        "{}",
        refusal(directory.path())
    );
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(
        refusal(&path).contains("use a newer version"),
        "{}",
        refusal(&path)
    );
}
