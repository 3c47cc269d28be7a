//! A host that is too busy is relieved, end to end: real processes use real memory, the agents tell, a policy first
//! only says what it would do, then does it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skysail_e2e::busy::{self, CALM, CONTAINERS, HOT, LIMIT};
use skysail_e2e::{Cluster, suite, until};
use std::process::ExitCode;
use std::time::Instant;

type Case = (&'static str, fn(&Cluster) -> Result<()>);

const CASES: &[Case] = &[(
    "a_busy_host_is_relieved_by_a_move_that_was_said_before_and_then_nothing_moves_any_more",
    relieved,
)];

fn main() -> ExitCode {
    let cases = CASES.iter().copied();
    suite::run(
        || busy::up("e2ebal"),
        cases.map(|(name, case)| (name, move |cluster: &mut Cluster| case(cluster))),
    )
}

/// By memory, since how much of the cores a host gets depends on what else this machine does; cold, for the time that
/// an unoptimized build takes to send memory.
const POLICY: &str = "hotspot: {memory: 75, target: 64}, migration: Cold";

fn policy(cluster: &Cluster) -> Result<Value> {
    Ok(cluster.get("rebalancepolicy", "default", "relief")?["status"].clone())
}

fn relieved(cluster: &Cluster) -> Result<()> {
    busy::policy(cluster, "Report", POLICY)?;
    busy::work(cluster, busy::REMEMBER)?;
    let (said, _) = until("a proposal", LIMIT, || {
        let status = policy(cluster)?;
        let said = status["proposals"][0].clone();
        ensure!(said["to"] == CALM, "{status}");
        Ok(said)
    })?;
    ensure!(said["from"] == HOT && said["waits"] == "Report", "{said}");
    ensure!(
        said["reason"].to_string().contains("of its memory"),
        "{said}"
    );
    let moves = cluster.kubectl(&["get", "mig", "-A", "-o", "name"])?.ok()?;
    ensure!(
        moves.trim().is_empty(),
        "a policy that reports made {moves}"
    );
    busy::policy(cluster, "Automatic", POLICY)?;
    busy::relief(cluster, Instant::now())?;
    let status = policy(cluster)?;
    let decided = status["decisions"][0].clone();
    let name = decided["container"]
        .as_str()
        .context("a decision")?
        .trim_start_matches("acme/")
        .to_owned();
    ensure!(
        CONTAINERS.contains(&name.as_str()) && busy::host(cluster, &name)? == CALM,
        "{decided}"
    );
    ensure!(status["moved"] == 1, "{status}");
    let events = cluster
        .kubectl(&[
            "get",
            "events",
            "--field-selector",
            "involvedObject.name=relief",
        ])?
        .ok()?;
    ensure!(events.contains("RelieveHotspots"), "{events}");
    // It settles: what was hot is hot no more, and nothing else is proposed.
    until("calm", LIMIT, || {
        let status = policy(cluster)?;
        ensure!(
            status["hot"].is_null() && status["moving"] == 0 && status["open"] == 0,
            "{status}"
        );
        ensure!(status["moved"] == 1, "{status}");
        Ok(())
    })
    .map(drop)
}
