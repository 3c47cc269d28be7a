//! Laws.

use super::plan::{Observed, Plan, plan, status};
use crate::placement::board::Board;
use crate::placement::snapshot::{Objects, Snapshot};
use jiff::Timestamp;
use serde_json::{Value, json};
use skysail_reconcile::{Next, Steps};
use skysail_schemas::migration::{MigrationMode, MigrationPhase};
use skysail_schemas::{Container, Host, Migration};
use std::sync::Arc;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn migration(name: &str, spec: Value, status: Value) -> Migration {
    let mut spec = spec;
    spec["container"] = json!("web");
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Migration",
        "metadata": {"name": name, "namespace": "acme", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec, "status": status
    }))
    .unwrap()
}

fn container(status: Value) -> Arc<Container> {
    let object = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
        "metadata": {"name": "web", "namespace": "acme", "uid": "u1"},
        "spec": {"image": "debian", "instanceType": "small"}, "status": status
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn placed() -> Arc<Container> {
    container(
        json!({"host": "a1", "epoch": 3, "allocation": {"cpu": "1", "memory": "1Gi", "disk": "1Gi"}}),
    )
}

fn host(name: &str, cloud: &str, memory: &str) -> Arc<Host> {
    let object = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Host", "metadata": {"name": name},
        "spec": {"cloud": cloud},
        "status": {
            "phase": "Running", "allocatable": {"cpu": "4", "memory": memory, "disk": "100Gi"},
            "addresses": {"internal": "10.1.0.2", "external": "198.18.0.2"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        }
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

/// Host a1 has the container; a2 is beside it, b1 in another cloud.
fn observed(container: Option<Arc<Container>>, others: Vec<Migration>) -> Observed {
    let hosts = vec![
        host("a1", "a", "2Gi"),
        host("a2", "a", "2Gi"),
        host("b1", "b", "2Gi"),
    ];
    let others: Vec<_> = others.into_iter().map(Arc::new).collect();
    let objects = Objects {
        hosts: hosts.clone(),
        containers: container.iter().cloned().collect(),
        migrations: others.clone(),
        ..Objects::default()
    };
    Observed {
        container,
        others,
        source: Some(hosts[0].clone()),
        target: None,
        snapshot: Some(Snapshot::new(objects, NOW)),
        hosts,
        ..Observed::default()
    }
}

fn refusal(spec: Value, observed: &Observed) -> (MigrationPhase, &'static str) {
    match plan(&migration("m", spec, Value::Null), observed, NOW) {
        Plan::End { phase, reason, .. } => (phase, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_its_own_reason() {
    let there = || observed(Some(placed()), vec![]);
    let cases = [
        (json!({}), observed(None, vec![]), "ContainerNotFound"),
        (
            json!({}),
            observed(Some(container(json!({}))), vec![]),
            "NotPlaced",
        ),
        (
            json!({"mode": "Cold", "target": {"host": "a1"}}),
            there(),
            "AlreadyThere",
        ),
        (
            json!({"mode": "Cold", "target": {"host": "x"}}),
            there(),
            "HostNotFound",
        ),
        (
            json!({"mode": "Cold", "target": {"cloud": "x"}}),
            there(),
            "NoHostFits",
        ),
    ];
    for (spec, observed, reason) in cases {
        assert_eq!(
            refusal(spec, &observed),
            (MigrationPhase::Failed, reason),
            "{observed:?}"
        );
    }
    assert_eq!(
        refusal(json!({"cancel": true}), &there()).0,
        MigrationPhase::Cancelled
    );
}

#[test]
fn the_second_migration_of_a_container_is_refused_and_the_first_is_not() {
    let (first, second) = (
        migration("a", json!({"mode": "Cold"}), Value::Null),
        migration("b", json!({"mode": "Cold"}), Value::Null),
    );
    let of_first = plan(&first, &observed(Some(placed()), vec![second.clone()]), NOW);
    assert!(matches!(of_first, Plan::Accept(_)), "{of_first:?}");
    let of_second = plan(&second, &observed(Some(placed()), vec![first]), NOW);
    assert!(
        matches!(
            of_second,
            Plan::End {
                reason: "AnotherMigration",
                ..
            }
        ),
        "{of_second:?}"
    );
}

#[test]
fn an_accepted_migration_takes_room_on_its_target() {
    let moving = migration(
        "other",
        json!({}),
        json!({"phase": "Copying", "source": "a1", "target": "a2"}),
    );
    let objects = Objects {
        hosts: vec![host("a1", "a", "2Gi"), host("a2", "a", "2Gi")],
        containers: vec![placed()],
        migrations: vec![Arc::new(moving)],
        ..Objects::default()
    };
    let snapshot = Snapshot::new(objects, NOW);
    let board = Board::new(&snapshot);
    let free = [0, 1].map(|h| board.free(h).memory.0 >> 20);
    assert_eq!(free, [1024, 1024]);
}

#[test]
fn the_target_is_reached_by_its_private_address_inside_a_cloud_and_by_the_public_one_across() {
    for (cloud, endpoint) in [("a", "10.1.0.2:6446"), ("b", "198.18.0.2:6446")] {
        let m = migration(
            "m",
            json!({"mode": "Cold", "target": {"cloud": cloud}}),
            Value::Null,
        );
        let planned = plan(&m, &observed(Some(placed()), vec![]), NOW);
        let said = status(&m, &planned, &Steps::default(), NOW).status;
        assert_eq!(said.endpoint.as_deref(), Some(endpoint), "{planned:?}");
        assert_eq!(
            (said.epoch, said.mode),
            (Some(3), Some(MigrationMode::Cold))
        );
        assert_eq!(said.phase, MigrationPhase::Preparing);
    }
}

#[test]
fn what_the_agents_do_is_left_to_them_while_the_source_exists() {
    let running = json!({"phase": "Copying", "source": "a1", "target": "a2", "epoch": 3});
    let m = migration("m", json!({"cancel": true}), running);
    assert_eq!(
        plan(&m, &observed(Some(placed()), vec![]), NOW),
        Plan::Nothing
    );
    let gone = Observed {
        source: None,
        ..observed(Some(placed()), vec![])
    };
    assert!(matches!(
        plan(&m, &gone, NOW),
        Plan::End {
            reason: "SourceGone",
            ..
        }
    ));
}

#[test]
fn a_finished_migration_is_kept_for_its_time_and_then_deleted() {
    let done = json!({"phase": "Succeeded", "finishedAt": "1970-01-01T00:00:00Z"});
    let m = migration("m", json!({"ttlAfterFinished": "10s"}), done);
    let seen = observed(None, vec![]);
    assert_eq!(plan(&m, &seen, NOW), Plan::Nothing);
    let next = status(&m, &Plan::Nothing, &Steps::default(), NOW).next;
    assert_eq!(next, Next::After(std::time::Duration::from_secs(10)));
    let later = Timestamp::from_second(10).unwrap();
    assert_eq!(plan(&m, &seen, later), Plan::Expire);
}

#[test]
fn a_migration_waits_while_one_of_its_hosts_has_enough_under_way() {
    let under_way = |i: usize| {
        let status = json!({"phase": "Copying", "source": "b1", "target": "a2"});
        let mut other = migration(&format!("other-{i}"), json!({}), status);
        other.spec.container = format!("other-{i}");
        Arc::new(other)
    };
    let asked =
        |most: u32| json!({"mode": "Cold", "target": {"host": "a2"}, "atOncePerHost": most});
    let seen = Observed {
        busy: super::plan::busy(&[under_way(0), under_way(1)]),
        ..observed(Some(placed()), vec![])
    };
    let waits = migration("m", asked(2), Value::Null);
    let planned = plan(&waits, &seen, NOW);
    assert!(matches!(planned, Plan::Wait(_)), "{planned:?}");
    let said = status(&waits, &planned, &Steps::default(), NOW).status;
    assert_eq!(said.phase, MigrationPhase::Pending);
    assert_eq!(said.conditions[0].reason, "HostBusy");
    let goes = migration("m", asked(3), Value::Null);
    assert!(matches!(plan(&goes, &seen, NOW), Plan::Accept(_)));
}

#[test]
fn a_migration_to_a_host_that_is_being_deleted_is_called_off_until_it_is_committed() {
    let moving = |phase: &str, cancel: bool| {
        let status = json!({"phase": phase, "source": "a1", "target": "a2", "epoch": 3});
        migration("m", json!({"cancel": cancel}), status)
    };
    let mut seen = observed(Some(placed()), vec![]);
    let mut going = (*host("a2", "a", "2Gi")).clone();
    seen.target = Some(Arc::new(going.clone()));
    assert_eq!(plan(&moving("Copying", false), &seen, NOW), Plan::Nothing);
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(NOW);
    going.metadata.deletion_timestamp = Some(now);
    seen.target = Some(Arc::new(going));
    assert!(matches!(
        plan(&moving("Committing", false), &seen, NOW),
        Plan::Cancel(_)
    ));
    assert_eq!(plan(&moving("Copying", true), &seen, NOW), Plan::Nothing);
    assert_eq!(plan(&moving("Resuming", false), &seen, NOW), Plan::Nothing);
}
