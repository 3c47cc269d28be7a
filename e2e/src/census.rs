//! What runs where, asked of the hosts themselves, against what the API says.

use crate::Cluster;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Where.
    pub host: String,
    /// Its init there.
    pub pid: i64,
}

/// Every container by `namespace/name`, after a look at all hosts: each container that
/// the API knows runs once, where the API says and as it says, and no other runs. Those
/// that are being deleted are left out: they take their time to shut down.
///
/// # Errors
/// When that is not so (yet).
pub fn take(cluster: &Cluster) -> Result<BTreeMap<String, Running>> {
    let list = |kind: &str| -> Result<Vec<Value>> {
        let text = cluster.kubectl(&["get", kind, "-A", "-o", "json"])?.ok()?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    let (mut said, mut leaving) = (BTreeMap::new(), BTreeSet::new());
    for object in list("containers")? {
        let (meta, status) = (&object["metadata"], &object["status"]);
        let name = |field: &str| meta[field].as_str().unwrap_or_default();
        let id = format!("{}/{}", name("namespace"), name("name"));
        if !meta["deletionTimestamp"].is_null() {
            leaving.insert(id);
            continue;
        }
        let host = status["host"]
            .as_str()
            .with_context(|| format!("{id} has no host"))?;
        let pid = status["pid"]
            .as_i64()
            .with_context(|| format!("{id} does not run"))?;
        let host = host.to_owned();
        said.insert(id, Running { host, pid });
    }
    let mut found: BTreeMap<String, Running> = BTreeMap::new();
    for object in list("hosts")? {
        let host = object["metadata"]["name"].as_str().unwrap_or_default();
        for (id, pid) in here(cluster, host)? {
            if leaving.contains(&id) {
                continue;
            }
            let host = host.to_owned();
            let twice = found.insert(id.clone(), Running { host, pid });
            ensure!(
                twice.is_none(),
                "{id} runs twice: {twice:?} and on {}",
                found[&id].host
            );
        }
    }
    ensure!(
        said == found,
        "the API says {said:?}, the hosts say {found:?}"
    );
    Ok(said)
}

/// Containers and their inits on one host; a container with two monitors is there twice.
fn here(cluster: &Cluster, host: &str) -> Result<Vec<(String, i64)>> {
    let script = "for m in $(pgrep -f '^\\[lxc monitor\\]'); do \
        id=$(tr '\\0' ' ' </proc/$m/cmdline | awk '{print $NF}'); \
        for p in $(pgrep -P $m); do echo $id $p; done; done";
    let text = cluster.on_host(host, script)?.ok()?;
    let line = |line: &str| {
        let (id, pid) = line.split_once(' ')?;
        Some((id.replacen('.', "/", 1), pid.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}
