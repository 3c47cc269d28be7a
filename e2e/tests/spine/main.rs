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

use skysail_e2e::{Cluster, suite};
use std::path::Path;
use std::process::ExitCode;

/// A case: its name is a sentence.
pub type Case = (&'static str, fn(&Cluster) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
    let cases = [
        isolation::CASES,
        refusals::CASES,
        containers::CASES,
        placement::CASES,
        policies::CASES,
        drift::CASES,
        faults::CASES,
        upgrade::CASES,
    ];
    let cases = cases.concat().into_iter();
    suite::run(
        || Cluster::up("e2e", &manifests),
        cases.map(|(name, case)| (name, move |cluster: &mut Cluster| case(cluster))),
    )
}
