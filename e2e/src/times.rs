//! Times that the cases measured, kept for the report.

use std::io::Write;
use std::time::Duration;

/// Appends one measured time to `target/report/drift.jsonl`.
///
/// # Errors
/// When the file cannot be written.
pub fn record(name: &str, took: Duration) -> anyhow::Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/report");
    std::fs::create_dir_all(&folder)?;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("drift.jsonl"))?;
    writeln!(
        file,
        "{}",
        serde_json::json!({ "name": format!("spine.drift.{name}"), "value": took.as_secs_f64(), "unit": "s" })
    )?;
    Ok(())
}
