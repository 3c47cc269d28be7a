//! The one thread that writes: decides, stores, publishes, acknowledges, in this order.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch as signal};

use super::Shared;
use super::disk::Disk;
use super::state::Logged;
use crate::{Entry, Error, Revision};

/// What a writer gets back.
type Answer = Result<Revision, Error>;

/// What one write wants.
pub(super) enum Write {
    Create(Bytes),
    Update { value: Bytes, expected: Revision },
    Delete { expected: Revision },
}

/// Work for the committing thread.
pub(super) enum Job {
    Write {
        key: String,
        write: Write,
        reply: oneshot::Sender<Answer>,
    },
    Compact {
        revision: Revision,
        reply: oneshot::Sender<Result<(), Error>>,
    },
}

/// Writes in one transaction at most: bounds the latency of the first of them.
const BATCH: usize = 512;
/// Revisions whose superseded rows one transaction deletes, so that compaction never holds up writes.
const SWEEP: Revision = 1000;

/// Starts the thread; it ends when every sender of `jobs` is gone and the queue is empty.
pub(super) fn spawn(
    shared: Arc<Shared>,
    jobs: mpsc::Receiver<Job>,
    head: signal::Sender<Revision>,
    disk: Option<Disk>,
) -> std::io::Result<JoinHandle<()>> {
    let committer = Committer {
        shared,
        head,
        disk,
        failed: None,
    };
    std::thread::Builder::new()
        .name("store-commit".into())
        .spawn(move || committer.run(jobs))
}

struct Committer {
    shared: Arc<Shared>,
    head: signal::Sender<Revision>,
    disk: Option<Disk>,
    /// Why nothing can be written any more: after a failed commit nobody knows what the file holds.
    failed: Option<String>,
}

/// Writes decided but not yet durable.
#[derive(Default)]
struct Batch {
    changes: Vec<Logged>,
    /// What the changes leave at their keys.
    pending: HashMap<String, Option<Arc<Entry>>>,
    replies: Vec<(oneshot::Sender<Answer>, Answer)>,
}

impl Committer {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut queued = Vec::new();
        let mut stored = true;
        loop {
            // While rows wait to be swept, an empty queue is no reason to wait; a failed sweep is.
            let sweep = stored && jobs.is_empty() && self.sweep_pending();
            if !sweep && jobs.blocking_recv_many(&mut queued, BATCH) == 0 {
                break;
            }
            stored = self.round(queued.drain(..));
        }
        if let Some(disk) = self.disk.take() {
            disk.close();
        }
    }

    /// Takes one batch from decision to acknowledgement; was it stored?
    fn round(&mut self, jobs: impl Iterator<Item = Job>) -> bool {
        let mut batch = Batch::default();
        for job in jobs {
            match job {
                Job::Write { key, write, reply } => self.decide(&mut batch, key, write, reply),
                Job::Compact { revision, reply } => {
                    // A caller that went away does not need the answer; the same below.
                    let _ = reply.send(self.compact(revision));
                }
            }
        }
        if let Err(error) = self.store(&batch.changes) {
            for (reply, _) in batch.replies {
                let _ = reply.send(Err(Error::Unavailable(error.clone())));
            }
            return false;
        }
        self.publish(batch.changes);
        for (reply, answer) in batch.replies {
            let _ = reply.send(answer);
        }
        true
    }

    fn decide(&self, batch: &mut Batch, key: String, write: Write, reply: oneshot::Sender<Answer>) {
        let state = self.shared.read();
        let old = batch
            .pending
            .get(&key)
            .cloned()
            .unwrap_or_else(|| state.get(&key));
        let revision = state.head() + 1 + batch.changes.len() as Revision;
        let answer = decide(&key, old.as_ref(), write, revision).map(|new| {
            let new = new.map(Arc::new);
            batch.pending.insert(key, new.clone());
            batch.changes.push(Logged { revision, new, old });
            revision
        });
        // Also a refusal waits for the commit: it may rest on a write of this batch.
        batch.replies.push((reply, answer));
    }

    fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut state = self
            .shared
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if revision > state.head() {
            return Err(Error::Future {
                asked: revision,
                current: state.head(),
            });
        }
        state.compact(revision);
        Ok(())
    }

    fn sweep_pending(&self) -> bool {
        let floor = self.shared.read().floor();
        self.failed.is_none() && self.disk.as_ref().is_some_and(|disk| disk.floor() < floor)
    }

    fn store(&mut self, changes: &[Logged]) -> Result<(), String> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        let floor = self.shared.read().floor();
        let Some(disk) = &mut self.disk else {
            return Ok(());
        };
        let floor = floor.min(disk.floor() + SWEEP);
        disk.append(changes, floor).map_err(|failure| {
            if failure.undone {
                return failure.message;
            }
            let why = format!("{}; restart to read the file again", failure.message);
            tracing::error!(error = %why, "the store stops writing");
            self.failed = Some(why.clone());
            why
        })
    }

    fn publish(&self, changes: Vec<Logged>) {
        let Some(last) = changes.last().map(|change| change.revision) else {
            return;
        };
        {
            let mut state = self
                .shared
                .state
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            changes.into_iter().for_each(|change| state.apply(change));
        }
        self.head.send_replace(last);
    }
}

/// What `write` leaves at `key`, or why it may not.
fn decide(
    key: &str,
    old: Option<&Arc<Entry>>,
    write: Write,
    revision: Revision,
) -> Result<Option<Entry>, Error> {
    let expect = |expected: Revision| match old {
        Some(entry) if entry.modified == expected => Ok(entry),
        other => Err(Error::Conflict {
            key: key.to_owned(),
            current: other.map(|e| Entry::clone(e)),
        }),
    };
    match write {
        Write::Create(value) => match old {
            None => Ok(Some(Entry {
                key: key.to_owned(),
                value,
                created: revision,
                modified: revision,
            })),
            Some(entry) => Err(Error::Exists {
                key: key.to_owned(),
                current: Entry::clone(entry),
            }),
        },
        Write::Update { value, expected } => {
            let created = expect(expected)?.created;
            Ok(Some(Entry {
                key: key.to_owned(),
                value,
                created,
                modified: revision,
            }))
        }
        Write::Delete { expected } => expect(expected).map(|_| None),
    }
}
