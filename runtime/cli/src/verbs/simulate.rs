//! `skysail simulate`: a fleet that exists only in a file, on a clock that does not wait. Speaks to no server.

use crate::print::Output;
use anyhow::{Context as _, Result, bail};
use skysail_simulator::{Scenario, simulate};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Flags of `simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, as a file busy.yaml:
  name: busy
  duration: 2h
  clouds:
    - {name: east, machineTypes: [{name: small, cpu: 2, memory: 4Gi, price: \"0.04\"}]}
  pools:
    - {name: pool, spec: {max: 8}}
  policies:
    - {name: default, spec: {mode: Automatic}}
  instanceTypes:
    - {name: one, spec: {cpu: 500m, memory: 512Mi}}
  workloads:
    - {name: web, instanceType: one, count: 10, cpu: {base: 20, peak: 90, period: 1h}}
  events:
    - {at: 30m, cordon: pool-0}
then:
  skysail simulate -f busy.yaml                 what happens, and what it costs
  skysail simulate -f busy.yaml --seed 7        the same with other chances
  skysail simulate -f busy.yaml --json          for programs; policies' statuses with every decision's numbers

The planners are those of the server: placement, host pools and rebalancing do here what they would do there. A longer
example is e2e/scenarios/shop.yaml. To replay a history, give a workload's `cpu` or `memory` as `points`, for
example {points: [[0s, 20], [90m, 75]]}.

Exit codes: 0 all laws held, 1 one was broken or the scenario is wrong.")]
pub struct Simulate {
    /// The scenario: a file, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    filename: PathBuf,
    /// For programs instead of people
    #[arg(long)]
    json: bool,
    /// What chance begins with; else what the scenario says
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// Runs the verb.
///
/// # Errors
/// When the scenario is wrong or a law was broken.
pub fn run(args: &Simulate) -> Result<()> {
    let text = read(&args.filename)?;
    let mut scenario =
        Scenario::parse(&text).with_context(|| args.filename.display().to_string())?;
    if let Some(seed) = args.seed {
        scenario.seed = seed;
    }
    let run = simulate(scenario);
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&run.json())?)
    } else {
        run.text()
    };
    Output::stdout().write(&text)?;
    let broken = &run.account().broken;
    if !broken.is_empty() {
        bail!("a law was broken: {}", broken.join("; "));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}
