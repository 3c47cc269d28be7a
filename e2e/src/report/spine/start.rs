//! From `apply` to the first answered ping, by how many containers start at once.
//!
//! A prober inside the tenant's network pings every address each 10 ms from before the
//! apply on, with the hardware addresses known beforehand, so that no ARP retry of a
//! second is measured. All clocks are one: the machine's.

use crate::report::{Better, Report, quantile};
use crate::{Cluster, until};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds that `docker run` of a small container is published to take, flat up to 16.
const DOCKER: f64 = 440.0;
/// What one Incus start → ping took on the machine of the first measurements.
const INCUS: f64 = 305.0;

pub fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    cluster
        .apply(
            "apiVersion: skysail.dev/v1alpha1\nkind: Image\nmetadata: {name: small}\n\
             spec:\n  debian: {suite: trixie, packages: [busybox-static, iproute2]}\n  init: [/bin/busybox, init]\n---\n\
             apiVersion: skysail.dev/v1alpha1\nkind: InstanceType\nmetadata: {name: tiny, namespace: acme}\nspec: {cpu: 50m, memory: 32Mi, disk: 16Mi}\n",
        )?
        .ok()?;
    cluster
        .kubectl(&[
            "wait",
            "image/small",
            "--for=condition=Ready",
            "--timeout=180s",
        ])?
        .ok()?;
    at_once(cluster, 8)?; // the image reaches every host
    for (count, rounds) in [(1, 10), (4, 5), (16, 3), (64, 1)] {
        let mut all = vec![];
        for _ in 0..rounds {
            all.extend(at_once(cluster, count)?);
        }
        let (median, p95) = (quantile(&mut all, 0.5), quantile(&mut all, 0.95));
        let metric = report.add(
            format!("spine.start.{count}.median"),
            median,
            "ms",
            Better::Lower,
        );
        (metric.aim, metric.baseline) = (Some(INCUS / 2.0 + 150.0), Some(DOCKER));
        report.add(format!("spine.start.{count}.p95"), p95, "ms", Better::Lower);
    }
    Ok(())
}

fn address(i: usize) -> String {
    format!("10.0.0.{}", 100 + i)
}

/// Starts `count` containers at once; milliseconds until each answered.
fn at_once(cluster: &Cluster, count: usize) -> Result<Vec<f64>> {
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
            "(ping -q -i 0.01 -c 1 -w 60 {target} >/dev/null 2>&1 && date +%s%N >/run/probe/{i}) & "
        )?;
        writeln!(
            manifest,
            "---\napiVersion: skysail.dev/v1alpha1\nkind: Container\nmetadata: {{name: s{i}, namespace: acme, labels: {{probe: start}}}}\n\
             spec: {{image: small, instanceType: tiny, networks: [{{name: private, address: {target}}}]}}"
        )?;
    }
    let script = format!("setsid sh -c '{prober} wait' >/dev/null 2>&1 </dev/null &");
    cluster.exec("acme", "db", &["sh", "-c", &script])?.ok()?;
    let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as f64;
    cluster.apply(&manifest)?.ok()?;
    let (answers, _) = until("every container to answer", Duration::from_secs(90), || {
        let text = cluster
            .exec("acme", "db", &["sh", "-c", "cat /run/probe/* 2>/dev/null"])?
            .stdout;
        let answers: Vec<f64> = text.lines().filter_map(|l| l.trim().parse().ok()).collect();
        ensure!(answers.len() == count, "{} of {count}", answers.len());
        Ok(answers)
    })?;
    cluster
        .kubectl(&["delete", "containers", "-n", "acme", "-l", "probe=start"])?
        .ok()?;
    Ok(answers.into_iter().map(|at| (at - begun) / 1e6).collect())
}
