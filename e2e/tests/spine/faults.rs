//! The server is killed at bad moments: under load, and at every step of a host's bootstrap.

use crate::Case;
use anyhow::{Context, Result, ensure};
use skysail_e2e::{Cluster, Pinging, census, times, until};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub const CASES: &[Case] = &[
    (
        "the_server_killed_under_load_loses_no_acknowledged_write_and_no_container",
        under_load,
    ),
    (
        "the_server_killed_at_every_step_of_a_bootstrap_makes_one_host",
        bootstrap,
    ),
];

const LIMIT: Duration = Duration::from_secs(60);
/// What the load consists of.
const KINDS: &str = "instancetypes,containersets,networks";
const HEAD: &str = "---\napiVersion: skysail.dev/v1alpha1\n";

/// What writers were told is written.
#[derive(Default)]
struct Acknowledged {
    created: Mutex<Vec<String>>,
    /// The last value of the one object that is written over and over.
    value: AtomicU64,
    enough: AtomicBool,
}

impl Acknowledged {
    fn count(&self) -> Result<usize> {
        let created = self.created.lock().map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(created.len())
    }
}

/// Objects of three kinds, none of which makes anything run.
fn load(writer: usize) -> String {
    let mut text = String::new();
    for i in 0..60 {
        let labels = format!("namespace: acme, labels: {{load: l{writer}}}");
        let _ = write!(
            text,
            "{HEAD}kind: InstanceType\nmetadata: {{name: l{writer}-{i}, {labels}}}\nspec: {{cpu: 100m, memory: 64Mi}}\n\
             {HEAD}kind: ContainerSet\nmetadata: {{name: l{writer}-{i}, {labels}}}\nspec: {{replicas: 0, template: {{spec: {{image: debian, instanceType: small}}}}}}\n"
        );
        if i % 6 == 0 {
            let _ = write!(
                text,
                "{HEAD}kind: Network\nmetadata: {{name: l{writer}-{i}, {labels}}}\nspec: {{cidr: 10.{writer}.{i}.0/24}}\n"
            );
        }
    }
    text
}

/// Applies the manifest until all of it is there, whatever happens to the server.
fn write_all(cluster: &Cluster, manifest: &str, told: &Acknowledged) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), manifest)?;
    let attempt = || -> Result<()> {
        let mut kubectl = Command::new("kubectl")
            .env("KUBECONFIG", cluster.kubeconfig())
            .args(["apply", "-f"])
            .arg(file.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let out = kubectl.stdout.take().context("no output")?;
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some(name) = line.strip_suffix(" created") {
                let created = told.created.lock();
                created
                    .map_err(|e| anyhow::anyhow!("{e}"))?
                    .push(name.to_owned());
            }
        }
        ensure!(kubectl.wait()?.success(), "not all was applied");
        Ok(())
    };
    until("all writes to be acknowledged", LIMIT, attempt).map(drop)
}

/// Writes one object over and over with a growing value.
fn overwrite(cluster: &Cluster, told: &Acknowledged) -> Result<()> {
    for value in 1.. {
        let patch = format!("{{\"data\":{{\"n\":\"{value}\"}}}}");
        let patched =
            cluster.kubectl(&["patch", "configmap", "load", "--type=merge", "-p", &patch])?;
        if patched.code == Some(0) {
            told.value.store(value, Ordering::SeqCst);
        }
        if told.enough.load(Ordering::SeqCst) {
            break;
        }
    }
    Ok(())
}

fn under_load(cluster: &Cluster) -> Result<()> {
    let (before, _) = until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    let config = ["create", "configmap", "load", "--from-literal=n=0"];
    cluster.kubectl(&config)?.ok()?;
    let pinging = Pinging::start(cluster, "acme", "db", "web-0")?;
    let told = Acknowledged::default();
    let made = format!(
        "{HEAD}kind: Container\nmetadata: {{name: made, namespace: acme}}\nspec: {{image: debian, instanceType: small, networks: [{{name: private}}]}}\n"
    );
    let manifests = [load(1), load(2)];
    let took = std::thread::scope(|scope| -> Result<Duration> {
        let told = &told;
        let writers: Vec<_> = manifests
            .iter()
            .map(|m| scope.spawn(move || write_all(cluster, m, told)))
            .collect();
        let over = scope.spawn(|| overwrite(cluster, told));
        let took = killed_and_restarted(cluster, told, &made);
        told.enough.store(true, Ordering::SeqCst);
        for thread in writers.into_iter().chain([over]) {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        took
    })?;
    times::record("server_killed_under_load", took)?;
    no_write_lost(cluster, &told)?;
    cluster
        .kubectl(&[
            "wait",
            "-n",
            "acme",
            "container/made",
            "--for=condition=Ready",
            "--timeout=60s",
        ])?
        .ok()?;
    let (mut after, _) = until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    ensure!(
        after.remove("acme/made").is_some(),
        "acme/made does not run"
    );
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    pinging.unbroken()?;
    clear(cluster)?;
    cluster.kubectl(&["delete", "configmap", "load"])?.ok()?;
    let made = ["delete", "container", "-n", "acme", "made"];
    cluster.kubectl(&made)?.ok().map(drop)
}

/// Deletes the load. kubectl would ask five times a second at most whether one more is gone.
fn clear(cluster: &Cluster) -> Result<()> {
    let load = [KINDS, "-n", "acme", "-l", "load"];
    let delete = [&["delete", "--wait=false"], &load[..]].concat();
    cluster.kubectl(&delete)?.ok()?;
    until("the load to be gone", LIMIT, || {
        let get = [&["get", "-o", "name"], &load[..]].concat();
        let left = cluster.kubectl(&get)?.ok()?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .map(drop)
}

/// Kills the server in the middle of the writes; how long until it answers again. A
/// container is ordered just before.
fn killed_and_restarted(cluster: &Cluster, told: &Acknowledged, made: &str) -> Result<Duration> {
    until("the writers to be at it", LIMIT, || {
        let count = told.count()?;
        ensure!(count > 50, "{count} objects are created");
        Ok(())
    })?;
    cluster.apply(made)?.ok()?;
    cluster.kill_server()?;
    let begun = std::time::Instant::now();
    cluster.start(&[])?;
    until("the API to answer", LIMIT, || {
        cluster.kubectl(&["get", "configmap", "load"])?.ok()
    })?;
    Ok(begun.elapsed())
}

fn no_write_lost(cluster: &Cluster, told: &Acknowledged) -> Result<()> {
    let created = told.created.lock().map_err(|e| anyhow::anyhow!("{e}"))?;
    let once: BTreeSet<_> = created.iter().collect();
    // What was lost would have been created a second time by the writers, who do not give up.
    ensure!(
        once.len() == created.len(),
        "acknowledged and created again: {created:?}"
    );
    let there = cluster
        .kubectl(&["get", KINDS, "-n", "acme", "-l", "load", "-o", "name"])?
        .ok()?;
    let there: BTreeSet<_> = there.lines().map(str::to_owned).collect();
    let lost: Vec<_> = once.into_iter().filter(|c| !there.contains(*c)).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    ensure!(there.len() == 260, "{} objects of 260", there.len());
    let config = cluster.get("configmap", "default", "load")?;
    let value = config["data"]["n"]
        .as_str()
        .and_then(|n| n.parse::<u64>().ok());
    let acknowledged = told.value.load(Ordering::SeqCst);
    ensure!(
        value.is_some_and(|v| v >= acknowledged),
        "{acknowledged} was acknowledged, {value:?} is there"
    );
    Ok(())
}

/// What a Host says on its way, in order.
const WAY: [&str; 6] = [
    "Ordering",
    "CopyingBinary",
    "IssuingCredential",
    "StartingAgent",
    "Installed",
    "Heartbeat",
];

/// How far `host` is on [`WAY`].
fn progress(cluster: &Cluster, host: &str) -> Result<usize> {
    let object = cluster.get("host", "default", host)?;
    let conditions = object["status"]["conditions"].as_array().cloned();
    let reasons = conditions.unwrap_or_default();
    let place = |c: &serde_json::Value| WAY.iter().position(|w| c["reason"] == *w);
    let far = reasons.iter().filter_map(place).max();
    far.with_context(|| format!("{host} has not begun"))
}

fn bootstrap(cluster: &Cluster) -> Result<()> {
    let hosts = ["late-1", "late-2"];
    let mut manifest = String::new();
    for host in hosts {
        let _ = write!(
            manifest,
            "{HEAD}kind: Host\nmetadata: {{name: {host}}}\nspec: {{cloud: east, machineType: east-small, publicAddress: true}}\n"
        );
    }
    cluster.apply(&manifest)?.ok()?;
    let points = WAY.iter().enumerate().take(WAY.len() - 1);
    for (point, reason) in points {
        until(&format!("late-1 to say {reason}"), LIMIT, || {
            let far = progress(cluster, "late-1")?;
            ensure!(far >= point, "it says {}", WAY[far]);
            Ok(())
        })?;
        cluster.kill_server()?;
        cluster.start(&[])?;
    }
    cluster
        .kubectl(&[
            "wait",
            "host/late-1",
            "host/late-2",
            "--for=condition=Ready",
            "--timeout=60s",
        ])?
        .ok()?;
    for host in hosts {
        let machines = cluster.machines(host)?;
        ensure!(machines.len() == 1, "{host} has the machines {machines:?}");
    }
    until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    cluster
        .kubectl(&["delete", "host", "late-1", "late-2"])?
        .ok()?;
    for host in hosts {
        until(&format!("nothing of {host} to be left"), LIMIT, || {
            let traces = cluster.traces(host)?;
            ensure!(traces.is_empty(), "{traces:?}");
            Ok(())
        })?;
    }
    Ok(())
}
