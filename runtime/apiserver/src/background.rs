//! What the server does by itself: garbage, namespaces, old Events, old history.

use crate::collector;
use crate::delete::{DeleteOptions, delete};
use crate::namespaces;
use crate::server::Inner;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Between passes over everything when nothing changes.
const RESYNC: Duration = Duration::from_secs(60);
/// Before a failed pass is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// Changes within this time are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// How much history the store keeps, and how often older history is dropped.
const HISTORY: Duration = Duration::from_secs(300);

/// Starts all tasks; they end with the server.
pub(crate) fn start(server: &Arc<Inner>) {
    for task in [collecting as fn(Arc<Inner>) -> _, sweeping] {
        spawn(server, task(server.clone()));
    }
    spawn(server, Box::pin(expiring(server.clone())));
    spawn(server, Box::pin(compacting(server.clone())));
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn spawn(server: &Arc<Inner>, task: Task) {
    let stop = server.stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

fn collecting(server: Arc<Inner>) -> Task {
    Box::pin(async move {
        let mut seen = server.cache.subscribe();
        loop {
            seen.borrow_and_update();
            let again = collector::collect(&server).await;
            wait(&mut seen, if again { RETRY } else { RESYNC }).await;
        }
    })
}

fn sweeping(server: Arc<Inner>) -> Task {
    Box::pin(async move {
        let mut seen = server.cache.subscribe();
        loop {
            seen.borrow_and_update();
            let again = namespaces::sweep(&server).await;
            wait(&mut seen, if again { RETRY } else { RESYNC }).await;
        }
    })
}

/// Until something changes, at most `most`; then a moment more, since changes come in bursts.
async fn wait(seen: &mut tokio::sync::watch::Receiver<u64>, most: Duration) {
    if let Ok(Ok(())) = tokio::time::timeout(most, seen.changed()).await {
        tokio::time::sleep(GATHER).await;
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

async fn expiring(server: Arc<Inner>) {
    let Some(kind) = server.kinds.find("", "v1", "events") else {
        return;
    };
    loop {
        let oldest = Timestamp::now()
            .checked_sub(server.config.event_ttl)
            .unwrap_or(Timestamp::MIN);
        for event in server.cache.range(&kind.prefix()) {
            if last_seen(&event.value).is_some_and(|seen| seen < oldest) {
                let options = DeleteOptions {
                    uid: Some(event.meta("uid").into()),
                    ..DeleteOptions::default()
                };
                let result = delete(
                    &server,
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

async fn compacting(server: Arc<Inner>) {
    loop {
        let revision = server.cache.revision();
        tokio::time::sleep(HISTORY).await;
        if let Err(error) = server.store.compact(revision).await {
            tracing::debug!(%error, revision, "history not compacted");
        }
    }
}
