//! The policies of the tenants that have a container here.

use crate::network::policy::Policies;
use crate::network::watch::Followed;
use kube::{Api, Client};
use skysail_schemas::SecurityPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long an attachment waits for what the API server says now; after that, what was last known stands.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a tenant is followed that has no port here yet.
const EXPECTED: Duration = Duration::from_secs(30);

/// Follows the policies of some tenants.
pub struct Tenants {
    client: Client,
    changed: Arc<Notify>,
    followed: Mutex<BTreeMap<String, (Instant, Followed<SecurityPolicy>)>>,
}

impl Tenants {
    /// Follows nobody yet; `changed` is notified of every change of a policy.
    pub fn new(client: Client, changed: Arc<Notify>) -> Arc<Self> {
        let followed = Mutex::default();
        Arc::new(Self {
            client,
            changed,
            followed,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Followed<SecurityPolicy>)>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, namespace: &str) -> (Instant, Followed<SecurityPolicy>) {
        let api = Api::namespaced(self.client.clone(), namespace);
        let followed = Followed::start(api, String::new(), self.changed.clone());
        (Instant::now(), followed)
    }

    /// Follows these tenants, and no others.
    pub fn follow(&self, namespaces: &BTreeSet<String>) {
        let mut followed = self.lock();
        followed.retain(|n, (since, _)| namespaces.contains(n) || since.elapsed() < EXPECTED);
        for namespace in namespaces {
            let start = || self.start(namespace);
            followed.entry(namespace.clone()).or_insert_with(start);
        }
    }

    /// The tenant's policies; none while they are not known.
    pub fn known(&self, namespace: &str) -> Option<Policies> {
        self.lock().get(namespace).and_then(|(_, f)| f.objects())
    }

    /// Asks for the policies of these tenants, so that none that was made before this call is missing when their ports
    /// are connected. A server that is away does not keep containers from starting: what was last known applies.
    pub async fn settle(&self, namespaces: BTreeSet<String>) {
        for namespace in namespaces.into_iter().filter(|n| !n.is_empty()) {
            let asked = {
                let mut followed = self.lock();
                let start = || self.start(&namespace);
                let entry = followed.entry(namespace.clone()).or_insert_with(start);
                entry.1.refresh()
            };
            let outcome = tokio::time::timeout(PATIENCE, asked).await;
            let failed = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(e)) => e.to_string(),
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            tracing::debug!(namespace, error = failed, "policies are as last known");
        }
    }
}
