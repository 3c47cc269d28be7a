//! The figures of live migration: how long a container stands still, by its own clock and by a client's, next to
//! bare CRIU moving the same process over the same hosts.

mod application;
mod hops;
mod raw;

use super::Report;
use crate::Cluster;
use anyhow::Result;
use std::path::Path;

/// What is moved.
struct Case {
    name: &'static str,
    /// Whether its init is systemd, or a shell that waits.
    systemd: bool,
    /// MiB of memory that the workload holds, and megabytes that it writes to it each second.
    memory: (u32, u32),
    hops: usize,
    /// The aims of the freeze in milliseconds: median and 99th percentile.
    aims: (f64, f64),
    /// The aim of the whole move in milliseconds.
    total: f64,
}

/// A container with little in it, and system containers as the quickstart makes them; each with one more process that
/// works.
const CASES: [Case; 3] = [
    Case {
        name: "small",
        systemd: false,
        memory: (1, 0),
        hops: 20,
        aims: (100.0, 300.0),
        total: 2000.0,
    },
    Case {
        name: "system",
        systemd: true,
        memory: (1, 0),
        hops: 20,
        aims: (300.0, 600.0),
        total: 2000.0,
    },
    Case {
        name: "resident256",
        systemd: true,
        memory: (256, 10),
        hops: 6,
        aims: (300.0, 600.0),
        total: 5000.0,
    },
];

/// Measures all cases, or `only` the one of that name, on one system; a case that fails becomes
/// a note, and the others go on.
///
/// # Errors
/// When no system comes up.
pub fn measure(report: &mut Report, only: Option<&str>) -> Result<()> {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
    let cluster = Cluster::up("move", &manifests)?;
    for case in &CASES {
        if only.is_some_and(|only| only != case.name) {
            continue;
        }
        let name = format!("migration.{}", case.name);
        if let Err(e) = hops::measure(&cluster, case, report) {
            report.note(&name, format!("{name} could not be measured: {e:#}"));
        }
        if let Err(e) = raw::measure(&cluster, case, report) {
            report.note(
                &name,
                format!("{name} has no figure of bare CRIU beside it: {e:#}"),
            );
        }
    }
    if only.is_none_or(|only| only == "application")
        && let Err(e) = application::measure(&cluster, report)
    {
        let name = "migration.application";
        report.note(name, format!("{name} could not be measured: {e:#}"));
    }
    Ok(())
}
