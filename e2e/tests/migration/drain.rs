//! Hosts that are emptied, or deleted, while containers run on them.

use crate::Case;
use crate::faults::{arm, was_met};
use crate::mover::{LIMIT, MANIFESTS, Mover, can_live};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, until};
use std::process::{Child, Stdio};

pub const CASES: &[Case] = &[
    (
        "a_drain_goes_on_when_it_is_killed_and_moves_live_what_can_be",
        drain,
    ),
    (
        "a_host_deleted_during_a_move_takes_nothing_with_it",
        deleted,
    ),
];

const NAMES: [&str; 3] = ["drained-0", "drained-1", "drained-2"];
const FULL: &str = "east-2";

/// Three containers on one host; the last may not leave it.
fn fill(cluster: &Cluster) -> Result<()> {
    let parts = NAMES.map(|name| {
        json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": name, "namespace": "acme"},
            "spec": {"image": "waits", "instanceType": "small", "placement": {"host": FULL}},
        })
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": parts});
    cluster.apply(&list.to_string())?.ok()?;
    for name in NAMES {
        Mover { cluster, name }.ready()?;
    }
    for name in &NAMES[..2] {
        let free = r#"{"spec":{"placement":null}}"#;
        let patch = [
            "patch",
            "ct",
            name,
            "-n",
            "acme",
            "--type=merge",
            "-p",
            free,
        ];
        cluster.kubectl(&patch)?.ok()?;
        let sleep = "setsid sleep 424242 </dev/null >/dev/null 2>&1 &";
        cluster.exec("acme", name, &["sh", "-c", sleep])?.ok()?;
    }
    Ok(())
}

fn drain(cluster: &Cluster) -> Result<()> {
    if !can_live(cluster)? {
        return Ok(());
    }
    let result = fill(cluster).and_then(|()| drained(cluster));
    let open = cluster.skysail(&["uncordon", FULL]);
    let delete = [&["delete", "-n", "acme", "ct"], &NAMES[..]].concat();
    let removed = cluster.kubectl(&delete)?.ok();
    let gone = ["delete", "mig", "--all", "-n", "acme"];
    let removed = removed.and_then(|_| cluster.kubectl(&gone)?.ok());
    result.and(open?.ok()).and(removed).map(drop)
}

fn begin(cluster: &Cluster) -> Result<Child> {
    let mut command = cluster.client();
    command.args(["drain", FULL, "--at-once", "1", "--timeout", "60s"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(child.stderr(Stdio::piped()).spawn()?)
}

/// The Migrations that drains made, and of which container each is.
fn made(cluster: &Cluster) -> Result<Vec<Value>> {
    let label = format!("skysail.dev/drains={FULL}");
    let list = ["get", "mig", "-n", "acme", "-o", "json", "-l", &label];
    let list: Value = serde_json::from_str(&cluster.kubectl(&list)?.ok()?)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn drained(cluster: &Cluster) -> Result<()> {
    // Somebody moves one of them meanwhile; it is on its way when the drain begins.
    arm(cluster, FULL, "source.sending pause 2s")?;
    let first = Mover {
        cluster,
        name: NAMES[0],
    };
    first.ask(
        "mine",
        json!({"mode": "Live", "target": {"host": "west-1"}}),
    )?;
    until("the point to be met", LIMIT, || was_met(cluster, FULL))?;
    let mut killed = begin(cluster)?;
    until("the drain to move the next", LIMIT, || {
        ensure!(!made(cluster)?.is_empty(), "it waits");
        Ok(())
    })?;
    killed.kill()?;
    killed.wait()?;
    let two = [begin(cluster)?, begin(cluster)?];
    for child in two {
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success()
                && said.contains("acme/drained-2")
                && said.contains("NoHostFits"),
            "{output:?}"
        );
    }
    let host = cluster.get("host", "default", FULL)?;
    ensure!(host["spec"]["unschedulable"] == true, "it is not cordoned");
    let made = made(cluster)?;
    let of = |name: &str| {
        made.iter()
            .filter(|m| m["spec"]["container"] == name)
            .count()
    };
    ensure!(NAMES.map(of) == [0, 1, 1], "{made:?}");
    for name in NAMES {
        let mover = Mover { cluster, name };
        let stays = name == NAMES[2];
        ensure!(
            (mover.host()? == FULL) == stays,
            "{name} is on {}",
            mover.host()?
        );
        if !stays {
            mover.ready()?;
            mover.sh("pgrep -f '[s]leep 424242'")?;
        }
    }
    Ok(())
}

fn deleted(cluster: &Cluster) -> Result<()> {
    let delete = ["delete", "host", "west-1", "--wait=false"];
    Mover::with(cluster, "orphaned", FULL, |mover| {
        // Its target goes: it stays where it is.
        arm(cluster, FULL, "source.sending pause 3s")?;
        mover.ask("to", json!({"mode": "Cold", "target": {"host": "west-1"}}))?;
        until("the point to be met", LIMIT, || was_met(cluster, FULL))?;
        cluster.kubectl(&delete)?.ok()?;
        let status = mover.finished("to")?;
        let again = || gone(cluster).and_then(|()| cluster.apply(MANIFESTS)?.ok().map(drop));
        let made = again().and_then(|()| hosts_are_ready(cluster));
        ensure!(status["phase"] == "Cancelled", "{status}");
        made?;
        mover.is_whole()?;
        // Its source goes: it leaves first.
        mover.moves(
            "there",
            json!({"mode": "Cold", "target": {"host": "west-1"}}),
        )?;
        arm(cluster, "west-1", "source.sending pause 2s")?;
        mover.ask("from", json!({"mode": "Cold", "target": {"host": FULL}}))?;
        until("the point to be met", LIMIT, || was_met(cluster, "west-1"))?;
        cluster.kubectl(&delete)?.ok()?;
        let status = mover.finished("from")?;
        again().and_then(|()| hosts_are_ready(cluster))?;
        ensure!(status["phase"] == "Succeeded", "{status}");
        mover.is_whole()
    })
}

fn gone(cluster: &Cluster) -> Result<()> {
    let look = || {
        let left =
            cluster.kubectl(&["get", "host", "west-1", "--ignore-not-found", "-o", "name"])?;
        let left = left.ok()?;
        ensure!(left.is_empty(), "{left} is there");
        Ok(())
    };
    until("the host to be gone", LIMIT, look).map(drop)
}

/// One that began anew takes a while.
pub fn hosts_are_ready(cluster: &Cluster) -> Result<()> {
    let wait = [
        "wait",
        "hosts",
        "--all",
        "--for=condition=Ready",
        "--timeout=120s",
    ];
    cluster.kubectl(&wait)?.ok().map(drop)
}
