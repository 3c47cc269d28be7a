//! What a Migration lets the agents of its two hosts do, and nobody else.

use crate::state::cache::{Cache, Object};
use serde_json::Value;
use std::sync::Arc;

const MIGRATIONS: &str = "/skysail/skysail.dev/migrations/";
pub(super) const PORTS: &str = "/skysail/skysail.dev/ports/";
/// Fields of a Migration's status that say what is to be done: the controller's.
const ORDERS: [&str; 6] = [
    "containerUid",
    "source",
    "target",
    "epoch",
    "endpoint",
    "startedAt",
];
/// Fields of a Container's status that placement writes, and a commit does not.
const PLACED: [&str; 2] = ["allocation", "image"];

fn is_open(migration: &Object) -> bool {
    let phase = migration.value["status"]["phase"].as_str();
    let finished = ["Succeeded", "Failed", "Cancelled", "RolledBack"];
    phase.is_some_and(|p| !finished.contains(&p))
}

/// Migrations that were accepted and are not finished, of the namespace.
fn open(cache: &Cache, namespace: &str) -> Vec<Arc<Object>> {
    let mut all = cache.range(&format!("{MIGRATIONS}{namespace}/"));
    all.retain(|m| is_open(m));
    all
}

/// Whether the host is one of the two of this Migration.
pub(super) fn is_of(migration: &Value, host: &str) -> bool {
    ["source", "target"]
        .iter()
        .any(|end| migration["status"][*end] == host)
}

/// Whether the container is on its way from or to the host.
pub(super) fn concerns(cache: &Cache, namespace: &str, container: &str, host: &str) -> bool {
    let all = open(cache, namespace);
    all.iter()
        .any(|m| m.value["spec"]["container"] == container && is_of(&m.value, host))
}

/// Whether the container is on its way to the host.
pub(super) fn arrives(cache: &Cache, namespace: &str, container: &str, host: &str) -> bool {
    let all = open(cache, namespace);
    all.iter()
        .any(|m| m.value["spec"]["container"] == container && m.value["status"]["target"] == host)
}

/// Whether a container of this namespace is on its way to the host.
pub(super) fn visits(cache: &Cache, namespace: &str, host: &str) -> bool {
    let all = open(cache, namespace);
    all.iter().any(|m| m.value["status"]["target"] == host)
}

/// Whether a container with a port on this network is on its way to the host.
pub(super) fn brings(cache: &Cache, vni: u64, host: &str) -> bool {
    let all = cache.range(MIGRATIONS);
    let mut arriving = all
        .iter()
        .filter(|m| is_open(m) && m.value["status"]["target"] == host)
        .peekable();
    if arriving.peek().is_none() {
        return false;
    }
    let ports = cache.range(PORTS);
    arriving.any(|m| {
        ports.iter().any(|p| {
            p.value["spec"]["vni"] == vni
                && p.value["spec"]["container"] == m.value["spec"]["container"]
                && p.meta("namespace") == m.meta("namespace")
        })
    })
}

/// Whether the agent of `host` may make the status of a Container what it is in `new`: it leaves alone what
/// placement wrote, but for the one change of owner that a Migration from this host asks for.
pub(super) fn may_change_container(cache: &Cache, host: &str, old: &Value, new: &Value) -> bool {
    let (before, after) = (&old["status"], &new["status"]);
    if PLACED.iter().any(|f| before[*f] != after[*f]) {
        return false;
    }
    if before["host"] == after["host"] && before["epoch"] == after["epoch"] {
        return true;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &old["metadata"];
    open(cache, &text(&meta["namespace"])).iter().any(|m| {
        let (spec, status) = (&m.value["spec"], &m.value["status"]);
        spec["container"] == meta["name"]
            && status["containerUid"] == meta["uid"]
            && status["source"] == host
            && before["host"] == host
            && status["epoch"] == before["epoch"]
            && status["target"] == after["host"]
            && after["epoch"].as_u64() == before["epoch"].as_u64().map(|e| e + 1)
    })
}

/// Whether an agent may make the status of a Migration what it is in `new`: how far it is, not what is to be done.
pub(super) fn may_change_migration(host: &str, old: &Value, new: &Value) -> bool {
    let (before, after) = (&old["status"], &new["status"]);
    is_of(old, host) && ORDERS.iter().all(|f| before[*f] == after[*f])
}
