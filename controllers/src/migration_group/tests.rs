//! Laws.

use super::plan::{Observed, Plan, plan, status};
use jiff::Timestamp;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use skysail_reconcile::Steps;
use skysail_schemas::migration::MigrationPhase;
use skysail_schemas::migration_group::{MemberState, MigrationGroupPhase};
use skysail_schemas::{Container, Migration, MigrationGroup};
use std::sync::Arc;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn group(spec: Value) -> MigrationGroup {
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "MigrationGroup",
        "metadata": {"name": "g", "namespace": "acme", "uid": "g"}, "spec": spec
    }))
    .unwrap()
}

fn container(name: &str, tier: &str, wave: &str, host: &str) -> Arc<Container> {
    let object = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
        "metadata": {"name": name, "namespace": "acme", "uid": name,
            "labels": {"tier": tier}, "annotations": {"skysail.dev/wave": wave}},
        "spec": {"image": "i", "instanceType": "s"}, "status": {"host": host, "epoch": 1}
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

/// Two clouds of two hosts, and what is in them.
struct World {
    group: MigrationGroup,
    seen: Observed,
}

impl World {
    fn new(spec: Value, containers: Vec<Arc<Container>>) -> Self {
        let clouds = ["a1", "a2", "b1", "b2"].map(|h| (h.to_owned(), h[..1].to_owned()));
        Self {
            group: group(spec),
            seen: Observed {
                containers,
                clouds: clouds.into(),
                ..Observed::default()
            },
        }
    }

    /// One turn; what it made.
    fn turn(&mut self) -> Vec<Migration> {
        let planned = plan(&self.group, &self.seen, NOW);
        for made in &planned.make {
            assert!(
                self.find(&made.name_any()).is_none(),
                "made twice: {made:?}"
            );
            self.seen.migrations.push(Arc::new(made.clone()));
        }
        for cancelled in &planned.cancel {
            self.end(&cancelled.name_any(), "Cancelled");
        }
        self.group.status = Some(status(&self.group, &planned, &Steps::default(), NOW).status);
        planned.make
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.seen
            .migrations
            .iter()
            .position(|m| m.name_any() == name)
    }

    fn set(&mut self, name: &str, status: Value) {
        let at = self.find(name).unwrap();
        let mut migration = (*self.seen.migrations[at]).clone();
        migration.status = Some(serde_json::from_value(status).unwrap());
        self.seen.migrations[at] = Arc::new(migration);
    }

    fn end(&mut self, name: &str, phase: &str) {
        let reason = json!([{"type": "Succeeded", "status": "False", "reason": "NoHostFits", "message": "x", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        self.set(
            name,
            json!({"phase": phase, "source": "a1", "target": "b1", "conditions": reason}),
        );
    }

    fn states(&self) -> Vec<MemberState> {
        let status = self.group.status.as_ref().unwrap();
        status.members.iter().map(|m| m.state).collect()
    }

    fn phase(&self) -> MigrationGroupPhase {
        self.group.status.as_ref().unwrap().phase
    }
}

fn names(made: &[Migration]) -> Vec<&str> {
    made.iter().map(|m| m.spec.container.as_str()).collect()
}

fn shop() -> Vec<Arc<Container>> {
    vec![
        container("web-0", "web", "0", "a1"),
        container("web-1", "web", "0", "a2"),
        container("db-0", "db", "0", "a1"),
        container("db-1", "db", "0", "a2"),
    ]
}

#[test]
fn what_it_moves_is_written_down_before_anything_is_made() {
    let mut world = World::new(json!({"target": {"cloud": "b"}}), shop());
    assert!(world.turn().is_empty());
    assert_eq!(world.states(), [MemberState::Waiting; 4]);
    // One that comes later is not meant.
    world
        .seen
        .containers
        .push(container("late", "web", "0", "a1"));
    assert_eq!(world.turn().len(), 4);
    assert!(
        world.turn().is_empty(),
        "nothing changed, so nothing is made"
    );
}

#[test]
fn waves_go_one_after_the_other_in_the_order_that_is_asked_for() {
    let order = json!([{"matchLabels": {"tier": "db"}}]);
    let mut world = World::new(json!({"target": {"cloud": "b"}, "order": order}), shop());
    world.turn();
    assert_eq!(names(&world.turn()), ["db-0", "db-1"]);
    world.end("g-0", "Succeeded");
    assert!(world.turn().is_empty());
    world.end("g-1", "Failed");
    assert_eq!(names(&world.turn()), ["web-0", "web-1"]);
    for name in ["g-2", "g-3"] {
        world.end(name, "Succeeded");
    }
    world.turn();
    assert_eq!(world.phase(), MigrationGroupPhase::Incomplete);
    let status = world.group.status.clone().unwrap();
    assert_eq!((status.moved, status.refused), (3, 1));
    let said = &status.conditions[0].message;
    assert_eq!(said, "3 of 4 moved, 1 not: db-1: NoHostFits: x");
}

#[test]
fn the_annotation_says_the_wave_where_the_group_does_not() {
    let all = vec![
        container("late", "x", "2", "a1"),
        container("first", "x", "-1", "a1"),
        container("odd", "x", "soon", "a1"),
    ];
    let mut world = World::new(json!({}), all);
    world.turn();
    let members = world.group.status.clone().unwrap().members;
    let order: Vec<_> = members
        .iter()
        .map(|m| (m.container.as_str(), m.wave))
        .collect();
    assert_eq!(order, [("first", -1), ("odd", 0), ("late", 2)]);
}

#[test]
fn what_is_there_already_stays_and_counts_as_moved() {
    let all = vec![
        container("x", "x", "0", "b2"),
        container("y", "x", "0", "a1"),
    ];
    let mut world = World::new(json!({"target": {"cloud": "b"}}), all);
    world.turn();
    assert_eq!(names(&world.turn()), ["y"]);
    world.end("g-1", "Succeeded");
    world.turn();
    assert_eq!(world.states(), [MemberState::There, MemberState::Moved]);
    assert_eq!(world.phase(), MigrationGroupPhase::Succeeded);
}

#[test]
fn one_host_has_no_more_under_way_than_it_may() {
    let mut world = World::new(
        json!({"target": {"cloud": "b"}, "atOncePerHost": 1}),
        shop(),
    );
    world.turn();
    assert_eq!(names(&world.turn()), ["db-0", "db-1"]);
    let waiting = world.group.status.clone().unwrap().members;
    let why = waiting.iter().find_map(|m| m.message.clone()).unwrap();
    assert_eq!(why, "host a1 has 1 moves under way (spec.atOncePerHost)");
}

#[test]
fn a_cancelled_group_begins_nothing_and_gives_up_what_is_under_way() {
    let mut world = World::new(json!({"target": {"cloud": "b"}, "atOnce": 1}), shop());
    world.turn();
    assert_eq!(world.turn().len(), 1);
    world.group.spec.cancel = true;
    world.turn();
    world.turn();
    assert_eq!(world.states(), [MemberState::Cancelled; 4]);
    assert_eq!(world.phase(), MigrationGroupPhase::Cancelled);
}

#[test]
fn one_that_is_asked_to_stops_at_the_first_refusal() {
    let spec = json!({"target": {"cloud": "b"}, "atOnce": 1, "stopOnRefusal": true});
    let mut world = World::new(spec, shop());
    world.turn();
    world.turn();
    world.end("g-0", "Failed");
    assert!(world.turn().is_empty());
    assert_eq!(world.phase(), MigrationGroupPhase::Incomplete);
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    let mut world = World::new(json!({"target": {"cloud": "b"}}), shop());
    let foreign = |name: &str, container: &str| {
        let mut made = Migration::new(name, Default::default());
        made.metadata.namespace = Some("acme".into());
        made.spec.container = container.into();
        Arc::new(made)
    };
    // The name of the first one is taken, and the second one is on its way already.
    world.seen.migrations = vec![foreign("g-0", "other"), foreign("mine", "db-1")];
    world.turn();
    assert_eq!(names(&world.turn()), ["web-0", "web-1"]);
    assert_eq!(
        world.states()[..2],
        [MemberState::Refused, MemberState::Waiting]
    );
    world.group.spec.cancel = true;
    let cancelled = plan(&world.group, &world.seen, NOW).cancel;
    assert!(cancelled.iter().all(|m| m.name_any() != "mine"));
}

#[test]
fn a_group_that_picks_nothing_says_so() {
    let mut world = World::new(json!({"selector": {"matchLabels": {"a": "b"}}}), shop());
    world.turn();
    let status = world.group.status.clone().unwrap();
    assert_eq!(status.phase, MigrationGroupPhase::Incomplete);
    assert_eq!(status.conditions[0].reason, "NothingPicked");
    assert_eq!(plan(&world.group, &world.seen, NOW), Plan::default());
}

proptest! {
    #[test]
    fn it_always_ends_never_has_more_under_way_than_it_may_and_keeps_the_order(
        waves in proptest::collection::vec(0_u8..4, 1..12),
        ends in proptest::collection::vec((0_usize..12, 0_u8..6), 0..60),
        at_once in 1_u32..5,
    ) {
        let all = waves.iter().enumerate();
        let all = all.map(|(i, w)| container(&format!("c{i}"), "x", &w.to_string(), "a1"));
        let spec = json!({"target": {"cloud": "b"}, "atOnce": at_once, "atOncePerHost": 3});
        let mut world = World::new(spec, all.collect());
        world.turn();
        for (which, luck) in ends {
            world.turn();
            let open: Vec<String> = world.seen.migrations.iter()
                .filter(|m| m.status.as_ref().is_none_or(|s| !s.phase.is_finished()))
                .map(|m| m.name_any()).collect();
            prop_assert!(open.len() <= at_once as usize);
            let members = world.group.status.clone().unwrap().members;
            let wave = |name: &String| members[name[2..].parse::<usize>().unwrap()].wave;
            let begun = open.iter().map(wave).max();
            let left = members.iter().filter(|m| m.state == MemberState::Waiting).map(|m| m.wave).min();
            prop_assert!(begun.is_none() || left.is_none() || begun <= left, "{members:?}");
            if let Some(name) = open.get(which % open.len().max(1)) {
                world.end(name, ["Succeeded", "Failed", "RolledBack", "Cancelled", "Succeeded", "Succeeded"][usize::from(luck)]);
            }
        }
        for _ in 0..30 {
            world.turn();
            let open: Vec<String> = world.seen.migrations.iter().map(|m| m.name_any()).collect();
            for name in open {
                let at = world.find(&name).unwrap();
                let phase = world.seen.migrations[at].status.as_ref().map(|s| s.phase);
                if !phase.unwrap_or(MigrationPhase::Pending).is_finished() {
                    world.end(&name, "Succeeded");
                }
            }
        }
        prop_assert!(world.phase() == MigrationGroupPhase::Succeeded || world.phase() == MigrationGroupPhase::Incomplete);
        prop_assert_eq!(world.seen.migrations.len(), waves.len());
    }
}
