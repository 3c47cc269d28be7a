//! Resident memory of the server and of an agent, by containers on its host.

use crate::report::{Better, Report};
use crate::{Cluster, until};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::time::Duration;

const HOST: &str = "west-2";
/// So small that 50 fit on a host of the quickstart.
const MINI: &str = "apiVersion: skysail.dev/v1alpha1\nkind: InstanceType\nmetadata: {name: mini, namespace: acme}\n\
    spec: {cpu: 20m, memory: 16Mi, disk: 16Mi}\n";

pub fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    super::start::small(cluster)?;
    cluster.apply(MINI)?.ok()?;
    for count in [0usize, 10, 50] {
        let mut manifest = String::new();
        for i in 0..count {
            writeln!(
                manifest,
                "---\napiVersion: skysail.dev/v1alpha1\nkind: Container\nmetadata: {{name: m{i}, namespace: acme, labels: {{probe: memory}}}}\n\
                 spec: {{image: small, instanceType: mini, networks: [{{name: private}}], placement: {{host: {HOST}}}}}"
            )?;
        }
        if count > 0 {
            cluster.apply(&manifest)?.ok()?;
            cluster
                .kubectl(&[
                    "wait",
                    "containers",
                    "-n",
                    "acme",
                    "-l",
                    "probe=memory",
                    "--for=condition=Ready",
                    "--timeout=180s",
                ])?
                .ok()?;
        }
        let agent = agent(cluster)?;
        let metric = report.add(
            format!("spine.memory.agent.{count}"),
            agent,
            "MB",
            Better::Lower,
        );
        metric.aim = Some(30.0 + 5.0 * count as f64);
        report.add(
            format!("spine.memory.server.{count}"),
            server(cluster)?,
            "MB",
            Better::Lower,
        );
    }
    cluster
        .kubectl(&["delete", "containers", "-n", "acme", "-l", "probe=memory"])?
        .ok()
        .map(drop)
}

fn resident(status: &str) -> Result<f64> {
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .context("no VmRSS")?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|v| v.parse().ok())
        .context("VmRSS is no number")?;
    Ok(kib / 1024.0)
}

fn agent(cluster: &Cluster) -> Result<f64> {
    let (text, _) = until("the agent to be found", Duration::from_secs(10), || {
        let text = cluster
            .on_host(
                HOST,
                "cat /proc/$(pgrep -o -f '^/usr/local/bin/skysail agent')/status",
            )?
            .ok()?;
        ensure!(text.contains("VmRSS"), "no process");
        Ok(text)
    })?;
    resident(&text)
}

fn server(cluster: &Cluster) -> Result<f64> {
    let pid = cluster.server_pid()?;
    resident(&std::fs::read_to_string(format!("/proc/{pid}/status"))?)
}
