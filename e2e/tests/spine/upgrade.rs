//! The server becomes another build, and the agents with it.

use crate::Case;
use anyhow::{Result, ensure};
use serde_json::Value;
use skysail_e2e::{Cluster, Pinging, census, times, until};
use std::io::Write;
use std::time::Duration;

pub const CASES: &[Case] = &[(
    "agents_of_another_build_are_replaced_and_no_container_notices",
    agents,
)];

const LIMIT: Duration = Duration::from_secs(120);

fn hosts(cluster: &Cluster) -> Result<Vec<Value>> {
    let list = cluster.kubectl(&["get", "hosts", "-o", "json"])?.ok()?;
    let list: Value = serde_json::from_str(&list)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Waits until every agent runs `build`, and every Host says so.
fn all_run(cluster: &Cluster, build: &str) -> Result<Duration> {
    let (_, took) = until("every agent to be of the server's build", LIMIT, || {
        for host in hosts(cluster)? {
            let conditions = host["status"]["conditions"].as_array();
            let find = |kind: &str| {
                let all = conditions.into_iter().flatten();
                all.clone().find(|c| c["type"] == kind).cloned()
            };
            let (current, ready) = (find("AgentCurrent"), find("Ready"));
            let is = |c: &Option<Value>| c.as_ref().is_some_and(|c| c["status"] == "True");
            ensure!(is(&ready), "{}: {ready:?}", host["metadata"]["name"]);
            ensure!(
                host["status"]["agentBuild"] == build && is(&current),
                "{}: {current:?}",
                host["metadata"]["name"]
            );
        }
        Ok(())
    })?;
    Ok(took)
}

fn digest(program: &std::path::Path) -> Result<String> {
    let output = std::process::Command::new("sha256sum")
        .arg(program)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

fn agents(cluster: &Cluster) -> Result<()> {
    let (before, _) = until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    let folder = tempfile::tempdir()?;
    let newer = folder.path().join("skysail");
    std::fs::copy(cluster.program(), &newer)?;
    // A byte more at its end makes it another build that does the same.
    std::fs::OpenOptions::new()
        .append(true)
        .open(&newer)?
        .write_all(b"\n")?;
    let (old, new) = (digest(cluster.program())?, digest(&newer)?);
    ensure!(old != new, "{old}");
    all_run(cluster, &old)?;

    let pinging = Pinging::start(cluster, "acme", "db", "web-0")?;
    let upgraded = (|| {
        cluster.start_as(&newer, &[])?;
        let took = all_run(cluster, &new)?;
        times::record("agents_upgraded", took)
    })();
    // And back: the program file goes with this test.
    cluster.start(&[])?;
    upgraded?;
    all_run(cluster, &old)?;
    pinging.unbroken()?;
    let (after, _) = until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    Ok(())
}
