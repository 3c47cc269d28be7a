//! Placement: how fast Hosts are chosen (`speed`), what is bought next to other ways to buy (`packing`), and how soon a
//! host that is too busy is relieved (`relief`, on real hosts).

use super::{Better, Report, quantile};
use crate::busy;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Placements per second of kube-scheduler at 5 000 nodes that its own CI asks for
/// (`test/integration/scheduler_perf/misc/performance-config.yaml`, Kubernetes 1.34).
const KUBE_SCHEDULER: f64 = 680.0;
/// Seconds within which Sandpiper relieves a hotspot (Wood et al., NSDI 2007).
const SANDPIPER: f64 = 20.0;

/// Measures all parts, or one.
///
/// # Errors
/// When a benchmark cannot be built or run, or no system comes up.
pub fn measure(report: &mut Report, part: Option<&str>) -> Result<()> {
    let parts = ["speed", "packing", "relief"];
    ensure!(
        part.is_none_or(|p| parts.contains(&p)),
        "placement measures {}",
        parts.join(", ")
    );
    let wanted = |name: &str| part.is_none_or(|p| p == name);
    if wanted("speed") {
        for line in example("skysail-controllers", "bench_placement")? {
            speed(report, &line);
        }
    }
    if wanted("packing") {
        packing(report, &example("skysail-simulator", "compare_packing")?);
    }
    if wanted("relief")
        && let Err(e) = relief(report)
    {
        let text = format!("placement.relief could not be measured: {e:#}");
        report.note("placement.relief", text);
    }
    Ok(())
}

/// The JSON lines that an example prints.
fn example(package: &str, name: &str) -> Result<Vec<Value>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let run = ["run", "--release", "--locked", "-q", "-p", package];
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(run)
        .args(["--example", name])
        .current_dir(root)
        .output()
        .context("running cargo")?;
    ensure!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let line = |line: &str| serde_json::from_str(line).context(line.to_owned());
    text.lines().map(line).collect()
}

fn speed(report: &mut Report, line: &Value) {
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

/// The mean over the seeds, by shape of sizes and number of containers.
fn packing(report: &mut Report, lines: &[Value]) {
    let mut groups: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for line in lines {
        let shape = line["shape"].as_str().unwrap_or_default();
        let group = format!("{shape}-{}", line["containers"]);
        groups.entry(group).or_default().push(line);
    }
    for (group, lines) in groups {
        let sum = |key: &str| lines.iter().filter_map(|l| l[key].as_f64()).sum::<f64>();
        let price = sum("price");
        for (name, key, aim) in [
            ("of-one-machine-each", "alone", Some(0.5)),
            ("of-best-fit", "bestFit", Some(1.0)),
            ("of-bound", "bound", Some(1.05)),
        ] {
            let name = format!("placement.packing.{group}-{name}");
            report.add(name, price / sum(key), "x", Better::Lower).aim = aim;
        }
        let took = sum("took") / lines.len() as f64;
        let name = format!("placement.packing.{group}-took");
        report.add(name, took, "s", Better::Lower);
    }
    report.note("placement.packing", "placement.packing: what the pools' planner buys for that many containers at once, over two clouds with 24 machine types, divided by the price of one machine per container, of best-fit decreasing, and of a linear program's bound below which no purchase can be. `sizes`: powers of two as people order VMs; `tasks`: a heavy tail as in clusters' traces.");
}

/// Real processes on two sandbox hosts of one core, with the policy's defaults.
fn relief(report: &mut Report) -> Result<()> {
    let cluster = busy::up("relief")?;
    busy::policy(&cluster, "Automatic", "cooldown: 1s")?;
    let mut all: [Vec<f64>; 3] = Default::default();
    for _ in 0..3 {
        busy::work(&cluster, busy::COMPUTE)?;
        let seen = busy::relief(&cluster, Instant::now())?;
        for (values, value) in all.iter_mut().zip([seen.decided, seen.moved, seen.calm]) {
            values.push(value.as_secs_f64());
        }
        busy::again(&cluster)?;
    }
    let [decided, moved, calm] = &mut all;
    report.add(
        "placement.relief.decided",
        quantile(decided, 0.5),
        "s",
        Better::Lower,
    );
    let relieved = report.add(
        "placement.relief.moved",
        quantile(moved, 0.5),
        "s",
        Better::Lower,
    );
    relieved.aim = Some(15.0);
    relieved.baseline = Some(SANDPIPER);
    report.add(
        "placement.relief.calm",
        quantile(calm, 0.5),
        "s",
        Better::Lower,
    );
    report.note("placement.relief", "placement.relief: from the moment in which two containers begin to use all of a host until a Migration is there, until the container runs on the other host, until the host's agent has said that it is calm; the median of three, live where the hosts can.");
    Ok(())
}
