//! Moves that nothing disturbs.

use crate::Case;
use crate::mover::Mover;
use anyhow::{Result, ensure};
use serde_json::json;
use skysail_e2e::Cluster;

pub const CASES: &[Case] = &[
    ("a_container_moves_cold_within_a_cloud", within),
    ("a_container_moves_cold_to_another_cloud_and_back", between),
    (
        "a_container_moves_live_between_clouds_with_its_processes_and_connections",
        live,
    ),
    ("migrate_shows_how_far_it_is_and_what_it_took", cli),
    ("a_freeze_over_its_budget_is_refused_or_undone", budget),
];

fn within(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "within", "east-1", |mover| {
        let before = mover.object()?["status"]["addresses"].clone();
        let status = mover.moves("w", json!({"mode": "Cold", "target": {"host": "east-2"}}))?;
        ensure!(
            status["freeze"].is_string() && status["total"].is_string(),
            "{status}"
        );
        ensure!(mover.host()? == "east-2", "{}", mover.host()?);
        let after = mover.object()?["status"].clone();
        ensure!(
            after["addresses"] == before && after["epoch"] == 2,
            "{after}"
        );
        ensure!(after["lastMigration"]["moved"] == true, "{after}");
        mover.is_whole()
    })
}

fn between(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "between", "east-2", |mover| {
        for (i, cloud) in ["west", "east", "west"].iter().enumerate() {
            let spec = json!({"mode": "Cold", "target": {"cloud": cloud}});
            mover.moves(&format!("b{i}"), spec)?;
            ensure!(mover.host()?.starts_with(cloud), "{}", mover.host()?);
            mover.is_whole()?;
        }
        Ok(())
    })
}

/// Closes every container of the tenant but for what the connection of [`Mover::tells`] and pings by name need.
fn guarded(cluster: &Cluster) -> Result<()> {
    let ports = json!([{"port": 7000}, {"protocol": "UDP", "port": 53}, {"protocol": "ICMP"}]);
    let policy = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "SecurityPolicy",
        "metadata": {"name": "guarded", "namespace": "acme"},
        "spec": {"containerSelector": {}, "ingress": [{"ports": ports}], "egress": [{"ports": ports}]}});
    cluster.apply(&policy.to_string())?.ok()?;
    let wait = [
        "wait",
        "secpol",
        "guarded",
        "-n",
        "acme",
        "--for=condition=Ready",
    ];
    cluster.kubectl(&wait)?.ok().map(drop)
}

fn live(cluster: &Cluster) -> Result<()> {
    let result = live_and_guarded(cluster);
    let delete = [
        "delete",
        "secpol",
        "guarded",
        "-n",
        "acme",
        "--ignore-not-found",
    ];
    result.and(cluster.kubectl(&delete)?.ok().map(drop))
}

fn live_and_guarded(cluster: &Cluster) -> Result<()> {
    Mover::alive(cluster, "live", "east-2", |mover| {
        guarded(cluster)?;
        mover.tells()?;
        let ran = "systemctl show -p InvocationID tell; systemctl is-active tell";
        let before = mover.sh(ran)?;
        for (i, host) in ["west-1", "east-1", "west-1", "east-2"].iter().enumerate() {
            let spec = json!({"mode": "Live", "target": {"host": host}});
            let status = mover.moves(&format!("l{i}"), spec)?;
            ensure!(status["mode"] == "Live", "{status}");
            mover.tells()?;
            mover.is_whole()?;
        }
        let (after, restarts) = (
            mover.sh(ran)?,
            mover.object()?["status"]["restarts"].clone(),
        );
        ensure!(
            after == before && restarts == 0,
            "{before} became {after}, restarts {restarts}"
        );
        Ok(())
    })
}

fn cli(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "cli", "east-1", |mover| {
        let ask = [
            "migrate",
            "container",
            "cli",
            "-n",
            "acme",
            "--to-cloud",
            "west",
            "--cold",
        ];
        let tried = cluster
            .skysail(&[&ask[..], &["--dry-run"]].concat())?
            .ok()?;
        ensure!(
            tried.contains("1 of 1 would be moved")
                && tried.contains("west-1")
                && mover.host()? == "east-1",
            "{tried}"
        );
        let done = cluster.skysail(&[&ask[..], &["--wait"]].concat())?;
        ensure!(
            done.stderr.contains("Freezing east-1 -> west-1"),
            "{}",
            done.stderr
        );
        let said = done.ok()?;
        ensure!(
            said.contains("from east-1 to west-1, Cold: stood still"),
            "{said}"
        );
        let refused = cluster.skysail(&[&ask[..], &["--wait"]].concat())?;
        ensure!(
            refused.code == Some(1) && refused.stderr.contains("AlreadyThere"),
            "{refused:?}"
        );
        mover.is_whole()
    })
}

fn budget(cluster: &Cluster) -> Result<()> {
    Mover::lively(cluster, "budget", "east-1", |mover| {
        let pid = mover.object()?["status"]["pid"].clone();
        let asked = |mode: &str, budget: &str| json!({"mode": mode, "target": {"host": "west-1"}, "freezeBudget": budget});
        let told = |status: &serde_json::Value, kind: &str| {
            let all = status["conditions"].as_array().into_iter().flatten();
            let found = all.into_iter().find(|c| c["type"] == kind);
            found.cloned().unwrap_or_default()
        };
        // Foreseen: nothing is touched.
        mover.ask("tight", asked("Live", "20ms"))?;
        let status = mover.finished("tight")?;
        let no = told(&status, "Succeeded");
        ensure!(
            status["phase"] == "Failed"
                && no["reason"] == "FreezeBudget"
                && no["message"].to_string().contains("20ms is allowed"),
            "{status}"
        );
        // Not foreseen: it goes on where it was.
        crate::faults::arm(cluster, "east-1", "source.sending pause 4s")?;
        mover.ask("late", asked("Live", "1500ms"))?;
        let status = mover.finished("late")?;
        let no = told(&status, "Succeeded");
        ensure!(
            status["phase"] == "RolledBack" && no["reason"] == "FreezeOverBudget",
            "{status}"
        );
        ensure!(
            mover.object()?["status"]["pid"] == pid,
            "it was started anew"
        );
        mover.is_whole()?;
        // Enough, and what was asked for where it is not.
        let status = mover.moves("wide", asked("Live", "20s"))?;
        ensure!(told(&status, "MemoryKept")["status"] == "True", "{status}");
        let back =
            json!({"mode": "LiveElseCold", "target": {"host": "east-1"}, "freezeBudget": "20ms"});
        let status = mover.moves("back", back)?;
        let lost = told(&status, "MemoryKept");
        ensure!(
            status["mode"] == "Cold" && lost["reason"] == "FreezeBudget",
            "{status}"
        );
        mover.is_whole()
    })
}
