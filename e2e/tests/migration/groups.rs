//! Many containers, by one command.

use crate::mover::{LIMIT, Mover, can_live};
use crate::{Case, faults};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::shop::{self, Shop};
use skysail_e2e::{Cluster, until};

pub const CASES: &[Case] = &[
    (
        "an_application_moves_between_clouds_by_one_command_and_loses_no_request",
        application,
    ),
    (
        "of_a_group_one_that_is_refused_or_cancelled_keeps_no_other_from_moving",
        refused,
    ),
];

fn application(cluster: &Cluster) -> Result<()> {
    if !can_live(cluster)? {
        return Ok(());
    }
    let opened = Shop::open(cluster, env!("CARGO_BIN_EXE_shop").into(), "east", "still");
    let used = opened.and_then(|shop| {
        shop.move_to("west")?;
        shop.move_to("east")?;
        shop.close()
    });
    let removed = shop::remove(cluster);
    let seen = used?;
    removed?;
    // How many there were is a matter of how fast the moves are; that there were some all the time is what `lost` tells.
    ensure!(
        seen["lost"] == 0 && seen["wrong"] == 0 && seen["requests"].as_u64() > Some(100),
        "{seen}"
    );
    Ok(())
}

/// Three containers, of which the second may only be where it is.
fn parts() -> String {
    let part = |name: &str, rules: Value| {
        json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": name, "namespace": "acme", "labels": {"app": "parts"}},
            "spec": {"image": "waits", "instanceType": "small", "placement": rules},
        })
    };
    let there = json!({"host": "east-2"});
    let items = ["part-0", "part-1", "part-2"].map(|name| part(name, there.clone()));
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn refused(cluster: &Cluster) -> Result<()> {
    let result = a_group(cluster);
    let delete = ["delete", "ct", "-n", "acme", "-l", "app=parts"];
    let removed = cluster.kubectl(&delete)?.ok();
    let removed = removed.and_then(|_| shop::remove(cluster));
    result.and(removed)
}

fn a_group(cluster: &Cluster) -> Result<()> {
    cluster.apply(&parts())?.ok()?;
    for name in ["part-0", "part-1", "part-2"] {
        Mover { cluster, name }.ready()?;
    }
    for name in ["part-0", "part-2"] {
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
    }
    let all = "migrate -n acme -l app=parts --to-cloud west --cold --wait";
    let words: Vec<&str> = all.split(' ').collect();
    let told = cluster.skysail(&words)?;
    ensure!(
        told.code == Some(1)
            && told.stderr.contains("2 of 3 moved")
            && told.stderr.contains("part-1 Refused: NoHostFits"),
        "{told:?}"
    );
    let host = |name| Mover { cluster, name }.host();
    ensure!(host("part-0")? == "west-1" && host("part-1")? == "east-2");
    cancelled(cluster)?;
    ensure!(host("part-0")? == "west-1" && host("part-2")? == "west-1");
    Ok(())
}

/// Of two that go back one after the other, the first is on its way when the group is cancelled.
fn cancelled(cluster: &Cluster) -> Result<()> {
    faults::arm(cluster, "east-2", "target.receiving pause 2s")?;
    let group = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "MigrationGroup",
        "metadata": {"name": "back", "namespace": "acme"},
        "spec": {"selector": {"matchLabels": {"app": "parts"}}, "target": {"host": "east-2"}, "mode": "Cold", "atOnce": 1},
    });
    cluster.apply(&group.to_string())?.ok()?;
    let met = || faults::was_met(cluster, "east-2");
    until("the point to be met", LIMIT, met)?;
    let patch = r#"{"spec":{"cancel":true}}"#;
    let patch = [
        "patch",
        "mg",
        "back",
        "-n",
        "acme",
        "--type=merge",
        "-p",
        patch,
    ];
    cluster.kubectl(&patch)?.ok()?;
    let (status, _) = until("the group to be over", LIMIT, || {
        let group = cluster.get("mg", "acme", "back")?;
        let status = group["status"].clone();
        ensure!(status["finishedAt"].is_string(), "{status}");
        Ok(status)
    })?;
    let members = status["members"].as_array().context("no members")?;
    let states: Vec<_> = members.iter().map(|m| m["state"].as_str()).collect();
    ensure!(
        status["phase"] == "Cancelled"
            && states == [Some("Cancelled"), Some("There"), Some("Cancelled")],
        "{status}"
    );
    Ok(())
}
