//! A two-tier application that moves to another cloud and back by one command, while a client uses it.

use crate::Cluster;
use crate::report::{Better, Report};
use crate::shop::{self, Shop};
use anyhow::{Context, Result};

/// There and back so often; the median counts.
const TURNS: usize = 3;
/// What Kangaroo reports for four containers, in seconds (the shorter one).
const PUBLISHED: f64 = 480.0;

/// Measures it; the client is in a container of the quickstart.
pub fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("shop");
    let mut took: Vec<f64> = vec![];
    let used = Shop::open(cluster, program, "east", "db").and_then(|shop| {
        for cloud in ["west", "east"].repeat(TURNS) {
            took.push(shop.move_to(cloud)?.as_secs_f64());
        }
        shop.close()
    });
    let removed = shop::remove(cluster);
    let seen = used?;
    removed?;
    let name = |figure: &str| format!("migration.application.{figure}");
    let number = |field: &str| seen[field].as_f64().context("not a number");
    let median = crate::report::quantile(&mut took, 0.5);
    let metric = report.add(name("total_median"), median, "s", Better::Lower);
    (metric.aim, metric.baseline) = (Some(30.0), Some(PUBLISHED));
    let worst = took.last().copied().unwrap_or(f64::NAN);
    report.add(name("total_max"), worst, "s", Better::Lower).aim = Some(30.0);
    let lost = number("lost")? + number("wrong")?;
    report
        .add(name("requests_lost"), lost, "requests", Better::Lower)
        .aim = Some(0.0);
    report.add(
        name("requests"),
        number("requests")?,
        "requests",
        Better::Higher,
    );
    report.add(name("stall_max"), number("stall_ms")?, "ms", Better::Lower);
    Ok(())
}
