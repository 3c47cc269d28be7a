//! The quickstart from nothing to all ready, with the root filesystems cached or not.

use crate::Cluster;
use crate::report::{Better, Report};
use anyhow::Result;
use std::path::Path;
use std::time::Instant;

/// Brings the system up twice: the first fills the cache if it is empty, the second finds it full.
pub fn measure(report: &mut Report, manifests: &Path) -> Result<Cluster> {
    let cache = std::env::var("SKYSAIL_CACHE").unwrap_or_else(|_| "/var/cache/skysail".into());
    let empty = std::fs::read_dir(&cache).map_or(true, |mut d| d.next().is_none());
    let begun = Instant::now();
    drop(Cluster::up("report", manifests)?);
    if empty {
        report
            .add(
                "spine.quickstart.cold",
                begun.elapsed().as_secs_f64(),
                "s",
                Better::Lower,
            )
            .aim = Some(60.0);
    } else {
        report.note("spine.cold", "The root filesystems were cached already, so the cold start was not measured; remove target/cache for it.");
    }
    let begun = Instant::now();
    let cluster = Cluster::up("report", manifests)?;
    report
        .add(
            "spine.quickstart.cached",
            begun.elapsed().as_secs_f64(),
            "s",
            Better::Lower,
        )
        .aim = Some(20.0);
    Ok(cluster)
}
