//! Follows the Ports of this host and of every network that it carries, and the policies of their tenants.

use super::policy::Policy;
use super::record::{PortKey, key};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use skysail_reconcile::Rewatch;
use skysail_schemas::PortSpec;
use skysail_schemas::SecurityPolicy;
use skysail_schemas::port::Port;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A kind that is followed, and what is kept of an object.
pub trait Followable:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
    /// What an object is known by.
    type Key: Ord + Clone + Send + 'static;
    /// What is kept of it.
    type Kept: Clone + Send + 'static;
    /// Takes it apart.
    fn entry(self) -> (Self::Key, Self::Kept);
}

impl Followable for Port {
    type Key = PortKey;
    type Kept = PortSpec;
    fn entry(self) -> (PortKey, PortSpec) {
        let namespace = self.metadata.namespace.unwrap_or_default();
        let spec = PortSpec {
            namespace,
            ..self.spec
        };
        (key(&spec), spec)
    }
}

impl Followable for SecurityPolicy {
    type Key = String;
    type Kept = Policy;
    fn entry(self) -> (String, Policy) {
        let generation = self.metadata.generation.unwrap_or_default();
        let policy = Policy {
            generation,
            spec: self.spec,
        };
        (self.metadata.name.unwrap_or_default(), policy)
    }
}

/// Objects with the versions at which they were seen.
type Seen<K> = BTreeMap<<K as Followable>::Key, (u64, <K as Followable>::Kept)>;

/// What is kept of a kind's objects.
pub type Kept<K> = BTreeMap<<K as Followable>::Key, <K as Followable>::Kept>;

/// What one watch knows.
struct Known<K: Followable> {
    /// None until the first list is complete.
    objects: Option<Seen<K>>,
    /// The version of a list that was asked for beside the watch.
    listed: u64,
}

/// A listing that is under way.
struct Listing<K: Followable> {
    objects: Seen<K>,
    /// The list beside the watch that was known when it began.
    before: u64,
}

impl<K: Followable> Default for Listing<K> {
    fn default() -> Self {
        let objects = BTreeMap::new();
        Self { objects, before: 0 }
    }
}

/// What an event did.
enum Taken {
    /// More of a listing is to come.
    Unfinished,
    /// What is known has changed.
    Changed,
    /// Another list was made during this one: which of the two is newer is not told, so a third one decides.
    Doubtful,
}

type Shared<K> = Arc<Mutex<Known<K>>>;

fn lock<K: Followable>(known: &Shared<K>) -> MutexGuard<'_, Known<K>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A resource version as a number, as our server's are.
fn number(version: Option<String>) -> u64 {
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<K: Followable> Known<K> {
    fn apply(&mut self, object: K) {
        let version = number(object.resource_version());
        let (key, kept) = object.entry();
        let objects = self.objects.get_or_insert_default();
        // The watch may be behind a list that was asked for beside it.
        if objects.get(&key).is_none_or(|(v, _)| *v <= version) {
            objects.insert(key, (version, kept));
        }
    }

    fn delete(&mut self, object: K) {
        let version = number(object.resource_version());
        let (key, _) = object.entry();
        let objects = self.objects.get_or_insert_default();
        if version >= self.listed || objects.get(&key).is_some_and(|(v, _)| *v <= version) {
            objects.remove(&key);
        }
    }

    fn take(&mut self, event: Event<K>, listing: &mut Listing<K>) -> Taken {
        match event {
            Event::Init => {
                listing.objects.clear();
                listing.before = self.listed;
                return Taken::Unfinished;
            }
            Event::InitApply(object) => {
                let version = number(object.resource_version());
                let (key, kept) = object.entry();
                listing.objects.insert(key, (version, kept));
                return Taken::Unfinished;
            }
            Event::InitDone if self.listed != listing.before => return Taken::Doubtful,
            Event::InitDone => self.objects = Some(std::mem::take(&mut listing.objects)),
            Event::Apply(object) => self.apply(object),
            Event::Delete(object) => self.delete(object),
        }
        Taken::Changed
    }

    /// Takes a whole list, unless what is known is newer.
    fn replace(&mut self, objects: Seen<K>, version: u64) {
        if version >= self.listed {
            (self.objects, self.listed) = (Some(objects), version);
        }
    }
}

/// Everything there is now, and at which version.
async fn list<K: Followable>(api: &Api<K>) -> kube::Result<(Seen<K>, u64)> {
    let list = api.list(&kube::api::ListParams::default()).await?;
    let one = |object: K| {
        let version = number(object.resource_version());
        let (key, kept) = object.entry();
        (key, (version, kept))
    };
    let objects = list.items.into_iter().map(one).collect();
    Ok((objects, number(list.metadata.resource_version)))
}

/// A set of objects, followed until this is dropped.
pub struct Followed<K: Followable> {
    api: Api<K>,
    known: Shared<K>,
    task: JoinHandle<()>,
}

impl<K: Followable> Followed<K> {
    /// Follows the objects of `api` that match `fields` (all, where that is empty); `changed` is notified of every
    /// change.
    pub fn start(api: Api<K>, fields: String, changed: Arc<Notify>) -> Self {
        let known = Arc::new(Mutex::new(Known {
            objects: None,
            listed: 0,
        }));
        let task = tokio::spawn(follow(api.clone(), fields, known.clone(), changed));
        Self { api, known, task }
    }

    /// What is known now; none until the first list is complete.
    pub fn objects(&self) -> Option<Kept<K>> {
        let known = lock(&self.known);
        let kept = |objects: &Seen<K>| {
            let all = objects.iter();
            all.map(|(k, (_, o))| (k.clone(), o.clone())).collect()
        };
        known.objects.as_ref().map(kept)
    }

    /// Asks for everything there is (of those that follow all), so that what is known then is at least as new as this
    /// call.
    pub fn refresh(&self) -> impl Future<Output = kube::Result<()>> + Send + use<K> {
        let (api, known) = (self.api.clone(), self.known.clone());
        async move {
            let (objects, version) = list(&api).await?;
            lock(&known).replace(objects, version);
            Ok(())
        }
    }
}

impl Followed<Port> {
    /// Follows the Ports that match `fields`.
    pub fn ports(client: &Client, fields: String, changed: Arc<Notify>) -> Self {
        Self::start(Api::all(client.clone()), fields, changed)
    }
}

impl<K: Followable> Drop for Followed<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the server does not have the kind: one that is older than this agent.
pub fn is_unknown(error: &watcher::Error) -> bool {
    let cause = match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) => e,
        _ => return false,
    };
    matches!(cause, kube::Error::Api(status) if status.code == 404)
}

async fn follow<K: Followable>(
    api: Api<K>,
    fields: String,
    known: Shared<K>,
    changed: Arc<Notify>,
) {
    let config = match fields.as_str() {
        "" => watcher::Config::default(),
        some => watcher::Config::default().fields(some),
    };
    let events = watcher(api.clone(), config).backoff(Rewatch::default());
    let mut events = std::pin::pin!(events);
    let mut listing = Listing::default();
    while let Some(event) = events.next().await {
        let taken = match event {
            Err(e) if !is_unknown(&e) => {
                let kind = K::kind(&());
                tracing::debug!(%kind, %fields, error = %e, "the API server does not answer; what was last known stands");
                continue;
            }
            // The server has none of a kind that it does not have.
            Err(_) => {
                lock(&known).objects.get_or_insert_default();
                Taken::Changed
            }
            Ok(event) => lock(&known).take(event, &mut listing),
        };
        match taken {
            Taken::Unfinished => continue,
            Taken::Changed => {}
            Taken::Doubtful => match list(&api).await {
                Ok((objects, version)) => lock(&known).replace(objects, version),
                Err(e) => tracing::debug!(error = %e, "a list could not be repeated"),
            },
        }
        changed.notify_one();
    }
}
