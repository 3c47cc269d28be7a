//! From `apply` to running (condition `Ready`) and to the first answered ping, by how many containers start at once, next
//! to raw `lxc-start` of the same container on one of the hosts in the same run.
//!
//! A prober inside the tenant's network pings every address each 10 ms from before the
//! apply on, with the hardware addresses known beforehand, so that no ARP retry of a
//! second is measured. All clocks are one: the machine's.

use crate::report::{Better, Report, quantile};
use crate::{Cluster, until};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds that a start may take more than LXC alone.
const MARGIN: f64 = 150.0;
/// Where raw LXC runs.
const HOST: &str = "west-2";
const IMAGE: &str = "apiVersion: skysail.dev/v1alpha1\nkind: Image\nmetadata: {name: small}\n\
    spec:\n  debian: {suite: trixie, packages: [busybox-static, iproute2]}\n  init: [/bin/busybox, init]\n---\n\
    apiVersion: skysail.dev/v1alpha1\nkind: InstanceType\nmetadata: {name: tiny, namespace: acme}\n\
    spec: {cpu: 90m, memory: 32Mi, disk: 16Mi}\n";

pub fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    small(cluster)?;
    at_once(cluster, 8)?; // the image reaches every host
    let digest = cluster.get("image", "default", "small")?["status"]["digest"]
        .as_str()
        .context("the image has no digest")?
        .replace(':', "-");
    raw(cluster, &digest, 1)?; // warms LXC as the 8 did
    for (count, rounds) in [(1, 10), (4, 5), (16, 3), (64, 1)] {
        let (mut ours, mut plain) = (vec![], vec![]);
        for _ in 0..rounds {
            ours.extend(at_once(cluster, count)?);
            plain.extend(raw(cluster, &digest, count)?);
        }
        let name = format!("spine.start.{count}");
        for (quantity, q) in [("median", 0.5), ("p95", 0.95)] {
            let baseline = quantile(&mut plain, q);
            let metric = report.add(
                format!("{name}.{quantity}"),
                quantile(&mut ours, q),
                "ms",
                Better::Lower,
            );
            (metric.aim, metric.baseline) = (Some(baseline + MARGIN), Some(baseline));
        }
    }
    report.note(
        "spine.start",
        "spine.start: the baseline is raw lxc-start with a veth on a bridge. Published for comparison: \
         docker run 440 ms, flat up to 16; measured elsewhere on such a machine: Incus 305 ms for one, 1 230 ms for 8.",
    );
    Ok(())
}

/// Makes the image `small` and the instance type `tiny`.
pub fn small(cluster: &Cluster) -> Result<()> {
    cluster.apply(IMAGE)?.ok()?;
    cluster
        .kubectl(&[
            "wait",
            "image/small",
            "--for=condition=Ready",
            "--timeout=180s",
        ])?
        .ok()
        .map(drop)
}

/// Starts `count` raw LXC containers at once on a host; milliseconds until each answered.
fn raw(cluster: &Cluster, digest: &str, count: usize) -> Result<Vec<f64>> {
    let script = include_str!("raw.sh");
    let text = cluster
        .on_host(
            HOST,
            &format!(
                "count={count} interval={} image=/var/lib/skysail/images/{digest}/rootfs\n{script}",
                interval(count)
            ),
        )?
        .ok()?;
    let times: Vec<f64> = text
        .lines()
        .filter_map(|l| l.trim().parse::<f64>().ok())
        .map(|us| us / 1e3)
        .collect();
    ensure!(times.len() == count, "{} of {count} answered", times.len());
    Ok(times)
}

fn address(i: usize) -> String {
    format!("10.0.0.{}", 100 + i)
}

/// Starts `count` containers at once; milliseconds until each was Ready and had answered.
fn at_once(cluster: &Cluster, count: usize) -> Result<Vec<f64>> {
    let times = started(cluster, count);
    cluster
        .kubectl(&["delete", "containers", "-n", "acme", "-l", "probe=start"])?
        .ok()?;
    times
}

fn started(cluster: &Cluster, count: usize) -> Result<Vec<f64>> {
    let vni = cluster.get("network", "acme", "private")?["status"]["vni"]
        .as_u64()
        .context("no vni")?;
    let mut prober = String::from("rm -rf /run/probe; mkdir /run/probe; ");
    let mut manifest = String::new();
    for i in 0..count {
        let target = address(i);
        write!(
            prober,
            "ip neigh replace {target} lladdr 02:{:02x}:0a:00:00:{:02x} dev eth0 nud permanent; ",
            vni & 0xff,
            100 + i
        )?;
        write!(
            prober,
            "(ping -q -i {} -c 1 -w 60 {target} >/dev/null 2>&1 && date +%s%N >/run/probe/{i}) & ",
            interval(count)
        )?;
        writeln!(
            manifest,
            "---\napiVersion: skysail.dev/v1alpha1\nkind: Container\nmetadata: {{name: s{i}, namespace: acme, labels: {{probe: start}}}}\n\
             spec: {{image: small, instanceType: tiny, networks: [{{name: private, address: {target}}}]}}"
        )?;
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &manifest)?;
    let script = format!("setsid sh -c '{prober} wait' >/dev/null 2>&1 </dev/null &");
    cluster.exec("acme", "db", &["sh", "-c", &script])?.ok()?;
    let ready = Ready::follow(cluster)?;
    let begun = now()?;
    cluster
        .skysail(&["apply", "-f", &file.path().to_string_lossy()])?
        .ok()?;
    // Asking for the answers costs a core: not before all are Ready. Each bears its own time.
    let ready = ready.of(count)?;
    let (answers, _) = until("every container to answer", Duration::from_secs(90), || {
        let text = cluster
            .exec(
                "acme",
                "db",
                &["sh", "-c", "cd /run/probe && grep -H . * 2>/dev/null"],
            )?
            .stdout;
        let answers: BTreeMap<String, f64> = text
            .lines()
            .filter_map(|l| l.split_once(':'))
            .filter_map(|(i, at)| Some((format!("s{i}"), at.trim().parse().ok()?)))
            .collect();
        ensure!(answers.len() == count, "{} of {count}", answers.len());
        Ok(answers)
    })?;
    answers
        .into_iter()
        .map(|(name, at)| {
            let ready = ready.get(&name).context("a container of another start")?;
            Ok((at.max(*ready) - begun) / 1e6)
        })
        .collect()
}

/// Seconds between two pings: fewer where many ping, so that the probes are not what is measured.
fn interval(count: usize) -> f64 {
    match count {
        ..=4 => 0.01,
        5..=16 => 0.02,
        _ => 0.05,
    }
}

/// Nanoseconds since 1970.
fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as f64)
}

/// Follows the containers' `Ready` condition by a watch.
struct Ready {
    watch: Child,
    seen: Receiver<(String, f64)>,
}

impl Ready {
    fn follow(cluster: &Cluster) -> Result<Self> {
        let mut watch = Command::new("kubectl")
            .env("KUBECONFIG", cluster.kubeconfig())
            .args(["get", "containers", "-n", "acme", "-l", "probe=start", "-w"])
            .args([
                "-o",
                r#"jsonpath={.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}"#,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(watch.stdout.take().context("no output")?).lines();
        let (tell, seen) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let (Some(name), Ok(at)) = (line.strip_suffix(" True"), now()) {
                    let _ = tell.send((name.to_owned(), at));
                }
            }
        });
        Ok(Self { watch, seen })
    }

    /// When each of `count` containers was Ready first.
    fn of(self, count: usize) -> Result<BTreeMap<String, f64>> {
        let mut first = BTreeMap::new();
        while first.len() < count {
            let (name, at) = self
                .seen
                .recv_timeout(Duration::from_secs(60))
                .with_context(|| format!("{} of {count} were Ready", first.len()))?;
            first.entry(name).or_insert(at);
        }
        Ok(first)
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}
