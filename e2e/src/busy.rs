//! Two small hosts, one of them with two containers that can use all of it.

use crate::{Cluster, until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long anything here may take.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The containers; both begin on [`HOT`].
pub const CONTAINERS: [&str; 2] = ["one", "two"];
/// The host that becomes busy, and the one that stays calm.
pub const HOT: &str = "hot-1";
/// The other host.
pub const CALM: &str = "calm-1";

const MANIFESTS: &str = "
apiVersion: skysail.dev/v1alpha1
kind: MachineType
metadata: {name: tiny}
spec: {cloud: east, cpu: \"1\", memory: 1Gi, disk: 4Gi, pricePerHour: \"0.01\"}
---
apiVersion: skysail.dev/v1alpha1
kind: Host
metadata: {name: hot-1}
spec: {cloud: east, machineType: tiny, publicAddress: true}
---
apiVersion: skysail.dev/v1alpha1
kind: Host
metadata: {name: calm-1}
spec: {cloud: east, machineType: tiny, publicAddress: true, unschedulable: true}
---
apiVersion: v1
kind: Namespace
metadata: {name: acme}
---
apiVersion: skysail.dev/v1alpha1
kind: InstanceType
metadata: {name: half, namespace: acme}
spec: {cpu: 500m, memory: 320Mi, disk: 128Mi}
---
apiVersion: skysail.dev/v1alpha1
kind: Network
metadata: {name: private, namespace: acme}
spec: {cidr: 10.0.0.0/24, dnsDomain: acme.internal}
---
apiVersion: skysail.dev/v1alpha1
kind: Container
metadata: {name: one, namespace: acme}
spec: {image: debian, instanceType: half, networks: [{name: private}], placement: {strategy: pack}}
---
apiVersion: skysail.dev/v1alpha1
kind: Container
metadata: {name: two, namespace: acme}
spec: {image: debian, instanceType: half, networks: [{name: private}], placement: {strategy: pack}}
";

/// Times after the containers began to be busy.
#[derive(Debug, Clone, Copy)]
pub struct Relief {
    /// Until the Migration was there.
    pub decided: Duration,
    /// Until the container ran on the other host.
    pub moved: Duration,
    /// Until the policy found the host no longer too busy.
    pub calm: Duration,
}

/// The system, with both containers on [`HOT`] and [`CALM`] open.
///
/// # Errors
/// When it does not come up.
pub fn up(instance: &str) -> Result<Cluster> {
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
    let manifests = tempfile::tempdir()?;
    for file in ["10-clouds.yaml", "30-image.yaml"] {
        std::fs::copy(quickstart.join(file), manifests.path().join(file))?;
    }
    std::fs::write(manifests.path().join("rest.yaml"), MANIFESTS)?;
    let cluster = Cluster::up(instance, manifests.path())?;
    for name in CONTAINERS {
        ensure!(
            host(&cluster, name)? == HOT,
            "{name} is on {}",
            host(&cluster, name)?
        );
    }
    cluster.skysail(&["uncordon", CALM])?.ok()?;
    Ok(cluster)
}

/// Where a container is.
///
/// # Errors
/// When it is nowhere.
pub fn host(cluster: &Cluster, name: &str) -> Result<String> {
    let there = cluster.get("container", "acme", name)?;
    let host = there.pointer("/status/host").and_then(Value::as_str);
    host.map(str::to_owned)
        .with_context(|| format!("{name} has no host"))
}

/// Makes a policy that relieves hotspots, or changes its mode; `more` of its spec beside that.
///
/// # Errors
/// When it is refused.
pub fn policy(cluster: &Cluster, mode: &str, more: &str) -> Result<()> {
    let policy = format!(
        "apiVersion: skysail.dev/v1alpha1\nkind: RebalancePolicy\nmetadata: {{name: relief}}\nspec: {{mode: {mode}, strategies: [RelieveHotspots], {more}}}\n"
    );
    cluster.apply(&policy)?.ok().map(drop)
}

/// What both containers begin to do, as a shell line.
pub const COMPUTE: &str = "while :; do :; done";
/// 280 MiB each, which does not depend on what else this machine does.
pub const REMEMBER: &str = "(head -c 280M /dev/zero; sleep 1000) | tail -c 280M";

/// Both containers begin to work.
///
/// # Errors
/// When their systemd takes no service.
pub fn work(cluster: &Cluster, line: &str) -> Result<()> {
    for name in CONTAINERS {
        let work = ["systemd-run", "-q", "--unit=burn", "sh", "-c", line];
        until("systemd to take a service", LIMIT, || {
            cluster.exec("acme", name, &work)?.ok()
        })?;
    }
    Ok(())
}

/// Waits until one of the two has left, and how long each step took after `begun`.
///
/// # Errors
/// When nothing leaves, or both.
pub fn relief(cluster: &Cluster, begun: Instant) -> Result<Relief> {
    until("a move", LIMIT, || {
        let moves = cluster
            .kubectl(&["get", "mig", "-n", "acme", "-o", "name"])?
            .ok()?;
        ensure!(!moves.trim().is_empty(), "there is none");
        Ok(())
    })?;
    let decided = begun.elapsed();
    let (gone, _) = until("one of them to be on the other host", LIMIT, || {
        let hosts: Vec<String> = CONTAINERS
            .iter()
            .map(|c| host(cluster, c))
            .collect::<Result<_>>()?;
        hosts
            .iter()
            .position(|h| h == CALM)
            .context("both are where they were")
    })?;
    let name = CONTAINERS[gone];
    until("it to run there", LIMIT, || {
        let there = cluster.get("container", "acme", name)?;
        let conditions = there["status"]["conditions"].to_string();
        ensure!(there["status"]["phase"] == "Running", "{conditions}");
        let migrations = cluster
            .kubectl(&["get", "mig", "-n", "acme", "-o", "json"])?
            .ok()?;
        let migrations: Value = serde_json::from_str(&migrations)?;
        let phase = &migrations["items"][0]["status"]["phase"];
        ensure!(phase == "Succeeded", "{phase}");
        Ok(())
    })?;
    let moved = begun.elapsed();
    until("the host to be calm", LIMIT, || {
        let policy = cluster.get("rebalancepolicy", "default", "relief")?;
        ensure!(policy["status"]["hot"].is_null(), "{}", policy["status"]);
        Ok(())
    })?;
    Ok(Relief {
        decided,
        moved,
        calm: begun.elapsed(),
    })
}

/// Everything as it was before: nothing computes, both on [`HOT`], no moves on record.
///
/// # Errors
/// When one cannot be moved back.
pub fn again(cluster: &Cluster) -> Result<()> {
    for name in CONTAINERS {
        let stop = ["systemctl", "stop", "burn"];
        cluster.exec("acme", name, &stop)?;
        if host(cluster, name)? != HOT {
            let back = [
                "migrate",
                "container",
                name,
                "-n",
                "acme",
                "--to-host",
                HOT,
                "--cold",
                "--wait",
            ];
            cluster.skysail(&back)?.ok()?;
        }
    }
    for kind in ["rebalancepolicy", "mig"] {
        cluster
            .kubectl(&["delete", kind, "--all", "-n", "acme"])?
            .ok()?;
    }
    for name in CONTAINERS {
        let ready = [
            "wait",
            "ct",
            name,
            "-n",
            "acme",
            "--for=condition=Ready",
            "--timeout=60s",
        ];
        cluster.kubectl(&ready)?.ok()?;
    }
    until("the host to be calm", LIMIT, || {
        let there = cluster.get("host", "default", HOT)?;
        let cpu = there["status"]["usage"]["cpu"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        ensure!(cpu.ends_with('m') && cpu.len() <= 4, "it uses {cpu}");
        Ok(())
    })?;
    // A policy made anew knows of no cooldown but the container's own: see `policy`.
    policy(cluster, "Automatic", "cooldown: 1s")
}
