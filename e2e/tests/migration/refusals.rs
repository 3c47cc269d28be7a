//! What cannot be done is said before anything changes.

use crate::Case;
use crate::mover::Mover;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::Cluster;

pub const CASES: &[Case] = &[
    ("what_is_wrong_is_refused_with_its_field", wrong),
    ("a_target_without_room_is_refused", no_room),
    ("of_two_moves_at_once_one_is_refused", two),
];

fn refused(mover: &Mover, name: &str, spec: Value, reason: &str) -> Result<()> {
    mover.ask(name, spec)?;
    let status = mover.finished(name)?;
    let told = status["conditions"].as_array().into_iter().flatten();
    let told: Vec<&Value> = told.filter(|c| c["type"] == "Succeeded").collect();
    ensure!(
        status["phase"] == "Failed" && told[0]["reason"] == reason,
        "{status}"
    );
    Ok(())
}

fn wrong(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "wrong", "east-1", |mover| {
        let pid = mover.object()?["status"]["pid"].clone();
        let cold = |target: Value| json!({"mode": "Cold", "target": target});
        refused(
            mover,
            "there",
            cold(json!({"host": "east-1"})),
            "AlreadyThere",
        )?;
        refused(
            mover,
            "nohost",
            cold(json!({"host": "nowhere"})),
            "HostNotFound",
        )?;
        refused(
            mover,
            "nocloud",
            cold(json!({"cloud": "nowhere"})),
            "NoHostFits",
        )?;
        let both = mover.ask("both", cold(json!({"host": "east-2", "cloud": "east"})));
        let text = format!(
            "{:#}",
            both.err().unwrap_or_else(|| anyhow::anyhow!("taken"))
        );
        ensure!(text.contains("spec.target.cloud"), "{text}");
        ensure!(mover.object()?["status"]["pid"] == pid, "it was touched");
        mover.is_whole()
    })
}

fn no_room(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "no-room", "east-1", |mover| {
        let large = json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "InstanceType",
            "metadata": {"name": "large", "namespace": "acme"},
            "spec": {"cpu": "1950m", "memory": "96Mi", "disk": "64Mi"},
        });
        let full = json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": "full", "namespace": "acme"},
            "spec": {"image": "waits", "instanceType": "large", "placement": {"host": "east-2"}},
        });
        cluster.apply(&large.to_string())?.ok()?;
        cluster.apply(&full.to_string())?.ok()?;
        let filler = Mover {
            cluster,
            name: "full",
        };
        let result = filler.ready().and_then(|()| {
            let spec = json!({"mode": "Cold", "target": {"host": "east-2"}});
            refused(mover, "full", spec, "NoHostFits")
        });
        let removed =
            cluster.kubectl(&["delete", "-n", "acme", "ct/full", "instancetype/large"])?;
        result.and(removed.ok().map(drop))?;
        mover.is_whole()
    })
}

fn two(cluster: &Cluster) -> Result<()> {
    Mover::with(cluster, "two", "east-1", |mover| {
        mover.ask(
            "two-a",
            json!({"mode": "Cold", "target": {"host": "east-2"}}),
        )?;
        mover.ask(
            "two-b",
            json!({"mode": "Cold", "target": {"host": "west-1"}}),
        )?;
        let ends = [mover.finished("two-a")?, mover.finished("two-b")?];
        let moved = ends.iter().filter(|s| s["phase"] == "Succeeded").count();
        let text = json!(ends).to_string();
        ensure!(moved == 1 && text.contains("AnotherMigration"), "{text}");
        mover.is_whole()
    })
}
