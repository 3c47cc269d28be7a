//! kill -9 at random moments: nothing acknowledged is lost, no revision is used twice.
//!
//! `$SKYSAIL_CRASH_KILLS` sets how often the embedded store is killed (200). The
//! killed process is this program again, running only [`writes_until_it_is_killed`].

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod backends;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use backends::etcd_process::EtcdProcess;
use bytes::Bytes;
use futures::StreamExt;
use rand::Rng;
use skysail_store::{Change, Embedded, Entry, Error, Event, Revision, Store};

const FILE: &str = "SKYSAIL_CRASH_FILE";
const WRITERS: usize = 16;

/// A write that was acknowledged: what it left at its key, `None` after a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Acknowledged {
    revision: Revision,
    key: String,
    value: Option<Bytes>,
}

impl Acknowledged {
    /// `ack REVISION KEY SERIAL LENGTH`; a deletion has neither of the last two.
    fn print(&self) -> String {
        let value = self.value.as_ref().map(|value| {
            let serial: String = value
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .map(|b| char::from(*b))
                .collect();
            format!(" {serial} {}", value.len())
        });
        format!(
            "ack {} {}{}",
            self.revision,
            self.key,
            value.unwrap_or_default()
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("ack ")?.split(' ');
        let revision = words.next()?.parse().ok()?;
        let key = words.next()?.to_owned();
        let serial: Option<u64> = words.next().map(|word| word.parse().unwrap());
        let value = serial.map(|serial| value(serial, words.next().unwrap().parse().unwrap()));
        Some(Self {
            revision,
            key,
            value,
        })
    }

    fn of(change: &Change) -> Self {
        let key = change
            .new
            .as_ref()
            .or(change.old.as_ref())
            .unwrap()
            .key
            .clone();
        Self {
            revision: change.revision,
            key,
            value: change.new.as_ref().map(|entry| entry.value.clone()),
        }
    }
}

fn value(serial: u64, length: usize) -> Bytes {
    let mut value = format!("{serial} ").into_bytes();
    value.resize(length.max(value.len()), b'x');
    value.into()
}

/// Creates, updates and deletes the keys of one writer until the store fails; then it asks again, or ends.
async fn write_on(
    store: &dyn Store,
    writer: usize,
    mut acknowledge: impl FnMut(Acknowledged) -> bool,
) {
    let mut serial = 0;
    loop {
        serial += 1;
        let (key, length, delete) = {
            let mut rng = rand::rng();
            (
                format!("/w/{writer}/{}", rng.random_range(0..5)),
                rng.random_range(20..3000),
                rng.random_ratio(1, 4),
            )
        };
        let Ok(found) = store.get(&key).await else {
            continue;
        };
        let new = value(serial, length);
        let (written, left) = match found {
            None => (store.create(&key, new.clone()).await, Some(new)),
            Some(entry) if delete => (store.delete(&key, entry.modified).await, None),
            Some(entry) => (
                store.update(&key, new.clone(), entry.modified).await,
                Some(new),
            ),
        };
        let go_on = match written {
            Ok(revision) => acknowledge(Acknowledged {
                revision,
                key,
                value: left,
            }),
            Err(Error::Unavailable(_)) => true,
            Err(other) => panic!("the only writer of {key} met {other:?}"),
        };
        if !go_on {
            return;
        }
    }
}

/// Every change up to the store's revision.
async fn history(store: &dyn Store, after: Revision) -> Vec<Change> {
    let head = store.revision().await.unwrap();
    let mut watch = store.watch("/w/", after).await.unwrap();
    let mut changes = Vec::new();
    loop {
        match watch.next().await.unwrap().unwrap() {
            Event::Change(change) => changes.push(change),
            Event::Progress(revision) if revision >= head => return changes,
            Event::Progress(_) => {}
        }
        if changes.last().is_some_and(|change| change.revision >= head) {
            return changes;
        }
    }
}

/// Do the history since `after`, the final state and what was acknowledged tell one story?
fn agree(
    before: Vec<Entry>,
    changes: &[Change],
    now: Vec<Entry>,
    acknowledged: &[Acknowledged],
    after: Revision,
) {
    let mut state: BTreeMap<String, Entry> = before
        .into_iter()
        .map(|entry| (entry.key.clone(), entry))
        .collect();
    let mut story = BTreeMap::new();
    let mut last = after;
    for change in changes {
        let seen = Acknowledged::of(change);
        assert!(
            change.revision > last,
            "revision {} comes after {last}",
            change.revision
        );
        last = change.revision;
        assert_eq!(
            state.remove(&seen.key),
            change.old,
            "old value at {}",
            change.revision
        );
        if let Some(entry) = &change.new {
            state.insert(seen.key.clone(), entry.clone());
        }
        story.insert(change.revision, seen);
    }
    assert_eq!(state.into_values().collect::<Vec<_>>(), now);
    for write in acknowledged {
        assert!(
            write.revision > after,
            "revision {} was used before {after}",
            write.revision
        );
        assert_eq!(
            story.get(&write.revision),
            Some(write),
            "acknowledged, then lost"
        );
    }
}

#[test]
#[ignore = "the victim: started by the test that kills it"]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let store = Arc::new(Embedded::open(path).unwrap());
    let opened_at = runtime.block_on(store.revision()).unwrap();
    eprintln!("open {opened_at}");
    let seen = runtime.block_on(store.watch("/w/", opened_at)).unwrap();
    // A change that a watch shows is as good as acknowledged.
    runtime.spawn(seen.for_each(|event| async move {
        if let Ok(Event::Change(change)) = event {
            eprintln!("{}", Acknowledged::of(&change).print());
        }
    }));
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        runtime.spawn(async move {
            let print = |write: Acknowledged| {
                eprintln!("{}", write.print());
                true
            };
            write_on(&*store, writer, print).await;
        });
    }
    runtime.block_on(async {
        // What came before this life is compacted while the writers write, so that sweeps are killed too.
        store.compact(opened_at).await.unwrap();
        std::future::pending::<()>().await;
    });
}

/// The writing process; killed also when the test panics.
struct Victim(Child);

impl Victim {
    fn start(path: &Path) -> (Self, mpsc::Receiver<String>) {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "writes_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(FILE, path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, printed) = mpsc::channel();
        let mut output = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut line = String::new();
            // A last line that was cut off is no acknowledgement.
            while output.read_line(&mut line).is_ok_and(|n| n > 0) && line.ends_with('\n') {
                if lines.send(line.trim_end().to_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        (Self(child), printed)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_killed_embedded_store_keeps_what_it_acknowledged_and_its_revisions() {
    let kills = std::env::var("SKYSAIL_CRASH_KILLS").map_or(200, |n| n.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let (mut before, mut head, mut written) = (Vec::new(), 0, 0);
    for round in 0..kills {
        let (victim, printed) = Victim::start(&path);
        let mut lines = Vec::new();
        // Half of them die while opening or soon after, half while writing.
        if round % 2 == 0 {
            lines.extend(printed.recv_timeout(Duration::from_secs(60)).ok());
        }
        if round == 0 {
            let refused = Embedded::open(&path)
                .err()
                .expect("a refusal: the other process has it")
                .to_string();
            assert!(refused.contains("in use by another process"), "{refused}");
        }
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..120)));
        drop(victim);
        lines.extend(printed);
        let acknowledged: Vec<_> = lines
            .iter()
            .filter_map(|line| Acknowledged::parse(line))
            .collect();
        let complaint = lines.iter().find(|line| line.contains("panicked"));
        assert_eq!(complaint, None, "{lines:#?}");

        let store = Embedded::open(&path).unwrap();
        let changes = history(&store, head).await;
        let now = store.list("", None, 0, None).await.unwrap();
        agree(before, &changes, now.entries.clone(), &acknowledged, head);
        (before, head) = (now.entries, now.revision);
        written += acknowledged.len();
    }
    println!("{kills} kills, {written} acknowledgements and sightings, revision {head}");
    assert!(written > kills, "the kills came too early to mean anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_etcd_keeps_what_it_acknowledged_and_its_watches_go_on() {
    let mut process = EtcdProcess::start();
    let store = Arc::new(backends::connect(&process).await);
    let start = store.revision().await.unwrap();
    let acknowledged = Arc::new(Mutex::new(Some(Vec::new())));
    let writers = (0..WRITERS / 4).map(|writer| {
        let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            let note = |write| {
                acknowledged
                    .lock()
                    .unwrap()
                    .as_mut()
                    .map(|all| all.push(write))
                    .is_some()
            };
            write_on(&*store, writer, note).await;
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut watch = store.watch("/w/", start).await.unwrap();
    let count = || acknowledged.lock().unwrap().as_ref().map_or(0, Vec::len);
    for _ in 0..10 {
        let (already, waited) = (count(), Instant::now());
        while count() < already + 50 {
            assert!(
                waited.elapsed() < Duration::from_secs(60),
                "writes go on after a restart"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // On this thread: the process dies with the thread that started it.
        process.kill_and_restart();
    }
    let acknowledged = acknowledged.lock().unwrap().take().unwrap();
    futures::future::join_all(writers)
        .await
        .into_iter()
        .for_each(|writer| writer.unwrap());
    let changes = history(&*store, start).await;
    let now = store.list("/w/", None, 0, None).await.unwrap();
    agree(Vec::new(), &changes, now.entries, &acknowledged, start);
    let mut watched = Vec::new();
    while watched.len() < changes.len() {
        if let Event::Change(change) = watch.next().await.unwrap().unwrap() {
            watched.push(change);
        }
    }
    assert_eq!(
        watched, changes,
        "the watch that lived through every restart"
    );
    println!(
        "10 kills, {} acknowledgements, {} changes",
        acknowledged.len(),
        changes.len()
    );
}
