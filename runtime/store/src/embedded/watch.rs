//! A watch is a position in the log and a prefix; nobody keeps anything for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::sync::watch as signal;
use tokio::time::Instant;

use super::Shared;
use super::state::Logged;
use crate::{Error, Event, Revision};

/// Changes looked at under one hold of the lock.
const LOOK: usize = 512;
/// A caught-up watch says so this soon when others' changes moved the store on …
const NEWS: Duration = Duration::from_millis(50);
/// … and this often when nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(1);

struct Watcher {
    shared: Arc<Shared>,
    head: signal::Receiver<Revision>,
    prefix: String,
    /// Everything up to here is in `found` or was yielded.
    position: Revision,
    found: VecDeque<Logged>,
    /// What the last event told the consumer.
    told: Revision,
    told_at: Instant,
    ended: bool,
}

/// The changes below `prefix` after revision `position`. Not polled, it costs nothing.
pub(super) fn stream(
    shared: Arc<Shared>,
    head: signal::Receiver<Revision>,
    prefix: String,
    position: Revision,
) -> impl Stream<Item = Result<Event, Error>> {
    let (found, told_at) = (VecDeque::new(), Instant::now());
    let watcher = Watcher {
        shared,
        head,
        prefix,
        position,
        found,
        told: position,
        told_at,
        ended: false,
    };
    stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        watcher.ended = event.is_err();
        Some((event, watcher))
    })
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Event, Error>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(change) = self.found.pop_front() {
                self.tell(change.revision);
                return Some(Ok(Event::Change(change.to_change())));
            }
            // A consumer that works off a long history leaves room for others.
            tokio::task::coop::consume_budget().await;
            // Marked as seen before the log is read, so that no later change is slept through.
            self.head.borrow_and_update();
            match self
                .shared
                .read()
                .changes(&self.prefix, self.position, LOOK)
            {
                Err(error) => return Some(Err(error)),
                Ok((found, position)) if position > self.position => {
                    self.found = found.into();
                    self.position = position;
                    continue;
                }
                Ok(_) => {}
            }
            let patience = if self.position > self.told {
                NEWS
            } else {
                HEARTBEAT
            };
            tokio::select! {
                changed = self.head.changed() => if changed.is_err() {
                    return Some(Err(Error::Unavailable("the store was closed".into())));
                },
                () = tokio::time::sleep_until(self.told_at + patience) => {
                    self.tell(self.position);
                    return Some(Ok(Event::Progress(self.position)));
                }
            }
        }
    }

    fn tell(&mut self, revision: Revision) {
        self.told = revision;
        self.told_at = Instant::now();
    }
}
