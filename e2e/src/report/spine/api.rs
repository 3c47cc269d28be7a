//! What the API server and the stores do alone, by the benchmarks of their crates.

use crate::Cluster;
use crate::report::{Better, Report};
use anyhow::{Context, Result, ensure};
use std::process::Command;

pub fn measure(_: &Cluster, report: &mut Report) -> Result<()> {
    // Creates next to raw etcd's puts; the trait's law is what the ratio costs.
    bench(report, "skysail-store", "bench", "spine.store")?;
    bench(report, "skysail-apiserver", "bench_api", "spine.api")
}

/// Runs a crate's own benchmark, which prints a JSON object per figure.
fn bench(report: &mut Report, package: &str, example: &str, prefix: &str) -> Result<()> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["run", "--release", "--quiet", "--locked", "-p", package])
        .args(["--example", example])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut raw = std::collections::BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|l| l.starts_with('{'))
    {
        let record: serde_json::Value = serde_json::from_str(line)?;
        let name = record["name"].as_str().context("a record without a name")?;
        let value = record["value"]
            .as_f64()
            .context("a record without a value")?;
        let (unit, better) = match record["unit"].as_str() {
            Some("ms") => ("ms", Better::Lower),
            Some("MB") => ("MB", Better::Lower),
            _ => ("1/s", Better::Higher),
        };
        raw.insert(name.to_owned(), value);
        report.add(format!("{prefix}.{name}"), value, unit, better);
    }
    for (name, value) in &raw {
        for ours in ["embedded", "etcd"] {
            let Some(figure) = name.strip_prefix("raw_etcd.") else {
                continue;
            };
            report.baseline(&format!("{prefix}.{ours}.{figure}"), *value);
        }
    }
    Ok(())
}
