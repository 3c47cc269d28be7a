//! Who owns what: by uid, so that a new object of an old name owns nothing of it.

use kube::{Resource, ResourceExt};
use skysail_reconcile::Cache;
use skysail_schemas::{Network, Port};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The uids of all `objects`.
pub fn uids<K: Resource>(objects: &[Arc<K>]) -> BTreeSet<String> {
    objects
        .iter()
        .filter_map(|o| o.meta().uid.clone())
        .collect()
}

/// Whether `object` names an owner with this uid.
pub fn is_owned_by<K: Resource>(object: &K, uid: &str) -> bool {
    object.owner_references().iter().any(|o| o.uid == uid)
}

/// The Ports on a Network.
pub fn ports_on(ports: &Cache<Port>, network: &Network) -> Vec<Arc<Port>> {
    let (namespace, name) = (network.namespace(), network.name_any());
    let mut on: Vec<_> = ports.list();
    on.retain(|p| p.spec.network == name && p.namespace() == namespace);
    on
}
