//! Laws.

use super::plan::{observe, status};
use jiff::Timestamp;
use serde_json::{Value, json};
use skysail_schemas::condition::is_true;
use skysail_schemas::security_policy::ProgrammedPolicy;
use skysail_schemas::{Port, SecurityPolicy, SecurityPolicyStatus};

fn policy() -> SecurityPolicy {
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "SecurityPolicy",
        "metadata": {"name": "db", "namespace": "acme", "generation": 2},
        "spec": {"containerSelector": {"matchLabels": {"app": "db"}}}
    }))
    .unwrap()
}

fn port(namespace: &str, container: &str, app: &str, host: Value) -> Port {
    let location = host.as_str().map(|h| json!({"host": h, "epoch": 1}));
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Port",
        "metadata": {"name": "private.10.0.0.2", "namespace": namespace},
        "spec": {"container": container, "network": "private", "interface": 0, "vni": 7,
            "address": "10.0.0.2", "cidr": "10.0.0.0/24", "gateway": "10.0.0.1",
            "mac": "02:07:0a:00:00:02", "dnsDomain": "internal", "labels": {"app": app},
            "location": location}
    }))
    .unwrap()
}

fn said(generation: i64) -> ProgrammedPolicy {
    ProgrammedPolicy {
        namespace: "acme".into(),
        name: "db".into(),
        generation,
    }
}

fn told(ports: &[Port], east: Option<i64>, west: Option<i64>) -> SecurityPolicyStatus {
    let host = |name: &str| {
        let has = if name == "east" { east } else { west };
        Some(has.map(said).into_iter().collect())
    };
    let observed = observe(&policy(), ports.iter(), host);
    status(&policy(), &observed, Timestamp::UNIX_EPOCH).status
}

#[test]
fn it_is_programmed_once_every_host_of_a_selected_container_has_its_generation() {
    let ports = [
        port("acme", "db-0", "db", json!("east")),
        port("acme", "db-1", "db", json!("west")),
        port("acme", "db-2", "db", json!(null)),
        port("acme", "web", "web", json!("north")),
        port("globex", "db-9", "db", json!("south")),
    ];
    let before = told(&ports, Some(2), Some(1));
    assert_eq!((before.containers, &*before.programmed), (3, "1/2"));
    assert!(!is_true(&before.conditions, "Ready"));
    assert!(before.conditions[0].message.contains("west (generation 1)"));
    let after = told(&ports, Some(2), Some(2));
    assert_eq!(
        (&*after.programmed, &*after.policy_types),
        ("2/2", "Ingress")
    );
    assert!(is_true(&after.conditions, "Ready"));
}

#[test]
fn a_policy_that_selects_nothing_is_ready_and_says_so() {
    let nothing = told(&[], None, None);
    assert!(is_true(&nothing.conditions, "Ready"));
    assert_eq!(nothing.conditions[0].reason, "SelectsNothing");
}
