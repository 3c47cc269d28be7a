//! What the server does by itself: garbage, namespaces, old Events, old history.
//!
//! Follows the cache as a client's watch would and deletes through [`crate::write`],
//! so that its deletions obey the same rules as everybody's.

mod garbage;
pub(crate) mod namespaces;

use crate::state::State;
use crate::state::cache::{Change, Object, PREFIX};
use crate::write::delete::{DeleteOptions, delete};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Between passes over everything when nothing changes.
const RESYNC: Duration = Duration::from_secs(60);
/// Before a failed pass is repeated.
const RETRY: Duration = Duration::from_millis(250);
/// Changes within this time are looked at together.
const GATHER: Duration = Duration::from_millis(50);
/// How much history the store keeps, and how often older history is dropped.
const HISTORY: Duration = Duration::from_secs(300);

/// Starts all tasks; they end with the server.
pub(crate) fn start(state: &Arc<State>, event_ttl: Duration) {
    spawn(state, collecting(state.clone()));
    spawn(state, sweeping(state.clone()));
    spawn(state, Box::pin(expiring(state.clone(), event_ttl)));
    spawn(state, Box::pin(compacting(state.clone())));
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn spawn(state: &Arc<State>, task: Task) {
    let stop = state.stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

fn collecting(state: Arc<State>) -> Task {
    Box::pin(async move {
        loop {
            let seen = state.cache.revision();
            let again = garbage::collect(&state).await;
            wait(&state, seen, again, |c| goes(c) || owned(c)).await;
        }
    })
}

fn sweeping(state: Arc<State>) -> Task {
    Box::pin(async move {
        loop {
            let seen = state.cache.revision();
            let again = namespaces::sweep(&state).await;
            wait(&state, seen, again, goes).await;
        }
    })
}

/// Something is deleted, or begins to be.
fn goes(change: &Change) -> bool {
    change
        .new
        .as_ref()
        .is_none_or(|o| o.value["metadata"].get("deletionTimestamp").is_some())
}

/// Something has an owner since now.
fn owned(change: &Change) -> bool {
    let owners = |o: &Option<Arc<Object>>| {
        o.as_ref()
            .and_then(|o| o.value["metadata"].get("ownerReferences").cloned())
    };
    let new = owners(&change.new);
    new.is_some() && new != owners(&change.old)
}

/// Until something that matters changes after revision `seen`, or it is time to look at everything again.
async fn wait(state: &State, mut seen: u64, again: bool, matters: impl Fn(&Change) -> bool) {
    let mut revisions = state.cache.subscribe();
    let until = tokio::time::Instant::now() + if again { RETRY } else { RESYNC };
    loop {
        let gone = revisions.wait_for(|r| *r > seen);
        match tokio::time::timeout_at(until, gone).await {
            Ok(Ok(_)) => {}
            // The time is over, or the cache is gone and so is the server.
            Ok(Err(_)) | Err(_) => return,
        }
        let Ok((changes, upto)) = state.cache.changes(PREFIX, seen, usize::MAX) else {
            return;
        };
        seen = upto;
        if changes.iter().any(&matters) {
            // Changes come in bursts: one pass for all of one.
            tokio::time::sleep(GATHER).await;
            return;
        }
    }
}

/// When an Event was last seen, by its newest timestamp.
fn last_seen(event: &serde_json::Value) -> Option<Timestamp> {
    let series = event["series"]["lastObservedTime"].as_str();
    let times = [
        series,
        event["lastTimestamp"].as_str(),
        event["eventTime"].as_str(),
    ];
    let created = event["metadata"]["creationTimestamp"].as_str();
    times
        .into_iter()
        .chain([created])
        .flatten()
        .filter_map(|t| t.parse().ok())
        .max()
}

/// Deletes Events that were last seen longer than `ttl` ago.
async fn expiring(state: Arc<State>, ttl: Duration) {
    let Some(kind) = state.kinds.find("", "v1", "events") else {
        return;
    };
    loop {
        let oldest = Timestamp::now().checked_sub(ttl).unwrap_or(Timestamp::MIN);
        for event in state.cache.range(&kind.prefix()) {
            if last_seen(&event.value).is_some_and(|seen| seen < oldest) {
                let options = DeleteOptions {
                    uid: Some(event.meta("uid").into()),
                    ..DeleteOptions::default()
                };
                let result = delete(
                    &state,
                    kind,
                    event.meta("namespace"),
                    event.meta("name"),
                    &options,
                )
                .await;
                if let Err(failure) = result {
                    tracing::debug!(key = event.key, %failure, "cannot delete an old event");
                }
            }
        }
        tokio::time::sleep(RESYNC).await;
    }
}

async fn compacting(state: Arc<State>) {
    loop {
        let revision = state.cache.revision();
        tokio::time::sleep(HISTORY).await;
        if let Err(error) = state.store.compact(revision).await {
            tracing::debug!(%error, revision, "history not compacted");
        }
    }
}
