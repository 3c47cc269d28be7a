//! The spine's figures: cold start, container start, overlay, memory, API.

mod api;
mod cold;
mod memory;
mod overlay;
mod start;

use super::Report;
use crate::Cluster;
use anyhow::Result;
use std::path::Path;

/// Measures one part on the running system.
type Part = fn(&Cluster, &mut Report) -> Result<()>;

/// Measures all of it, or `only` the part of that name, on one system; a part that fails
/// becomes a note, and the others go on.
///
/// # Errors
/// When no system comes up.
pub fn measure(report: &mut Report, only: Option<&str>) -> Result<()> {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
    if only.is_none_or(|only| only == "quickstart")
        && let Err(e) = cold::first(report, &manifests)
    {
        let text = format!("the first run of the quickstart could not be measured: {e:#}");
        report.note("spine.quickstart", text);
    }
    let cluster = cold::cached(report, &manifests)?;
    let parts: [(&str, Part); 4] = [
        ("start", start::measure),
        ("overlay", overlay::measure),
        ("memory", memory::measure),
        ("api", api::measure),
    ];
    for (name, part) in parts {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        if let Err(e) = part(&cluster, report) {
            report.note(
                &format!("spine.{name}"),
                format!("spine.{name} could not be measured: {e:#}"),
            );
        }
    }
    drift(report)
}

/// Times that the end-to-end cases recorded, if they ran before.
fn drift(report: &mut Report) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/report/drift.jsonl");
    let Ok(text) = std::fs::read_to_string(path) else {
        report.note("spine.drift", "The times of repairs are recorded by the end-to-end tests: run `make test` before `make report`.");
        return Ok(());
    };
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line)?;
        if let (Some(name), Some(value)) = (record["name"].as_str(), record["value"].as_f64()) {
            report.add(name, value, "s", super::Better::Lower);
        }
    }
    Ok(())
}
