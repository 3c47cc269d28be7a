//! Laws. Objects are written as users write them.

mod laws;
mod rules;
mod sets;

use super::plan::{Plan, plan};
use super::snapshot::{Objects, Snapshot};
use jiff::Timestamp;
use serde_json::{Value, json};
use skysail_schemas::{Container, Host};
use std::sync::Arc;

fn object<T: serde::de::DeserializeOwned>(kind: &str, name: &str, rest: Value) -> T {
    let mut all = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "acme", "uid": format!("{kind}-{name}")}, "spec": {}
    });
    json_patch(&mut all, rest);
    serde_json::from_value(all).unwrap()
}

fn json_patch(to: &mut Value, from: Value) {
    match (to, from) {
        (Value::Object(to), Value::Object(from)) => {
            for (key, value) in from {
                json_patch(to.entry(key).or_insert(Value::Null), value);
            }
        }
        (to, from) => *to = from,
    }
}

fn ready() -> Value {
    json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

/// A Container of size `small`: 250m, 192Mi, 512Mi.
fn container(name: &str, labels: Value, placement: Value) -> Container {
    sized(name, "small", labels, placement)
}

fn sized(name: &str, size: &str, labels: Value, placement: Value) -> Container {
    let spec = json!({"image": "debian", "instanceType": size, "placement": placement});
    object(
        "Container",
        name,
        json!({"metadata": {"labels": labels}, "spec": spec}),
    )
}

/// A ready Host of Cloud `east`.
fn host(name: &str, cpu: u64, memory_mi: u64) -> Host {
    host_with(name, cpu, memory_mi, json!({}))
}

fn host_with(name: &str, cpu: u64, memory_mi: u64, rest: Value) -> Host {
    let mut all = json!({"metadata": {"namespace": null}, "spec": {"cloud": "east"}, "status": {
        "phase": "Running", "conditions": ready(),
        "allocatable": {"cpu": format!("{cpu}m"), "memory": format!("{memory_mi}Mi"), "disk": "100Gi"}
    }});
    json_patch(&mut all, rest);
    object("Host", name, all)
}

/// What all tests have: an image, the size `small` and one for every profile, clouds in two regions and three zones.
fn objects(hosts: Vec<Host>, containers: Vec<Container>) -> Objects {
    let mut types = vec![json!({"cpu": "250m", "memory": "192Mi", "disk": "512Mi"})];
    for profile in ["cpu", "memory", "io", "network"] {
        types.push(json!({"cpu": "10m", "memory": "10Mi", "profile": profile}));
    }
    let names = ["small", "cpu", "memory", "io", "network"];
    let clouds = [
        ("east", "r1", "z1"),
        ("east-2", "r1", "z2"),
        ("west", "r2", "z3"),
    ];
    let image = json!({"status": {"digest": "sha256:0", "conditions": ready()}});
    let cloud = |(name, region, zone)| {
        let sandbox = json!({"subnet": "10.1.0.0/24"});
        let spec = json!({"driver": "sandbox", "sandbox": sandbox, "region": region, "zone": zone});
        Arc::new(object("Cloud", name, json!({"spec": spec})))
    };
    Objects {
        hosts: hosts.into_iter().map(Arc::new).collect(),
        containers: containers.into_iter().map(Arc::new).collect(),
        images: vec![Arc::new(object("Image", "debian", image))],
        instance_types: names
            .iter()
            .zip(types)
            .map(|(name, spec)| Arc::new(object("InstanceType", name, json!({"spec": spec}))))
            .collect(),
        clouds: clouds.into_iter().map(cloud).collect(),
        ..Objects::default()
    }
}

fn snapshot(objects: Objects) -> Snapshot {
    Snapshot::new(objects, Timestamp::UNIX_EPOCH)
}

fn planned(objects: &Objects) -> Plan {
    plan(&snapshot(objects.clone()), Timestamp::UNIX_EPOCH)
}

/// The plan, and what is there after it.
fn after(objects: &Objects) -> (Plan, Objects) {
    let planned = planned(objects);
    let mut after = objects.clone();
    for step in planned.bind.iter().chain(&planned.explain) {
        let is = |c: &&mut Arc<Container>| c.metadata.name == step.container.metadata.name;
        let there = after.containers.iter_mut().find(is).unwrap();
        Arc::make_mut(there).status = Some(step.status.clone());
    }
    (planned, after)
}

/// `name` is on this Host, or why on none.
fn answer(objects: &Objects, name: &str) -> Result<String, String> {
    let planned = planned(objects);
    let steps = planned.bind.iter().chain(&planned.explain);
    let step = steps
        .into_iter()
        .find(|s| s.container.metadata.name.as_deref() == Some(name))
        .unwrap();
    let condition = &step.status.conditions[0];
    assert_eq!(condition.type_, "Scheduled");
    match &step.status.host {
        Some(host) => Ok(host.clone()),
        None => Err(format!("{}: {}", condition.reason, condition.message)),
    }
}

/// A Container that has a Host.
fn bound(mut container: Container, host: &str) -> Container {
    let allocation = json!({"cpu": "250m", "memory": "192Mi", "disk": "512Mi"});
    let image = json!({"name": "debian", "digest": "sha256:0"});
    let status = json!({"host": host, "epoch": 1, "allocation": allocation, "image": image});
    container.status = Some(serde_json::from_value(status).unwrap());
    container
}
