//! All current objects and one log of what changed lately, fed by one store watch.
//!
//! Invariants: `objects` is the store at `revision`; `log` holds every change after
//! `floor` up to `revision`, in order. Watchers keep only a position in the log, so a
//! slow one costs nothing until it falls off its end (410). An object is parsed and
//! encoded once, here, and shared by every list and watcher.

use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use skysail_store::{Change as StoreChange, Entry, Error, Event, Revision, Store};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Below this prefix lives everything of ours.
pub const PREFIX: &str = "/skysail/";
/// How many changes the log keeps by default. At a steady 200 writes a second that is over 5 minutes.
pub const LOG_LENGTH: usize = 65_536;
/// How long a read waits for the cache to catch up with the store.
const CATCH_UP: Duration = Duration::from_secs(3);

/// One object at one revision.
#[derive(Debug)]
pub struct Object {
    /// Store key.
    pub key: String,
    /// Revision of its last write.
    pub revision: Revision,
    /// As stored, with `metadata.resourceVersion`.
    pub value: Value,
    /// `value` as JSON text.
    pub text: Bytes,
}

impl Object {
    /// From stored bytes. What is no JSON object is left out by the caller, with a log line.
    pub fn decode(entry: &Entry) -> Result<Self, serde_json::Error> {
        let value: Value = serde_json::from_slice(&entry.value)?;
        Ok(Self::new(entry.key.clone(), value, entry.modified))
    }

    /// An object with this revision as its resourceVersion.
    pub fn new(key: String, mut value: Value, revision: Revision) -> Self {
        value["metadata"]["resourceVersion"] = Value::String(revision.to_string());
        let text = Bytes::from(value.to_string());
        Self {
            key,
            revision,
            value,
            text,
        }
    }

    /// A text field of `metadata`, empty if absent.
    pub fn meta(&self, field: &str) -> &str {
        self.value["metadata"][field].as_str().unwrap_or_default()
    }
}

/// One change in the log.
#[derive(Debug, Clone)]
pub struct Change {
    /// Revision of the write.
    pub revision: Revision,
    /// The key.
    pub key: Arc<str>,
    /// Before; `None` when it was created.
    pub old: Option<Arc<Object>>,
    /// After; `None` when it was deleted.
    pub new: Option<Arc<Object>>,
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    log: VecDeque<Change>,
    floor: Revision,
    revision: Revision,
}

/// The history asked for is not in the log any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// The oldest revision that still can be asked for.
    pub floor: Revision,
}

/// The cache. Cheap to read from many tasks.
pub struct Cache {
    state: RwLock<Contents>,
    log_length: usize,
    seen: watch::Sender<Revision>,
}

impl Cache {
    /// Loads everything from the store and follows it until `stop`, keeping the last `log_length` changes.
    pub async fn start(
        store: Arc<dyn Store>,
        log_length: usize,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        let cache = Arc::new(Self {
            state: RwLock::default(),
            log_length,
            seen: watch::Sender::new(0),
        });
        cache.load(&*store).await?;
        let follower = cache.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.follow(store) => {}
            }
        });
        Ok(cache)
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces everything by a listing; whoever watches from before has to start again.
    async fn load(&self, store: &dyn Store) -> Result<(), Error> {
        let page = store.list(PREFIX, None, 0, None).await?;
        let objects = page
            .entries
            .iter()
            .filter_map(decode)
            .map(|o| (Arc::from(o.key.as_str()), o))
            .collect();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = Contents {
            objects,
            log: VecDeque::new(),
            floor: page.revision,
            revision: page.revision,
        };
        drop(state);
        self.seen.send_replace(page.revision);
        Ok(())
    }

    async fn follow(&self, store: Arc<dyn Store>) {
        loop {
            let error = match store.watch(PREFIX, self.revision()).await {
                Ok(mut events) => loop {
                    match events.next().await {
                        Some(Ok(event)) => self.apply(event),
                        Some(Err(error)) => break error,
                        None => break Error::Unavailable("the watch ended".into()),
                    }
                },
                Err(error) => error,
            };
            tracing::warn!(%error, "store watch interrupted; resuming");
            if matches!(error, Error::Compacted(_) | Error::Future { .. })
                && let Err(error) = self.load(&*store).await
            {
                tracing::warn!(%error, "cannot list the store");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn apply(&self, event: Event) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let revision = match event {
            Event::Progress(revision) => revision,
            Event::Change(change) => {
                let revision = change.revision;
                state.record(change, self.log_length);
                revision
            }
        };
        state.revision = state.revision.max(revision);
        let revision = state.revision;
        drop(state);
        self.seen.send_replace(revision);
    }

    /// The revision up to which the cache shows the store.
    pub fn revision(&self) -> Revision {
        self.read().revision
    }

    /// Notices of new revisions.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.seen.subscribe()
    }

    /// Waits until the cache shows `revision`; `false` if it does not within 3 seconds.
    pub async fn caught_up(&self, revision: Revision) -> bool {
        let mut seen = self.seen.subscribe();
        matches!(
            tokio::time::timeout(CATCH_UP, seen.wait_for(|r| *r >= revision)).await,
            Ok(Ok(_))
        )
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects below a prefix, in key order.
    pub fn range(&self, prefix: &str) -> Vec<Arc<Object>> {
        self.read().range(prefix).map(|(_, o)| o.clone()).collect()
    }

    /// All objects below a prefix with the revision that the list shows.
    pub fn snapshot(&self, prefix: &str) -> (Vec<Arc<Object>>, Revision) {
        let state = self.read();
        (
            state.range(prefix).map(|(_, o)| o.clone()).collect(),
            state.revision,
        )
    }

    /// All objects below a prefix as they were at `revision`: the present with later changes undone.
    pub fn at(&self, prefix: &str, revision: Revision) -> Result<Vec<Arc<Object>>, Gone> {
        let state = self.read();
        if revision < state.floor {
            return Err(Gone { floor: state.floor });
        }
        let mut objects: BTreeMap<Arc<str>, Arc<Object>> = state
            .range(prefix)
            .map(|(k, o)| (k.clone(), o.clone()))
            .collect();
        for change in state.log.iter().rev().take_while(|c| c.revision > revision) {
            if !change.key.starts_with(prefix) {
                continue;
            }
            match &change.old {
                Some(old) => objects.insert(change.key.clone(), old.clone()),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects.into_values().collect())
    }

    /// Changes below `prefix` after `after`, at most `limit` log entries looked at, and the revision up to which
    /// that is everything.
    pub fn changes(
        &self,
        prefix: &str,
        after: Revision,
        limit: usize,
    ) -> Result<(Vec<Change>, Revision), Gone> {
        let state = self.read();
        if after < state.floor {
            return Err(Gone { floor: state.floor });
        }
        let start = state.log.partition_point(|c| c.revision <= after);
        let looked: Vec<&Change> = state.log.range(start..).take(limit).collect();
        let upto = if start + looked.len() == state.log.len() {
            state.revision
        } else {
            looked.last().map_or(after, |c| c.revision)
        };
        let changes = looked
            .into_iter()
            .filter(|c| c.key.starts_with(prefix))
            .cloned()
            .collect();
        Ok((changes, upto.max(after)))
    }
}

impl Contents {
    fn range<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Object>)> {
        self.objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(k, _)| k.starts_with(prefix))
    }

    fn record(&mut self, change: StoreChange, log_length: usize) {
        let entry = change.new.as_ref().or(change.old.as_ref());
        let Some(key) = entry.map(|e| Arc::<str>::from(e.key.as_str())) else {
            return;
        };
        let new = change.new.as_ref().and_then(decode);
        let old = match &new {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(&key),
        };
        self.log.push_back(Change {
            revision: change.revision,
            key,
            old,
            new,
        });
        if self.log.len() > log_length
            && let Some(forgotten) = self.log.pop_front()
        {
            self.floor = forgotten.revision;
        }
    }
}

fn decode(entry: &Entry) -> Option<Arc<Object>> {
    match Object::decode(entry) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            tracing::error!(key = entry.key, %error, "the store holds something that is no object; it is not served");
            None
        }
    }
}
