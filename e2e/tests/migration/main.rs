//! Moves of containers, end to end: two clouds, three hosts, and agents and servers that are killed at every step.

mod drain;
mod engine;
mod faults;
mod groups;
mod matrix;
mod mover;
mod moves;
mod refusals;

use skysail_e2e::{Cluster, suite};
use std::path::Path;
use std::process::ExitCode;

/// A case: its name is a sentence.
pub type Case = (&'static str, fn(&Cluster) -> anyhow::Result<()>);

fn up() -> anyhow::Result<Cluster> {
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
    let manifests = tempfile::tempdir()?;
    for file in ["10-clouds.yaml", "30-image.yaml"] {
        std::fs::copy(quickstart.join(file), manifests.path().join(file))?;
    }
    std::fs::write(manifests.path().join("rest.yaml"), mover::MANIFESTS)?;
    Cluster::up("e2emig", manifests.path())
}

fn main() -> ExitCode {
    let cases = [
        moves::CASES,
        groups::CASES,
        drain::CASES,
        refusals::CASES,
        engine::CASES,
        faults::CASES,
    ]
    .concat();
    let cases = cases.into_iter().chain(matrix::cases());
    suite::run(
        up,
        cases.map(|(name, case)| (name, move |cluster: &mut Cluster| case(cluster))),
    )
}
