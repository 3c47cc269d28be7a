//! Listing 10 000 objects, and the stores' durable creates per second next to raw etcd.

use crate::Cluster;
use crate::report::{Better, Report};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::process::Command;
use std::time::Instant;

pub fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    stores(report)?;
    let mut list = String::from("apiVersion: v1\nkind: List\nitems:\n");
    for i in 0..10_000 {
        writeln!(
            list,
            "- {{apiVersion: skysail.dev/v1alpha1, kind: InstanceType, metadata: {{name: t{i}, namespace: default}}, spec: {{cpu: 1, memory: 64Mi}}}}"
        )?;
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), list)?;
    let begun = Instant::now();
    cluster
        .kubectl(&[
            "create",
            "--validate=false",
            "-f",
            &file.path().to_string_lossy(),
        ])?
        .ok()?;
    report.add(
        "spine.api.kubectl_create_10000",
        begun.elapsed().as_secs_f64(),
        "s",
        Better::Lower,
    );
    let begun = Instant::now();
    let text = cluster
        .kubectl(&[
            "get",
            "--raw",
            "/apis/skysail.dev/v1alpha1/namespaces/default/instancetypes",
        ])?
        .ok()?;
    report.add(
        "spine.api.list_10000",
        begun.elapsed().as_secs_f64() * 1e3,
        "ms",
        Better::Lower,
    );
    report.add(
        "spine.api.list_10000_size",
        text.len() as f64 / 1e6,
        "MB",
        Better::Lower,
    );
    cluster
        .kubectl(&[
            "delete",
            "instancetypes",
            "-n",
            "default",
            "--all",
            "--wait=false",
        ])?
        .ok()
        .map(drop)
}

/// Runs the store's own benchmark, which drives raw etcd in the same run.
fn stores(report: &mut Report) -> Result<()> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args([
            "run",
            "--release",
            "--quiet",
            "--locked",
            "-p",
            "skysail-store",
            "--example",
            "bench",
        ])
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|l| l.starts_with('{'))
    {
        let record: serde_json::Value = serde_json::from_str(line)?;
        let name = record["name"].as_str().context("a record without a name")?;
        let (unit, better) = match record["unit"].as_str() {
            Some("ms") => ("ms", Better::Lower),
            _ => ("1/s", Better::Higher),
        };
        report.add(
            format!("spine.store.{name}"),
            record["value"]
                .as_f64()
                .context("a record without a value")?,
            unit,
            better,
        );
    }
    Ok(())
}
