//! Placement: how fast Hosts are chosen, by `controllers/examples/bench_placement.rs`.

use super::{Better, Report};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Placements per second of kube-scheduler at 5 000 nodes that its own CI asks for
/// (`test/integration/scheduler_perf/misc/performance-config.yaml`, Kubernetes 1.34).
const KUBE_SCHEDULER: f64 = 680.0;

/// Measures.
///
/// # Errors
/// When the benchmark cannot be built or run.
pub fn measure(report: &mut Report, part: Option<&str>) -> Result<()> {
    ensure!(
        part.is_none_or(|p| p == "speed"),
        "placement measures speed"
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let run = [
        "run",
        "--release",
        "--locked",
        "-q",
        "-p",
        "skysail-controllers",
    ];
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(run)
        .args(["--example", "bench_placement"])
        .current_dir(root)
        .output()
        .context("running cargo")?;
    ensure!(
        output.status.success(),
        "bench_placement: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for line in String::from_utf8(output.stdout)?.lines() {
        figures(
            report,
            &serde_json::from_str(line).context(line.to_owned())?,
        );
    }
    Ok(())
}

fn figures(report: &mut Report, line: &Value) {
    let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
    let hosts = number("hosts");
    let rate = report.add(
        format!("placement.speed.rate-{hosts}"),
        number("placementsPerSecond"),
        "/s",
        Better::Higher,
    );
    if hosts == 5000.0 {
        rate.aim = Some(5000.0);
        rate.baseline = Some(KUBE_SCHEDULER);
    }
    for (name, key, aim) in [
        ("decision-p50", "decisionMsP50", None),
        ("decision-p99", "decisionMsP99", Some(5.0)),
        ("snapshot", "snapshotMs", None),
    ] {
        let name = format!("placement.speed.{name}-{hosts}");
        report.add(name, number(key), "ms", Better::Lower).aim = aim;
    }
}
