//! The quickstart from nothing to all ready: the very first time, and with the root filesystems at hand.

use crate::Cluster;
use crate::report::{Better, Report};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Up with what the cache has; a system that the other parts measure.
///
/// # Errors
/// When no system comes up.
pub fn cached(report: &mut Report, manifests: &Path) -> Result<Cluster> {
    // Fills the cache if it is empty.
    drop(Cluster::up("report", manifests)?);
    let cluster = Cluster::planned("report", &[])?;
    started(&cluster, report, manifests, "cached")?.aim = Some(20.0);
    Ok(cluster)
}

/// From sources and an empty cache, which both are made for this and removed again.
///
/// # Errors
/// When it cannot be built or does not come up.
pub fn first(report: &mut Report, manifests: &Path) -> Result<()> {
    let scratch = Scratch::new()?;
    let begun = Instant::now();
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["build", "--release", "--quiet", "--locked", "-p", "skysail"])
        .env("CARGO_TARGET_DIR", scratch.0.join("build"))
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let took = begun.elapsed().as_secs_f64();
    report.add("spine.quickstart.build", took, "s", Better::Lower);
    let mut cluster = Cluster::planned("report", &[])?;
    cluster.cache_in(scratch.0.join("cache"));
    started(&cluster, report, manifests, "cold")?.aim = Some(60.0);
    Ok(())
}

/// The time until all is up, and when each kind was ready, as `skysail up` tells it.
fn started<'a>(
    cluster: &Cluster,
    report: &'a mut Report,
    manifests: &Path,
    name: &str,
) -> Result<&'a mut crate::report::Metric> {
    let begun = Instant::now();
    let lines = cluster.start_told(&["-f", &manifests.to_string_lossy()])?;
    let took = begun.elapsed().as_secs_f64();
    let marks = lines.iter().find_map(|l| l.split_once("ready after: "));
    let (_, marks) = marks.context("skysail up does not tell when what was ready")?;
    for (what, seconds) in marks.split(", ").filter_map(mark) {
        let what = what.replace(' ', "_");
        report.add(
            format!("spine.quickstart.{name}.{what}"),
            seconds,
            "s",
            Better::Lower,
        );
    }
    Ok(report.add(format!("spine.quickstart.{name}"), took, "s", Better::Lower))
}

/// `root filesystem 24.1 s` as what and when.
fn mark(text: &str) -> Option<(&str, f64)> {
    let (what, seconds) = text.trim().strip_suffix(" s")?.rsplit_once(' ')?;
    Some((what, seconds.parse().ok()?))
}

/// A folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/report/first");
        if at.exists() {
            std::fs::remove_dir_all(&at)?;
        }
        std::fs::create_dir_all(&at)?;
        Ok(Self(at.canonicalize()?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("report: {} stays: {e}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_thing_and_the_second_at_which_it_was_ready() {
        assert_eq!(
            mark("root filesystem 24.1 s"),
            Some(("root filesystem", 24.1))
        );
        assert_eq!(mark("hosts"), None);
    }
}
