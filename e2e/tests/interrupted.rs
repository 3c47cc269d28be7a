//! `skysail up` interrupted midway, as by Ctrl-C: another one goes on, and `down` leaves nothing.

use anyhow::{Context, Result, ensure};
use skysail_e2e::{Cluster, until};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const HOSTS: [&str; 4] = ["east-1", "east-2", "west-1", "west-2"];

/// Clouds and hosts of the quickstart.
fn manifests() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
    let files = ["10-clouds.yaml", "20-hosts.yaml"].map(|f| folder.join(f));
    files
        .iter()
        .flat_map(|f| ["-f".to_owned(), f.to_string_lossy().into_owned()])
        .collect()
}

/// Interrupts `skysail up` when it prints a line with `word`; what it printed from there on.
fn interrupted(cluster: &Cluster, word: &str) -> Result<String> {
    let mut up = cluster
        .command("up")
        .args(manifests())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(up.stderr.take().context("no output")?).lines();
    let mut lines = lines.map_while(Result::ok);
    let found = lines.by_ref().any(|line| line.contains(word));
    Command::new("kill")
        .args(["-INT", &up.id().to_string()])
        .status()?;
    let rest: Vec<_> = lines.collect();
    let status = up.wait()?;
    ensure!(found, "up ended without {word:?}");
    ensure!(!status.success(), "up did not notice");
    Ok(rest.join("\n"))
}

fn down(cluster: &Cluster) -> Result<()> {
    let status = cluster.command("down").stdin(Stdio::null()).status()?;
    ensure!(status.success(), "down: {status}");
    let data = cluster.data();
    ensure!(!data.exists(), "{} is left", data.display());
    // A namespace's links go when the kernel gets to it.
    until("nothing to be left", LIMIT, || {
        let traces = cluster.traces("")?;
        ensure!(traces.is_empty(), "{traces:?}");
        Ok(())
    })
    .map(drop)
}

#[test]
fn up_interrupted_midway_goes_on_the_next_time_and_down_leaves_nothing() -> Result<()> {
    let cluster = Cluster::planned("e2e", &[])?;
    interrupted(&cluster, "Ordering")?;
    down(&cluster)?;
    for word in ["started", "applied", "Ordering", "StartingAgent"] {
        let said = interrupted(&cluster, word)?;
        ensure!(said.contains("skysail down"), "no way out in {said:?}");
    }
    let manifests = manifests();
    cluster.start(&manifests.iter().map(String::as_str).collect::<Vec<_>>())?;
    for host in HOSTS {
        let machines = cluster.machines(host)?;
        ensure!(machines.len() == 1, "{host} has the machines {machines:?}");
    }
    down(&cluster)
}
