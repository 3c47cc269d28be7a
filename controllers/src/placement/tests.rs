//! Laws.

use super::place::place;
use super::plan::{Plan, plan};
use super::snapshot::{HostView, Objects, Resident, Snapshot};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use skysail_schemas::host::Resources;
use skysail_schemas::instance_type::Profile;
use skysail_schemas::quantity::{Bytes, Cpu};
use skysail_schemas::{Container, Host, Image, InstanceType};
use std::collections::BTreeMap;
use std::sync::Arc;

fn container(name: &str, labels: Value, placement: Value) -> Container {
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
        "metadata": {"name": name, "namespace": "acme", "uid": name, "labels": labels},
        "spec": {"image": "debian", "instanceType": "small", "placement": placement}
    }))
    .unwrap()
}

fn host(name: &str, cpu: u64, memory_mi: u64) -> Host {
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {"cloud": "east"},
        "status": {
            "phase": "Running", "allocatable": {"cpu": format!("{cpu}m"), "memory": format!("{memory_mi}Mi"), "disk": "100Gi"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        }
    }))
    .unwrap()
}

fn objects(hosts: Vec<Host>, containers: Vec<Container>) -> Objects {
    let kind = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "InstanceType", "metadata": {"name": "small", "namespace": "acme"},
        "spec": {"cpu": "250m", "memory": "192Mi", "disk": "512Mi"}
    });
    let image = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Image", "metadata": {"name": "debian"}, "spec": {},
        "status": {"digest": "sha256:0", "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
    });
    Objects {
        hosts: hosts.into_iter().map(Arc::new).collect(),
        containers: containers.into_iter().map(Arc::new).collect(),
        images: vec![Arc::new(serde_json::from_value::<Image>(image).unwrap())],
        instance_types: vec![Arc::new(
            serde_json::from_value::<InstanceType>(kind).unwrap(),
        )],
        ..Objects::default()
    }
}

/// The plan, and what is there after it.
fn placed(hosts: &[Host], containers: &[Container]) -> (Plan, Vec<Container>) {
    let planned = plan(
        &Snapshot::new(
            objects(hosts.to_vec(), containers.to_vec()),
            Timestamp::UNIX_EPOCH,
        ),
        Timestamp::UNIX_EPOCH,
    );
    let mut after = containers.to_vec();
    for step in planned.bind.iter().chain(&planned.explain) {
        let there = after
            .iter_mut()
            .find(|c| c.metadata.name == step.container.metadata.name)
            .unwrap();
        there.status = Some(step.status.clone());
    }
    (planned, after)
}

fn view(name: &str, cpu: u64, memory: u64) -> HostView {
    let allocatable = Resources {
        cpu: Cpu(cpu),
        memory: Bytes(memory << 20),
        disk: Bytes(1 << 40),
    };
    HostView {
        name: name.into(),
        allocatable,
        ..HostView::default()
    }
}

fn resident(profile: Option<Profile>) -> Resident {
    Resident {
        namespace: "acme".into(),
        labels: BTreeMap::new(),
        profile,
    }
}

fn wants(cpu: u64, memory: u64) -> Resources {
    Resources {
        cpu: Cpu(cpu),
        memory: Bytes(memory << 20),
        disk: Bytes(1),
    }
}

#[test]
fn a_refusal_says_how_many_hosts_lack_what() {
    let mut hosts = vec![
        view("a", 4000, 384),
        view("b", 4000, 256),
        view("c", 4000, 4096),
        view("d", 4000, 4096),
    ];
    hosts[2].cordoned = true;
    hosts[3].unready = Some("AgentLost".into());
    let refused = place(
        &container("x", json!({}), json!({})),
        &resident(None),
        wants(100, 512),
        &hosts,
    )
    .unwrap_err();
    assert_eq!(refused.reason, "NoHostFits");
    assert_eq!(
        refused.message,
        "4 hosts: 2 too small in memory by at least 128Mi, 1 cordoned, 1 not ready (AgentLost)"
    );
}

#[test]
fn every_rule_keeps_a_host_away_with_its_own_reason() {
    let mut hosts = vec![view("a", 4000, 4096)];
    hosts[0].taints = vec![serde_json::from_value(json!({"key": "gpu"})).unwrap()];
    let why = |rules: Value, hosts: &[HostView]| {
        place(
            &container("x", json!({}), rules),
            &resident(None),
            wants(1, 1),
            hosts,
        )
        .map_err(|e| e.message)
    };
    assert_eq!(why(json!({}), &hosts).unwrap_err(), "1 host: 1 tainted gpu");
    assert!(why(json!({"tolerations": [{"key": "gpu"}]}), &hosts).is_ok());
    hosts[0].taints.clear();
    assert!(
        why(json!({"clouds": ["west"]}), &hosts)
            .unwrap_err()
            .contains("spec.placement.clouds")
    );
    assert!(
        why(json!({"hostSelector": {"zone": "z"}}), &hosts)
            .unwrap_err()
            .contains("spec.placement.hostSelector")
    );
    assert_eq!(
        why(json!({"host": "b"}), &hosts).unwrap_err(),
        "spec.placement.host: there is no Host \"b\""
    );
    assert!(
        why(json!({}), &[])
            .unwrap_err()
            .contains("there are no hosts")
    );
}

#[test]
fn workloads_of_one_profile_are_kept_apart_before_load_counts() {
    let (mut busy, mut idle) = (view("busy", 8000, 8192), view("rival", 8000, 8192));
    busy.take(wants(4000, 4096), resident(Some(Profile::Network)));
    idle.take(wants(10, 10), resident(Some(Profile::Cpu)));
    let x = container("x", json!({}), json!({}));
    let hosts = [busy, idle];
    let chosen = |p| {
        place(&x, &resident(p), wants(10, 10), &hosts)
            .unwrap()
            .index
    };
    assert_eq!((chosen(Some(Profile::Cpu)), chosen(None)), (0, 1));
}

#[test]
fn spread_containers_stand_evenly() {
    let rules =
        json!({"spread": [{"topology": "host", "selector": {"matchLabels": {"app": "web"}}}]});
    let containers: Vec<_> = (0..8)
        .map(|i| container(&format!("c{i}"), json!({"app": "web"}), rules.clone()))
        .collect();
    let hosts: Vec<_> = (0..4)
        .map(|i| host(&format!("h{i}"), 4000 + i * 2000, 8192))
        .collect();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for c in placed(&hosts, &containers).1 {
        *counts.entry(c.status.unwrap().host.unwrap()).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [2, 2, 2, 2]);
}

#[test]
fn privilege_needs_the_namespace_to_allow_it() {
    let mut c = container("x", json!({}), json!({}));
    c.spec.privileged = true;
    let mut all = objects(vec![host("a", 4000, 4096)], vec![c]);
    let refused = |o: &Plan| o.explain[0].status.conditions[0].reason.clone();
    let snapshot = Snapshot::new(
        Objects {
            containers: all.containers.clone(),
            hosts: all.hosts.clone(),
            ..Objects::default()
        },
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(
        refused(&plan(&snapshot, Timestamp::UNIX_EPOCH)),
        "PrivilegedNotAllowed"
    );
    all.privileged.insert("acme".into());
    assert_eq!(
        plan(
            &Snapshot::new(all, Timestamp::UNIX_EPOCH),
            Timestamp::UNIX_EPOCH
        )
        .bind
        .len(),
        1
    );
}

proptest! {
    #[test]
    fn no_host_is_ever_overfilled_and_a_second_plan_is_empty(sizes in proptest::collection::vec((100u64..2000, 100u64..2000), 0..5), count in 0usize..30) {
        let hosts: Vec<_> = sizes.iter().enumerate().map(|(i, (cpu, mem))| host(&format!("h{i}"), *cpu, *mem)).collect();
        let containers: Vec<_> = (0..count).map(|i| container(&format!("c{i}"), json!({}), json!({}))).collect();
        let (first, after) = placed(&hosts, &containers);
        prop_assert_eq!(first.bind.len() + first.explain.len(), count);
        let snapshot = Snapshot::new(objects(hosts.clone(), after.clone()), Timestamp::UNIX_EPOCH);
        for view in &snapshot.hosts {
            prop_assert!(view.used.cpu <= view.allocatable.cpu && view.used.memory <= view.allocatable.memory, "{view:?}");
        }
        // What did not fit, did not fit anywhere.
        let room = |v: &HostView| v.free().cpu.0 >= 250 && v.free().memory.0 >= 192 << 20;
        prop_assert!(first.explain.is_empty() || !snapshot.hosts.iter().any(room));
        let second = plan(&snapshot, Timestamp::now());
        prop_assert!(second.bind.is_empty());
        // The explanation counts what the first round has taken, then stays as it is.
        let (_, settled) = placed(&hosts, &after);
        prop_assert_eq!(placed(&hosts, &settled).0, Plan::default());
    }
}
