//! What a live move does underneath: packets that come while the container stands, and the death of what dumps and
//! restores it.

use crate::Case;
use crate::mover::{LIMIT, Mover};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, until};
use std::io::Read;
use std::process::{Child, Stdio};

pub const CASES: &[Case] = &[
    (
        "what_is_sent_to_a_container_while_it_stands_still_reaches_it_afterwards",
        held,
    ),
    (
        "a_process_with_one_of_everything_goes_on_with_all_of_it",
        everything,
    ),
    (
        "the_death_of_criu_at_any_moment_of_a_live_move_loses_nothing",
        criu,
    ),
];

fn held(cluster: &Cluster) -> Result<()> {
    Mover::alive(cluster, "held", "east-2", |mover| {
        let address = mover.object()?["status"]["addresses"][0]["address"].clone();
        let address = address.as_str().context("it has no address")?.to_owned();
        let ping = [
            "ping", "-q", "-i", "0.02", "-c", "250", "-W", "10", &address,
        ];
        let mut command = cluster.client();
        command
            .args(["exec", "-n", "acme", "still", "--"])
            .args(ping);
        let pinging = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let status = mover.moves(
            "held",
            json!({"mode": "Live", "target": {"host": "west-1"}}),
        )?;
        let said = String::from_utf8(pinging.wait_with_output()?.stdout)?;
        let answered = said.split(" received").next().unwrap_or_default();
        let answered: u32 = answered.rsplit(' ').next().unwrap_or_default().parse()?;
        // It stands for the time of ten at the least. A few may be on a wire that is cut.
        ensure!(answered >= 245, "{said}: {status}");
        mover.tells()?;
        mover.is_whole()
    })
}

fn everything(cluster: &Cluster) -> Result<()> {
    Mover::alive(cluster, "everything", "east-2", |mover| {
        let (program, to) = (env!("CARGO_BIN_EXE_workload"), "everything:/usr/local/bin");
        cluster.skysail(&["cp", "-n", "acme", program, to])?.ok()?;
        mover.sh("chmod 755 /usr/local/bin/workload; systemd-run -q --unit=witness workload witness /srv/witness")?;
        let seen = || -> Result<u64> {
            let text = mover.sh("cat /srv/witness/seen")?;
            let (turn, broken) = text.split_once(' ').context("nothing was seen")?;
            ensure!(broken.trim().is_empty(), "{broken}");
            Ok(turn.parse()?)
        };
        for (i, host) in ["west-1", "east-1", "east-2"].iter().enumerate() {
            let (before, _) = until("the witness", LIMIT, seen)?;
            mover.moves(
                &format!("e{i}"),
                json!({"mode": "Live", "target": {"host": host}}),
            )?;
            let goes_on = || {
                let now = seen()?;
                ensure!(now > before + 10, "it stands at {now}");
                Ok(())
            };
            until("the witness to go on", LIMIT, goes_on)?;
        }
        mover.tells()
    })
}

/// Kills what is called criu on a host, so long after there is one.
fn killer(cluster: &Cluster, host: &str, milliseconds: u32) -> Result<Child> {
    let seconds = f64::from(milliseconds) / 1000.0;
    let line = format!(
        "echo ready; timeout 20 sh -c 'until p=$(pidof criu); do sleep 0.002; done; sleep {seconds}; kill -9 $p; true'"
    );
    let mut ssh = cluster.ssh(host)?;
    let mut killer = ssh.arg(line).stdout(Stdio::piped()).spawn()?;
    let mut ready = [0; 6];
    let output = killer.stdout.as_mut().context("no output")?;
    output.read_exact(&mut ready)?;
    Ok(killer)
}

fn criu(cluster: &Cluster) -> Result<()> {
    Mover::alive(cluster, "criu-dies", "east-2", |mover| {
        let mut ends = Vec::new();
        for (at_source, times) in [(true, [1, 40, 90, 160]), (false, [1, 60, 130, 220])] {
            for time in times {
                let from = mover.host()?;
                let to = if from == "east-2" { "west-1" } else { "east-2" };
                let mut killer = killer(cluster, if at_source { &from } else { to }, time)?;
                let name = format!("c{}", ends.len());
                mover.ask(&name, json!({"mode": "Live", "target": {"host": to}}))?;
                let status = mover.finished(&name)?;
                killer.wait()?;
                let side = if at_source { "dump" } else { "restore" };
                let when = format!("killed {time} ms into the {side}: {status}");
                let expected = if status["phase"] == "Succeeded" {
                    to
                } else {
                    &from
                };
                ensure!(mover.host()? == expected, "{when}");
                let context = |e: anyhow::Error| e.context(when.clone());
                mover.is_whole().map_err(context)?;
                mover.tells().map_err(context)?;
                ensure!(mover.object()?["status"]["restarts"] == 0, "{when}");
                ends.push(status["phase"].clone());
            }
        }
        eprintln!("ends: {}", Value::from(ends.clone()));
        ensure!(ends.iter().any(|e| e != "Succeeded"), "none was met");
        Ok(())
    })
}
