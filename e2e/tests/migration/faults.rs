//! Agents and the server are killed between every two steps; people change their minds. Afterwards the container
//! runs in exactly one place with what it had, the Migration says how it ended, nothing is left elsewhere.

use crate::Case;
use crate::mover::{LIMIT, Mover};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, until};

pub const CASES: &[Case] = &[
    (
        "a_source_agent_killed_at_any_step_of_a_cold_move_loses_nothing",
        source,
    ),
    (
        "a_target_agent_killed_at_any_step_of_a_cold_move_loses_nothing",
        target,
    ),
    (
        "agents_killed_at_any_step_of_a_live_move_lose_nothing_of_its_memory",
        live,
    ),
    ("the_server_killed_around_the_commit_loses_nothing", server),
    ("a_cancelled_move_leaves_the_container_running", cancel),
    (
        "a_container_deleted_while_it_moves_is_gone_from_both_hosts",
        deletion,
    ),
];

pub const SOURCE: [&str; 10] = [
    "source.copying",
    "source.freezing.before",
    "source.freezing",
    "source.sending",
    "source.committing.before",
    "source.committing",
    "source.leaving.before",
    "source.leaving",
    "source.clearing",
    "source.telling",
];
pub const TARGET: [&str; 5] = [
    "target.receiving",
    "target.prepared.before",
    "target.prepared",
    "target.starting",
    "target.over",
];

pub fn arm(cluster: &Cluster, host: &str, point: &str) -> Result<()> {
    let line = format!("echo '{point}' >/var/lib/skysail/failpoints");
    cluster.on_host(host, &line)?.ok().map(drop)
}

/// Whether the point was met: then its line is used up.
pub fn was_met(cluster: &Cluster, host: &str) -> Result<()> {
    let left = cluster
        .on_host(host, "cat /var/lib/skysail/failpoints")?
        .ok()?;
    ensure!(left.trim().is_empty(), "the point {left:?} was not met");
    Ok(())
}

pub fn other(host: &str) -> &'static str {
    if host == "east-2" { "west-1" } else { "east-2" }
}

/// Kills one of the agents at each point in turn, and checks that another move then works.
fn killed(mover: &Mover, points: &[&str], at_source: bool, mode: &str) -> Result<()> {
    for (i, point) in points.iter().enumerate() {
        let from = mover.host()?;
        let to = other(&from);
        let victim = if at_source { from.as_str() } else { to };
        arm(mover.cluster, victim, &format!("{point} kill"))?;
        let name = format!("k{i}");
        mover.ask(&name, json!({"mode": mode, "target": {"host": to}}))?;
        let status = mover.finished(&name)?;
        let context = |e: anyhow::Error| e.context(format!("killed at {point}: {status}"));
        was_met(mover.cluster, victim).map_err(context)?;
        let moved = status["phase"] == "Succeeded";
        let expected = if moved { to } else { &from };
        ensure!(
            mover.host()? == expected,
            "killed at {point}: {status}, but it is on {}",
            mover.host()?
        );
        mover.is_whole().map_err(context)?;
    }
    Ok(())
}

fn source(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "source-dies", "east-2", |mover| {
        killed(mover, &SOURCE, true, "Cold")
    })
}

fn target(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "target-dies", "east-2", |mover| {
        killed(mover, &TARGET, false, "Cold")
    })
}

fn live(cluster: &Cluster) -> Result<()> {
    Mover::alive(cluster, "live-dies", "east-2", |mover| {
        for (points, at_source) in [(&SOURCE[2..], true), (&TARGET[..], false)] {
            for point in points {
                killed(mover, &[point], at_source, "Live")?;
                mover
                    .tells()
                    .map_err(|e| e.context(format!("killed at {point}")))?;
                let gone = ["delete", "mig", "--all", "-n", "acme"];
                mover.cluster.kubectl(&gone)?.ok()?;
            }
        }
        ensure!(
            mover.object()?["status"]["restarts"] == 0,
            "it was started anew"
        );
        Ok(())
    })
}

fn server(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "server-dies", "east-2", |mover| {
        for (i, point) in [
            "source.committing",
            "source.leaving.before",
            "source.telling.before",
        ]
        .iter()
        .enumerate()
        {
            let from = mover.host()?;
            arm(cluster, &from, &format!("{point} pause 4s"))?;
            let name = format!("s{i}");
            mover.ask(
                &name,
                json!({"mode": "Cold", "target": {"host": other(&from)}}),
            )?;
            until("the point to be met", LIMIT, || was_met(cluster, &from))?;
            cluster.kill_server()?;
            cluster.start(&[])?;
            let status = mover.finished(&name)?;
            let expected = if status["phase"] == "Succeeded" {
                other(&from)
            } else {
                &from
            };
            ensure!(mover.host()? == expected, "{point}: {status}");
            mover.is_whole()?;
        }
        Ok(())
    })
}

fn cancel(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "cancelled", "east-1", |mover| {
        let pid = mover.object()?["status"]["pid"].clone();
        // The target takes its time.
        arm(cluster, "east-2", "target.receiving pause 3s")?;
        mover.ask("c", json!({"mode": "Cold", "target": {"host": "east-2"}}))?;
        until("the point to be met", LIMIT, || was_met(cluster, "east-2"))?;
        let patch = [
            "patch",
            "mig",
            "c",
            "-n",
            "acme",
            "--type=merge",
            "-p",
            r#"{"spec":{"cancel":true}}"#,
        ];
        cluster.kubectl(&patch)?.ok()?;
        let status = mover.finished("c")?;
        ensure!(status["phase"] == "Cancelled", "{status}");
        ensure!(mover.object()?["status"]["pid"] == pid, "it was touched");
        mover.is_whole()?;
        mover.moves("c2", json!({"mode": "Cold", "target": {"host": "east-2"}}))?;
        mover.is_whole()
    })
}

fn deletion(cluster: &Cluster) -> Result<()> {
    for (i, (host, point)) in [
        ("east-2", "target.receiving pause 2s"),
        ("east-1", "source.committing pause 2s"),
        ("east-1", "source.leaving pause 2s"),
    ]
    .iter()
    .enumerate()
    {
        // `with` deletes the container while the point holds the agent, and then looks that nothing is left.
        Mover::with(cluster, "deleted", "east-1", |mover| {
            arm(cluster, host, point)?;
            mover.ask(
                &format!("d{i}"),
                json!({"mode": "Cold", "target": {"host": "east-2"}}),
            )?;
            until("the point to be met", LIMIT, || was_met(cluster, host)).map(drop)
        })?;
    }
    let left: Value = serde_json::from_str(
        &cluster
            .kubectl(&["get", "mig", "-n", "acme", "-o", "json"])?
            .ok()?,
    )?;
    ensure!(left["items"] == json!([]), "{left}");
    Ok(())
}
