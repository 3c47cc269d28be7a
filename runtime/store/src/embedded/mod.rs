//! The store in one file, for a single control-plane process.
//!
//! One thread commits: it takes whatever writes are queued, decides each against
//! the state and its predecessors in the batch, appends the accepted ones to SQLite
//! in one transaction (one fsync for all of them) and only then publishes and
//! acknowledges. The state in memory, a sorted map and a log of the changes since
//! `floor`, serves every read and every watch; the file is read once, on opening.
//!
//! Invariants:
//! - One revision is one change, without gaps, allocated inside the transaction that stores it.
//! - Nothing is visible before it is durable.
//! - One floor, for lists and watches of every prefix: compaction raises it, and so does a log
//!   that outgrows [`History`]. At or above it every answer is complete; below it, [`Error::Compacted`].

mod commit;
mod disk;
mod state;
mod watch;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch as signal};

use crate::{Entry, Error, Event, MAX_VALUE, Page, Revision, Store};
use commit::{Job, Write};
use disk::Disk;
use state::State;

/// How much history is kept for watches and paged lists when nobody compacts.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// Number of changes.
    pub changes: usize,
    /// Size of their keys and values, in bytes; the newest change is kept however large it is.
    pub bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self {
            changes: 100_000,
            bytes: 256 << 20,
        }
    }
}

/// What readers and the committing thread share.
struct Shared {
    state: RwLock<State>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The embedded store. Dropping it commits what is queued and closes the file.
pub struct Embedded {
    shared: Arc<Shared>,
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    head: signal::Receiver<Revision>,
    committer: Option<JoinHandle<()>>,
}

/// Writes that wait for the committing thread at most; more make their callers wait.
const QUEUE: usize = 4096;

impl Embedded {
    /// Opens or creates the file. Fails with [`Error::Unavailable`] when it cannot be read or written, or when
    /// another process, or another store in this one, has it open.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, History::default())
    }

    /// [`Embedded::open`] with another bound on the history.
    pub fn open_with(path: impl AsRef<Path>, history: History) -> Result<Self, Error> {
        let (disk, state) = Disk::open(path.as_ref(), history)?;
        Self::start(Some(disk), state)
    }

    /// An empty store without a file: the same semantics, for tests and simulation.
    pub fn in_memory() -> Result<Self, Error> {
        Self::start(None, State::new(History::default()))
    }

    fn start(disk: Option<Disk>, state: State) -> Result<Self, Error> {
        let (announce, head) = signal::channel(state.head());
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
        });
        let (jobs, queue) = mpsc::channel(QUEUE);
        let committer = commit::spawn(Arc::clone(&shared), queue, announce, disk)
            .map_err(|e| Error::Unavailable(format!("cannot start the committing thread: {e}")))?;
        Ok(Self {
            shared,
            jobs: Some(jobs),
            head,
            committer: Some(committer),
        })
    }

    async fn submit<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Job,
    ) -> Result<T, Error> {
        let stopped = || {
            Error::Unavailable(
                "the store's committing thread has ended; open the store again".into(),
            )
        };
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn write(&self, key: &str, write: Write) -> Result<Revision, Error> {
        let key = key.to_owned();
        self.submit(|reply| Job::Write { key, write, reply }).await
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.committer.take() {
            // A panic there was already reported to every waiting writer.
            let _ = thread.join();
        }
    }
}

fn check_size(value: &Bytes) -> Result<(), Error> {
    if value.len() > MAX_VALUE {
        Err(Error::TooLarge(value.len()))
    } else {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.shared.read().head())
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let found = self.shared.read().get(key);
        Ok(found.map(|entry| Entry::clone(&entry)))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        // Copies are made outside the lock.
        let slice = self.shared.read().list(prefix, after, limit, at)?;
        let entries = slice
            .entries
            .iter()
            .map(|entry| Entry::clone(entry))
            .collect();
        Ok(Page {
            entries,
            revision: slice.revision,
            remaining: slice.remaining,
        })
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, Error> {
        check_size(&value)?;
        self.write(key, Write::Create(value)).await
    }

    async fn update(&self, key: &str, value: Bytes, expected: Revision) -> Result<Revision, Error> {
        check_size(&value)?;
        self.write(key, Write::Update { value, expected }).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, Error> {
        self.write(key, Write::Delete { expected }).await
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<Event, Error>>, Error> {
        self.shared.read().check(after)?;
        Ok(watch::stream(
            Arc::clone(&self.shared),
            self.head.clone(),
            prefix.to_owned(),
            after,
        )
        .boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.submit(|reply| Job::Compact { revision, reply }).await
    }
}
