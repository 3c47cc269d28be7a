//! The spine, end to end: one system with real hosts, and everything that a user may
//! do to it or break on it. The cases share the system and run in order; each leaves
//! it as it found it.

mod containers;
mod drift;
mod faults;
mod isolation;
mod placement;
mod policies;
mod refusals;
mod upgrade;

use libtest_mimic::{Arguments, Failed, Trial};
use skysail_e2e::Cluster;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// A case: its name is a sentence.
pub type Case = (&'static str, fn(&Cluster) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let cases: Vec<Case> = [
        isolation::CASES,
        refusals::CASES,
        containers::CASES,
        placement::CASES,
        policies::CASES,
        drift::CASES,
        faults::CASES,
        upgrade::CASES,
    ]
    .concat();
    if arguments.list {
        let trials = cases
            .into_iter()
            .map(|(name, _)| Trial::test(name, || Ok(())))
            .collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
    let cluster = match Cluster::up("e2e", &manifests) {
        Ok(cluster) => Arc::new(cluster),
        Err(e) => {
            eprintln!("the system did not come up: {e:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = cases
        .into_iter()
        .map(|(name, case)| {
            let cluster = Arc::clone(&cluster);
            Trial::test(name, move || {
                case(&cluster).map_err(|e| Failed::from(format!("{e:#}")))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(cluster); // `exit_code` does not unwind: remove the system first
    conclusion.exit_code()
}
