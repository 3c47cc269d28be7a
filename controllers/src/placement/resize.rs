//! A Container that has a Host gets another size, where that Host has room. Pure.
//!
//! What a Container is sized as (`status.allocation`) follows its InstanceType, also
//! when `spec.instanceType` names another one. It is all or nothing but for the disk,
//! which never shrinks. What cannot be now, or ever, stands in the condition
//! `ResizePending` (`Deferred`, `Infeasible`), as for a Pod of Kubernetes; a Container
//! has it once it asked for another size. The agent applies it, and tells in `Resized`.

use super::board::Board;
use super::plan::Step;
use super::request::allocation;
use jiff::Timestamp;
use kube::ResourceExt;
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::container::Allocation;
use skysail_schemas::quantity::Bytes;
use skysail_schemas::{Container, InstanceType};
use std::sync::Arc;

const CONDITION: &str = "ResizePending";

/// Whether an event of this Container, which has a Host, may mean that it asks for another size.
pub fn may_ask(container: &Container) -> bool {
    let observed = container
        .status
        .as_ref()
        .and_then(|s| s.observed_generation);
    observed != container.metadata.generation
}

/// Whether any of them has another size than its type, found by `types`.
pub fn asks(
    containers: &[Arc<Container>],
    types: impl Fn(&str, &str) -> Option<Arc<InstanceType>>,
) -> bool {
    containers.iter().any(|c| {
        let has = c.status.as_ref().and_then(|s| s.allocation.as_ref());
        let wants = types(&c.namespace().unwrap_or_default(), &c.spec.instance_type);
        has.zip(wants)
            .is_some_and(|(has, t)| *has != allocation(&t))
            || is_pending(c)
    })
}

fn is_pending(container: &Container) -> bool {
    let status = container.status.as_ref();
    status.is_some_and(|s| condition::is_true(&s.conditions, CONDITION))
}

/// The new statuses of Containers whose size or condition changes; what grows is counted on its Host.
pub fn plan(board: &mut Board<'_>, now: Timestamp) -> Vec<Step> {
    let snapshot = board.snapshot;
    let step = |container: &Arc<Container>| {
        let mut status = container.status.clone()?;
        let has = status.allocation.clone()?;
        let key = (
            container.namespace().unwrap_or_default(),
            container.spec.instance_type.clone(),
        );
        let wants = allocation(snapshot.instance_types.get(&key)?);
        let host = snapshot.host(status.host.as_deref()?)?;
        let (gets, fact) = decide(&key.1, &has, &wants, (board, host));
        if gets == has && fact.status == Some(false) && !is_pending(container) {
            return None;
        }
        board.resize(host, &key.0, has.resources(), gets.resources());
        status.allocation = Some(gets);
        let generation = container.metadata.generation;
        condition::merge(&mut status.conditions, &[fact], generation, now);
        let changed = container.status.as_ref() != Some(&status);
        changed.then(|| Step {
            container: container.clone(),
            status,
        })
    };
    snapshot.bound.iter().filter_map(step).collect()
}

/// The size that it gets, and what is said of it.
fn decide(
    name: &str,
    has: &Allocation,
    wants: &Allocation,
    host: (&Board<'_>, usize),
) -> (Allocation, Fact) {
    let shrinks = wants.disk < has.disk;
    let gets = Allocation {
        disk: wants.disk.max(has.disk),
        ..wants.clone()
    };
    if let Some((reason, message)) = refusal(name, has, &gets, host) {
        return (has.clone(), Fact::yes(CONDITION, reason, message));
    }
    if shrinks {
        let message = format!(
            "InstanceType {name}: spec.disk {} is less than the {} that it has, and a disk does not shrink; all else is as the type says. Make another Container, or give the type the old disk",
            wants.disk, has.disk
        );
        return (gets, Fact::yes(CONDITION, "Infeasible", message));
    }
    let message = format!("it is sized as InstanceType {name} says");
    (gets, Fact::no(CONDITION, "Accepted", message))
}

fn refusal(
    name: &str,
    has: &Allocation,
    gets: &Allocation,
    (board, host): (&Board<'_>, usize),
) -> Option<(&'static str, String)> {
    let host_name = &board.snapshot.hosts[host].name;
    let (free, most) = (board.free(host), board.snapshot.hosts[host].allocatable);
    let bytes =
        |what, values: [Bytes; 4]| (what, values.map(|b| b.0), values.map(|b| b.to_string()));
    let cpu = [has.cpu, gets.cpu, free.cpu, most.cpu];
    let compared = [
        ("cpu", cpu.map(|c| c.0), cpu.map(|c| c.to_string())),
        bytes(
            "memory",
            [has.memory, gets.memory, free.memory, most.memory],
        ),
        bytes("disk", [has.disk, gets.disk, free.disk, most.disk]),
    ];
    let short = |reason: &'static str, way_out: &str| {
        let is_short = |[has, gets, free, most]: [u64; 4]| match reason {
            "Infeasible" => gets > has && gets > most,
            _ => gets > has && gets - has > free,
        };
        let (what, _, shown) = compared.iter().find(|(_, v, _)| is_short(*v))?;
        let [has, gets, free, most] = shown;
        let message = format!(
            "InstanceType {name}: {gets} of {what} instead of {has}, but Host {host_name} has {free} left of its {most}; {way_out}"
        );
        Some((reason, message))
    };
    short(
        "Infeasible",
        "move the Container to a larger Host, or name a smaller type in spec.instanceType",
    )
    .or_else(|| {
        short(
            "Deferred",
            "it is resized by itself when there is room, or move it to another Host",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::snapshot::{Objects, Snapshot};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use skysail_schemas::host::Resources;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    /// A host of 4 cores and 8 Gi, with one container of 1 core, 1 Gi and a disk of 2 Gi, whose type asks for `wants`.
    fn snapshot(wants: Value) -> Snapshot {
        let kind = |kind: &str, name: &str| json!({ "apiVersion": "skysail.dev/v1alpha1", "kind": kind, "metadata": { "name": name, "namespace": "t", "generation": 1 } });
        let with = |mut base: Value, more: Value| {
            for (key, value) in more.as_object().unwrap() {
                base[key] = value.clone();
            }
            base
        };
        let host = json!({
            "spec": { "ssh": { "address": "h" } },
            "status": {
                "allocatable": { "cpu": "4", "memory": "8Gi", "disk": "20Gi" },
                "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
            },
        });
        let has = json!({ "cpu": "1", "memory": "1Gi", "disk": "2Gi", "pids": 100 });
        let container = json!({
            "spec": { "image": "i", "instanceType": "s" },
            "status": { "host": "h", "allocation": has, "epoch": 1 },
        });
        let objects = Objects {
            hosts: vec![object(with(kind("Host", "h"), host))],
            containers: vec![object(with(kind("Container", "c"), container))],
            instance_types: vec![object(with(
                kind("InstanceType", "s"),
                json!({ "spec": wants }),
            ))],
            ..Objects::default()
        };
        Snapshot::new(objects, Timestamp::UNIX_EPOCH)
    }

    fn resize(wants: Value) -> Option<(Allocation, String, String)> {
        let snapshot = snapshot(wants);
        let mut board = Board::new(&snapshot);
        let mut steps = plan(&mut board, Timestamp::UNIX_EPOCH);
        let step = steps.pop()?;
        let gets = step.status.allocation.clone().unwrap();
        assert_eq!(used(&board), gets.resources(), "it is counted");
        let said = step.status.conditions.iter().find(|c| c.type_ == CONDITION);
        let said = said.unwrap();
        Some((gets, said.reason.clone(), said.message.clone()))
    }

    fn used(board: &Board<'_>) -> Resources {
        let (all, free) = (board.snapshot.hosts[0].allocatable, board.free(0));
        Resources {
            cpu: all.cpu.saturating_sub(free.cpu),
            memory: all.memory.saturating_sub(free.memory),
            disk: all.disk.saturating_sub(free.disk),
        }
    }

    /// A board on which others take memory too.
    fn crowded(snapshot: &Snapshot, others: u64) -> Board<'_> {
        let mut board = Board::new(snapshot);
        let others = Resources {
            memory: Bytes(others),
            ..Resources::default()
        };
        board.resize(0, "t", Resources::default(), others);
        board
    }

    fn size(cpu: &str, memory: &str, disk: &str) -> Value {
        json!({ "cpu": cpu, "memory": memory, "disk": disk, "pids": 100 })
    }

    #[test]
    fn a_size_that_is_as_it_should_be_is_left_alone() {
        assert_eq!(resize(size("1", "1Gi", "2Gi")), None);
    }

    #[test]
    fn a_size_follows_its_type_where_the_host_has_room() {
        for wants in [size("4", "8Gi", "20Gi"), size("100m", "64Mi", "2Gi")] {
            let (gets, reason, _) = resize(wants.clone()).unwrap();
            let wants: Allocation = serde_json::from_value(wants).unwrap();
            assert_eq!((gets, reason.as_str()), (wants, "Accepted"));
        }
    }

    #[test]
    fn what_the_host_could_never_give_is_refused_whole_with_its_name() {
        let (gets, reason, message) = resize(size("2", "9Gi", "2Gi")).unwrap();
        assert_eq!((gets.cpu.0, reason.as_str()), (1000, "Infeasible"));
        assert!(
            message.contains("9Gi of memory instead of 1Gi, but Host h has 7Gi left of its 8Gi"),
            "{message}"
        );
    }

    #[test]
    fn a_disk_does_not_shrink_and_all_else_does() {
        let (gets, reason, message) = resize(size("500m", "512Mi", "1Gi")).unwrap();
        assert_eq!(
            (gets.cpu.0, gets.disk.0, reason.as_str()),
            (500, 2 << 30, "Infeasible")
        );
        assert!(message.contains("does not shrink"), "{message}");
    }

    #[test]
    fn what_has_no_room_now_waits_and_what_waited_is_said_once_and_then_done() {
        let mut snapshot = snapshot(size("2", "4Gi", "2Gi"));
        let mut steps = plan(&mut crowded(&snapshot, 5 << 30), Timestamp::UNIX_EPOCH);
        let step = steps.pop().unwrap();
        assert_eq!(step.status.allocation.as_ref().unwrap().cpu.0, 1000);
        assert_eq!(step.status.conditions[0].reason, "Deferred");

        let mut container = Container::clone(&snapshot.bound[0]);
        container.status = Some(step.status);
        snapshot.bound = vec![Arc::new(container)];
        let again = plan(&mut crowded(&snapshot, 5 << 30), Timestamp::UNIX_EPOCH);
        assert_eq!(again, [], "nothing new is said");
        let steps = plan(&mut crowded(&snapshot, 0), Timestamp::UNIX_EPOCH);
        assert_eq!(steps[0].status.allocation.as_ref().unwrap().cpu.0, 2000);
        assert_eq!(
            (
                steps[0].status.conditions[0].status.as_str(),
                steps[0].status.conditions[0].reason.as_str()
            ),
            ("False", "Accepted")
        );
    }

    proptest! {
        /// Whatever is asked for, a host never gives more than it has, and a second look changes nothing.
        #[test]
        fn no_host_is_overcommitted(cpu in 10u64..9000, memory in 16u64..12_000, disk in 1u64..30) {
            let wants = json!({ "cpu": format!("{cpu}m"), "memory": format!("{memory}Mi"), "disk": format!("{disk}Gi"), "pids": 100 });
            let mut snapshot = snapshot(wants);
            let mut board = Board::new(&snapshot);
            let steps = plan(&mut board, Timestamp::UNIX_EPOCH);
            let (used, most) = (used(&board), snapshot.hosts[0].allocatable);
            prop_assert!(used.cpu <= most.cpu && used.memory <= most.memory && used.disk <= most.disk);
            if let Some(step) = steps.into_iter().next() {
                let mut container = Container::clone(&snapshot.bound[0]);
                container.status = Some(step.status);
                let bound = vec![Arc::new(container)];
                snapshot.residents[0].container = bound[0].clone();
                snapshot.residents[0].taken = bound[0].status.as_ref().unwrap().allocation.as_ref().unwrap().resources();
                snapshot.bound = bound;
                prop_assert_eq!(plan(&mut Board::new(&snapshot), Timestamp::UNIX_EPOCH), vec![]);
            }
        }
    }
}
