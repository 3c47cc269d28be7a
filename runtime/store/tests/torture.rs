//! Many writers and watchers, disconnects, compactions, restarts: whatever happens,
//! each watcher's picture is the store's, without a gap or a repeat on the way.
//!
//! `$SKYSAIL_SEED` repeats the random choices of a run (their order in time is the
//! scheduler's); the seed is printed. `$SKYSAIL_TORTURE_SECONDS` sets the length (8).

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod backends;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backends::etcd_process::EtcdProcess;
use bytes::Bytes;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skysail_store::embedded::History;
use skysail_store::{Change, Embedded, Entry, Error, Event, Revision, Store};
use tokio::sync::{RwLock, RwLockReadGuard};

const WRITERS: u64 = 6;
const WATCHERS: u64 = 12;
const GROUPS: usize = 4;
const KEYS: usize = 12;

/// A store that can be taken away and come back.
enum Backend {
    Embedded(PathBuf),
    Etcd(EtcdProcess),
}

impl Backend {
    async fn open(&self) -> Arc<dyn Store> {
        match self {
            // So short a history that slow watchers fall off it.
            Self::Embedded(path) => Arc::new(
                Embedded::open_with(
                    path,
                    History {
                        changes: 2000,
                        bytes: 1 << 20,
                    },
                )
                .unwrap(),
            ),
            Self::Etcd(process) => Arc::new(backends::connect(process).await),
        }
    }

    fn restart(&mut self) {
        if let Self::Etcd(process) = self {
            process.kill_and_restart();
        }
    }
}

/// What everybody in one run shares.
struct World {
    /// Whoever uses the store reads; a restart takes it away from all.
    store: RwLock<Option<Arc<dyn Store>>>,
    writing: AtomicBool,
    /// The revision after the last write; 0 while there are writers.
    last: AtomicU64,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    writes: AtomicU64,
    changes: AtomicU64,
    listings: AtomicU64,
    resumed: AtomicU64,
    compacted: AtomicU64,
    broken: AtomicU64,
    restarts: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl World {
    /// The store, for one use; it is never away for longer than a restart.
    async fn store(&self) -> RwLockReadGuard<'_, dyn Store> {
        RwLockReadGuard::map(self.store.read().await, |store| &**store.as_ref().unwrap())
    }
}

async fn write(world: Arc<World>, mut rng: StdRng) {
    while world.writing.load(Ordering::Relaxed) {
        match write_once(&*world.store().await, &mut rng).await {
            Ok(_) => count(&world.tally.writes),
            Err(Error::Conflict { .. } | Error::Exists { .. } | Error::Unavailable(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}

async fn write_once(store: &dyn Store, rng: &mut StdRng) -> Result<Revision, Error> {
    let key = format!(
        "/t/{}/{}",
        rng.random_range(0..GROUPS),
        rng.random_range(0..KEYS)
    );
    let (delete, stale) = (rng.random_ratio(1, 3), rng.random_ratio(1, 20));
    let value = Bytes::from(vec![b'v'; rng.random_range(0..300)]);
    match store.get(&key).await? {
        None => store.create(&key, value).await,
        Some(entry) if stale => {
            store
                .update(&key, value, entry.modified.saturating_sub(1))
                .await
        }
        Some(entry) if delete => store.delete(&key, entry.modified).await,
        Some(entry) => store.update(&key, value, entry.modified).await,
    }
}

async fn compact(world: Arc<World>, mut rng: StdRng) {
    while world.writing.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..300))).await;
        let store = world.store().await;
        let Ok(head) = store.revision().await else {
            continue;
        };
        // Now and then so near that those who have just hung up miss something.
        let kept = if rng.random_bool(0.5) { 10 } else { 400 };
        let done = store
            .compact(head.saturating_sub(rng.random_range(0..kept)))
            .await;
        assert!(
            matches!(done, Ok(()) | Err(Error::Unavailable(_))),
            "{done:?}"
        );
    }
}

/// What a watcher believes.
struct Picture {
    prefix: String,
    entries: BTreeMap<String, Entry>,
    revision: Revision,
}

impl Picture {
    async fn list(&mut self, store: &dyn Store, rng: &mut StdRng) -> Result<(), Error> {
        let limit = rng.random_range(0..20);
        let mut page = store.list(&self.prefix, None, limit, None).await?;
        let (revision, mut entries) = (page.revision, std::mem::take(&mut page.entries));
        while page.remaining > 0 {
            let after = entries.last().map(|entry| entry.key.clone());
            page = store
                .list(&self.prefix, after.as_deref(), limit, Some(revision))
                .await?;
            assert_eq!(page.revision, revision, "all pages show one revision");
            entries.append(&mut page.entries);
        }
        assert!(
            revision >= self.revision,
            "the store went back from {} to {revision}",
            self.revision
        );
        assert!(entries.is_sorted_by(|a, b| a.key < b.key));
        assert!(entries.iter().all(|entry| entry.modified <= revision));
        self.entries = entries
            .into_iter()
            .map(|entry| (entry.key.clone(), entry))
            .collect();
        self.revision = revision;
        Ok(())
    }

    fn change(&mut self, change: Change) {
        let key = change
            .new
            .as_ref()
            .or(change.old.as_ref())
            .unwrap()
            .key
            .clone();
        assert!(
            change.revision > self.revision,
            "{key}: {} after {}",
            change.revision,
            self.revision
        );
        assert!(
            key.starts_with(&self.prefix),
            "{key} is not below {}",
            self.prefix
        );
        // A gap would show as another old value.
        assert_eq!(
            self.entries.get(&key),
            change.old.as_ref(),
            "{key} before {}",
            change.revision
        );
        match change.new {
            Some(entry) => {
                assert_eq!((&entry.key, entry.modified), (&key, change.revision));
                assert_eq!(
                    entry.created,
                    change.old.map_or(change.revision, |old| old.created)
                );
                self.entries.insert(key, entry);
            }
            None => {
                self.entries.remove(&key);
            }
        }
        self.revision = change.revision;
    }

    fn progress(&mut self, revision: Revision) {
        assert!(
            revision >= self.revision,
            "progress went back from {} to {revision}",
            self.revision
        );
        self.revision = revision;
    }
}

/// Lists, watches, hangs up, resumes or lists again, until it has seen the last write.
async fn watch(world: Arc<World>, mut rng: StdRng) -> Picture {
    let prefix = if rng.random_bool(0.3) {
        "/t/".into()
    } else {
        format!("/t/{}/", rng.random_range(0..GROUPS))
    };
    let mut picture = Picture {
        prefix,
        entries: BTreeMap::new(),
        revision: 0,
    };
    let slow = rng.random_bool(0.3);
    let mut known = false;
    while !saw_all(&world, &picture) {
        if !known {
            count(&world.tally.listings);
            let listed = picture.list(&*world.store().await, &mut rng).await;
            known = listed.is_ok();
        } else {
            known = follow(&world, &mut picture, &mut rng, slow).await;
        }
    }
    picture
}

fn saw_all(world: &World, picture: &Picture) -> bool {
    let last = world.last.load(Ordering::Acquire);
    last > 0 && picture.revision >= last
}

/// One connection; may the next one go on where it ended?
async fn follow(world: &World, picture: &mut Picture, rng: &mut StdRng, slow: bool) -> bool {
    let opened = world
        .store()
        .await
        .watch(&picture.prefix, picture.revision)
        .await;
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) => return resumable(world, &error),
    };
    count(&world.tally.resumed);
    let hang_up_after = rng.random_range(1..400);
    for _ in 0..hang_up_after {
        match stream.next().await.expect("an error comes before the end") {
            Ok(Event::Change(change)) => picture.change(change),
            Ok(Event::Progress(revision)) => picture.progress(revision),
            Err(error) => {
                assert!(
                    stream.next().await.is_none(),
                    "the stream ends after an error"
                );
                return resumable(world, &error);
            }
        }
        count(&world.tally.changes);
        if saw_all(world, picture) {
            break;
        }
        if slow && rng.random_ratio(1, 50) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        }
    }
    rng.random_bool(0.9)
}

fn resumable(world: &World, error: &Error) -> bool {
    match error {
        Error::Unavailable(_) => count(&world.tally.broken),
        Error::Compacted(_) => count(&world.tally.compacted),
        other => panic!("{other:?}"),
    }
    matches!(error, Error::Unavailable(_))
}

async fn torture(mut backend: Backend) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let seed = number("SKYSAIL_SEED").unwrap_or_else(|| rand::rng().random());
    let length = Duration::from_secs(number("SKYSAIL_TORTURE_SECONDS").unwrap_or(8));
    println!("SKYSAIL_SEED={seed}");
    let world = Arc::new(World {
        store: RwLock::new(Some(backend.open().await)),
        writing: AtomicBool::new(true),
        last: AtomicU64::new(0),
        tally: Tally::default(),
    });
    let rng = |actor: u64| StdRng::seed_from_u64(seed.wrapping_add(actor));
    let mut writers: Vec<_> = (0..WRITERS)
        .map(|n| tokio::spawn(write(Arc::clone(&world), rng(100 + n))))
        .collect();
    writers.push(tokio::spawn(compact(Arc::clone(&world), rng(200))));
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|n| tokio::spawn(watch(Arc::clone(&world), rng(n))))
        .collect();

    let started = Instant::now();
    let mut chaos = rng(300);
    while started.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(chaos.random_range(200..1500))).await;
        let mut store = world.store.write().await;
        *store = None;
        // On this thread: an etcd dies with the thread that started it.
        backend.restart();
        *store = Some(backend.open().await);
        count(&world.tally.restarts);
    }
    world.writing.store(false, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let store = Arc::clone(world.store.read().await.as_ref().unwrap());
    let last = store.revision().await.unwrap();
    world.last.store(last, Ordering::Release);
    for watcher in watchers {
        let picture = tokio::time::timeout(Duration::from_secs(30), watcher)
            .await
            .expect("it sees the end")
            .unwrap();
        let page = store
            .list(&picture.prefix, None, 0, Some(last))
            .await
            .unwrap();
        assert_eq!(
            picture.entries.into_values().collect::<Vec<_>>(),
            page.entries,
            "{}",
            picture.prefix
        );
    }
    println!("revision {last}, {:?}", world.tally);
    let writes = world.tally.writes.load(Ordering::Relaxed);
    assert!(writes > 100, "{writes} writes are too few to mean anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_tortured_embedded_store_see_it_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    torture(Backend::Embedded(directory.path().join("store.db"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_tortured_etcd_see_it_as_it_is() {
    torture(Backend::Etcd(EtcdProcess::start())).await;
}
