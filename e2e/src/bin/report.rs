//! `make report`: measures and writes `target/report/`.

use anyhow::Result;
use skysail_e2e::report::{Report, migration, placement, spine};
use std::path::Path;
use std::process::ExitCode;

/// Measures a group of figures, or one part of it, into the report.
type Measure = fn(&mut Report, Option<&str>) -> Result<()>;

const GROUPS: [(&str, Measure); 3] = [
    ("spine", spine::measure),
    ("migration", migration::measure),
    ("placement", placement::measure),
];

fn main() -> ExitCode {
    let only = std::env::args().nth(1).filter(|o| !o.is_empty());
    let (group, part) = match only
        .as_deref()
        .map(|o| o.split_once('.').unwrap_or((o, "")))
    {
        None => (None, None),
        Some((group, "")) => (Some(group), None),
        Some((group, part)) => (Some(group), Some(part)),
    };
    let wanted = || {
        GROUPS
            .iter()
            .filter(|(name, _)| group.is_none_or(|g| g == *name))
    };
    if wanted().next().is_none() {
        let known: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "report: {} is not measured; this version measures {}",
            group.unwrap_or_default(),
            known.join(", ")
        );
        return ExitCode::FAILURE;
    }
    let mut report = Report::default();
    let result = wanted().try_for_each(|(_, measure)| measure(&mut report, part));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/report");
    if let Err(e) = result.and_then(|()| report.write(&folder)) {
        eprintln!("report: {e:#}");
        return ExitCode::FAILURE;
    }
    println!("{}", folder.join("report.md").display());
    ExitCode::SUCCESS
}
