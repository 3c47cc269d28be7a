//! A kind, watched once per process. Reads are local and see what this process
//! wrote itself; everybody who depends on the kind is woken from the one watch.

use crate::{Error, Resource, Rewatch};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{Stream, StreamExt};
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The objects of a kind (or those that a selector picks), as the API server last told.
///
/// A read may be older than the API server's state, never older than what this
/// process noted with [`Cache::wrote`]. Claims must not rest on it: create-if-absent decides.
pub struct Cache<K: Resource> {
    store: Store<K>,
    inner: Mutex<Inner<K>>,
    /// Whether the first listing is complete. Not the store's own `wait_until_ready`: it wakes
    /// only the last of several that wait (kube-runtime 5.0).
    listed: watch::Sender<bool>,
}

struct Inner<K: Resource> {
    /// Own writes that the watch has not shown yet, each with the listing during or after which it was made.
    written: HashMap<ObjectRef<K>, (u64, Arc<K>)>,
    /// How many listings have begun.
    listing: u64,
    /// The highest version that the watch has shown.
    seen: u64,
    listeners: Vec<UnboundedSender<Arc<K>>>,
}

/// A resource version as a number; our server's are, and Kubernetes' too since 1.35.
fn version<K: Resource>(object: &K) -> u64 {
    object
        .resource_version()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

impl<K: Resource> Cache<K> {
    /// Starts watching, until `shutdown`.
    pub fn start(
        client: &Client,
        selector: watcher::Config,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let (reader, mut writer) = store::<K>();
        let cache = Arc::new(Self {
            store: reader,
            inner: Mutex::new(Inner {
                written: HashMap::new(),
                listing: 0,
                seen: 0,
                listeners: vec![],
            }),
            listed: watch::Sender::new(false),
        });
        let weak = Arc::downgrade(&cache);
        let events = watcher(Api::<K>::all(client.clone()), selector).backoff(Rewatch::default());
        tokio::spawn(async move {
            let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
            // What was known before a new listing, to tell who went while nobody watched.
            let mut before: Vec<Arc<K>> = vec![];
            while let Some(event) = events.next().await {
                let Some(cache) = weak.upgrade() else { return };
                let event = match event {
                    Ok(event) => event,
                    Err(e) => {
                        tracing::warn!(kind = %K::kind(&()), error = %e, "the watch was interrupted and starts again");
                        continue;
                    }
                };
                if matches!(event, Event::Init) {
                    before = cache.store.state();
                    cache.lock().listing += 1;
                }
                writer.apply_watcher_event(&event);
                match event {
                    Event::Apply(object) => cache.changed([(Arc::new(object), false)]),
                    Event::Delete(object) => cache.changed([(Arc::new(object), true)]),
                    Event::InitDone => {
                        cache.relisted(std::mem::take(&mut before));
                        cache.listed.send_replace(true);
                    }
                    Event::Init | Event::InitApply(_) => {}
                }
            }
        });
        cache
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn relisted(&self, before: Vec<Arc<K>>) {
        let now = self.store.state();
        {
            // A listing shows every write made before it began, so what it lacks is gone.
            let mut inner = self.lock();
            let listing = inner.listing;
            inner.written.retain(|_, (made, _)| *made >= listing);
        }
        let gone = before
            .into_iter()
            .filter(|o| self.store.get(&ObjectRef::from_obj(&**o)).is_none())
            .map(|o| (o, true));
        self.changed(
            gone.chain(now.into_iter().map(|o| (o, false)))
                .collect::<Vec<_>>(),
        );
    }

    fn changed(&self, objects: impl IntoIterator<Item = (Arc<K>, bool)>) {
        let mut inner = self.lock();
        for (object, gone) in objects {
            let key = ObjectRef::from_obj(&*object);
            inner.seen = inner.seen.max(version(&*object));
            if inner.written.get(&key).is_some_and(|(_, mine)| {
                version(&**mine) <= version(&*object) || (gone && mine.uid() == object.uid())
            }) {
                inner.written.remove(&key);
            }
            inner
                .listeners
                .retain(|l| l.unbounded_send(object.clone()).is_ok());
        }
    }

    /// Waits until the first listing is complete. Before it, "absent" means nothing.
    pub async fn ready(&self) {
        // The sender lives as long as the cache, so the wait cannot fail.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    /// The newest known version of one object; `namespace` is `None` for kinds without.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        let mut key = ObjectRef::new(name);
        if let Some(namespace) = namespace {
            key = key.within(namespace);
        }
        self.find(&key)
    }

    /// The newest known version of one object.
    pub fn find(&self, key: &ObjectRef<K>) -> Option<Arc<K>> {
        let inner = self.lock();
        let stored = self.store.get(key);
        match inner.written.get(key) {
            Some((_, mine))
                if stored
                    .as_ref()
                    .is_none_or(|s| version(&**s) < version(&**mine)) =>
            {
                Some(mine.clone())
            }
            _ => stored,
        }
    }

    /// Every object, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        let inner = self.lock();
        let mut all = self.store.state();
        if inner.written.is_empty() {
            return all;
        }
        let mut written = inner.written.clone();
        for object in &mut all {
            if let Some((_, mine)) = written.remove(&ObjectRef::from_obj(&**object))
                && version(&**object) < version(&*mine)
            {
                *object = mine;
            }
        }
        all.extend(written.into_values().map(|(_, mine)| mine));
        all
    }

    /// Notes what an own write answered, so that the next read sees it before the watch does.
    pub fn wrote(&self, object: K) {
        let key = ObjectRef::from_obj(&object);
        let mut inner = self.lock();
        let listing = inner.listing;
        let newer = inner
            .written
            .get(&key)
            .is_none_or(|(_, o)| version(&**o) < version(&object));
        if newer && version(&object) > inner.seen {
            inner.written.insert(key, (listing, Arc::new(object)));
        }
    }

    /// Reads everything from the server, so that reads from now on are at least as new as this call.
    /// For one who just took over from another process.
    pub async fn catch_up(&self, client: &Client) -> Result<(), Error> {
        self.ready().await;
        for object in Api::<K>::all(client.clone())
            .list(&ListParams::default())
            .await?
            .items
        {
            self.wrote(object);
        }
        Ok(())
    }

    /// Every object that there is now, then each that is created, changed or deleted.
    pub fn changes(&self) -> impl Stream<Item = Arc<K>> + Send + use<K> {
        let (sender, receiver): (_, UnboundedReceiver<Arc<K>>) = unbounded();
        let mut inner = self.lock();
        inner.listeners.push(sender);
        let now = self.store.state();
        drop(inner);
        futures::stream::iter(now).chain(receiver)
    }

    pub(crate) fn store(&self) -> Store<K> {
        self.store.clone()
    }
}
