//! Follows the Ports of this host, and of every network that it carries.

use super::record::{PortKey, key};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use skysail_reconcile::Rewatch;
use skysail_schemas::PortSpec;
use skysail_schemas::port::Port;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What one watch knows. None until its first list is complete.
type Known = Option<BTreeMap<PortKey, PortSpec>>;

/// A set of Ports, followed until this is dropped.
pub struct Followed {
    known: Arc<Mutex<Known>>,
    task: JoinHandle<()>,
}

impl Followed {
    /// Follows the Ports that match `fields`; `changed` is notified of every change.
    pub fn start(client: Client, fields: String, changed: Arc<Notify>) -> Self {
        let known = Arc::new(Mutex::new(None));
        let task = tokio::spawn(follow(client, fields, known.clone(), changed));
        Self { known, task }
    }

    /// What is known now; none until the first list is complete.
    pub fn ports(&self) -> Known {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(client: Client, fields: String, known: Arc<Mutex<Known>>, changed: Arc<Notify>) {
    let config = watcher::Config::default().fields(&fields);
    let events = watcher(Api::<Port>::all(client), config).backoff(Rewatch::default());
    let mut events = std::pin::pin!(events);
    let mut listed = BTreeMap::new();
    while let Some(event) = events.next().await {
        let mut now = known.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Err(e) => {
                tracing::debug!(%fields, error = %e, "the API server does not answer; the last known Ports stand");
                continue;
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(port)) => {
                listed.insert(key(&port.spec), port.spec);
                continue;
            }
            Ok(Event::InitDone) => *now = Some(std::mem::take(&mut listed)),
            Ok(Event::Apply(port)) => {
                now.get_or_insert_default()
                    .insert(key(&port.spec), port.spec);
            }
            Ok(Event::Delete(port)) => {
                now.get_or_insert_default().remove(&key(&port.spec));
            }
        }
        drop(now);
        changed.notify_one();
    }
}
