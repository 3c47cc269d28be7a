//! `make report`: measures and writes `target/report/`.

use skysail_e2e::report::{Report, spine};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let only = std::env::args().nth(1);
    let mut report = Report::default();
    let (group, part) = match only
        .as_deref()
        .map(|o| o.split_once('.').unwrap_or((o, "")))
    {
        None => ("spine", None),
        Some((group, "")) => (group, None),
        Some((group, part)) => (group, Some(part)),
    };
    let result = match group {
        "spine" => spine::measure(&mut report, part),
        other => {
            eprintln!("report: this version measures: spine; {other:?} comes with its feature");
            return ExitCode::FAILURE;
        }
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/report");
    if let Err(e) = result.and_then(|()| report.write(&folder)) {
        eprintln!("report: {e:#}");
        return ExitCode::FAILURE;
    }
    println!("{}", folder.join("report.md").display());
    ExitCode::SUCCESS
}
