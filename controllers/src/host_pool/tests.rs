//! Laws: the cheapest is bought, once; what is empty goes after a while and never with something on it.

use super::plan::{LEAVING, Plan, Seen, plan};
use crate::placement::snapshot::Objects;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use skysail_schemas::{Container, Host};
use std::sync::Arc;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn object<T: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: Value, status: Value) -> T {
    let namespaced = matches!(kind, "Container" | "InstanceType");
    let namespace = namespaced.then_some("acme");
    let metadata = json!({"name": name, "namespace": namespace, "uid": format!("{kind}-{name}")});
    let all = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec, "status": status});
    serde_json::from_value(all).unwrap()
}

fn ready() -> Value {
    json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

/// Sizes in units of 100m and 100Mi. Machines: name, size, price.
fn world(pool: Value, machines: &[(&str, u64, &str)], sizes: &[u64]) -> Seen {
    let mut objects = Objects {
        images: vec![Arc::new(object(
            "Image",
            "debian",
            json!({}),
            json!({"digest": "sha256:0", "conditions": ready()}),
        ))],
        clouds: vec![Arc::new(object(
            "Cloud",
            "east",
            json!({"driver": "sandbox", "sandbox": {"subnet": "10.1.0.0/24"}}),
            Value::Null,
        ))],
        ..Objects::default()
    };
    for (name, size, price) in machines {
        // A machine keeps 256Mi (or an eighth) for itself.
        let memory = size * 100 + 256 + size * 100 / 7;
        let spec = json!({"cloud": "east", "cpu": format!("{}m", size * 100), "memory": format!("{memory}Mi"), "disk": "1Ti", "pricePerHour": price});
        objects
            .machine_types
            .push(Arc::new(object("MachineType", name, spec, Value::Null)));
    }
    for (i, size) in sizes.iter().enumerate() {
        let kind = format!("s{size}");
        let spec =
            json!({"cpu": format!("{}m", size * 100), "memory": format!("{}Mi", size * 100)});
        objects
            .instance_types
            .push(Arc::new(object("InstanceType", &kind, spec, Value::Null)));
        let spec = json!({"image": "debian", "instanceType": kind});
        objects.containers.push(Arc::new(object(
            "Container",
            &format!("c{i}"),
            spec,
            Value::Null,
        )));
    }
    let pools = vec![Arc::new(object("HostPool", "p", pool, Value::Null))];
    Seen { pools, objects }
}

fn bought(plan: &Plan) -> Vec<String> {
    let mut kinds: Vec<String> = plan
        .create
        .iter()
        .map(|h| h.spec.machine_type.clone().unwrap())
        .collect();
    kinds.sort();
    kinds
}

/// What is there when a plan was carried out.
fn done(seen: &mut Seen, plan: Plan) {
    for host in plan.create {
        assert!(
            !seen
                .objects
                .hosts
                .iter()
                .any(|h| h.name_any() == host.name_any())
        );
        seen.objects.hosts.push(Arc::new(host));
    }
    for (host, closed) in plan.cordon {
        let there = seen.objects.hosts.iter_mut();
        for there in there.filter(|h| h.name_any() == host.name_any()) {
            let there = Arc::make_mut(there);
            there.spec.unschedulable = closed;
            there.annotations_mut().remove(LEAVING);
            if closed {
                there
                    .annotations_mut()
                    .insert(LEAVING.into(), "true".into());
            }
        }
    }
    for gone in plan.remove {
        seen.objects
            .hosts
            .retain(|h| h.name_any() != gone.name_any());
    }
    for (_, status) in plan.status {
        Arc::make_mut(&mut seen.pools[0]).status = Some(status);
    }
}

fn come_up(seen: &mut Seen) {
    for host in &mut seen.objects.hosts {
        let status = json!({"phase": "Running", "conditions": ready(), "allocatable": {"cpu": "1", "memory": "1000Mi", "disk": "100Gi"}});
        Arc::make_mut(host).status = Some(serde_json::from_value(status).unwrap());
    }
}

fn message(seen: &Seen) -> String {
    let status = seen.pools[0].status.clone().unwrap_or_default();
    status
        .conditions
        .iter()
        .find(|c| c.type_ == "Satisfied")
        .map(|c| format!("{}: {}", c.reason, c.message))
        .unwrap_or_default()
}

const MACHINES: [(&str, u64, &str); 3] = [
    ("big", 16, "0.16"),
    ("mid", 8, "0.06"),
    ("small", 4, "0.05"),
];

#[test]
fn the_cheapest_machines_on_which_all_fits_are_bought_and_never_twice() {
    let mut seen = world(json!({"max": 5}), &MACHINES, &[4, 4, 4, 4, 3]);
    let first = plan(&seen, NOW);
    // mid + mid + small (0.17); big + small would be 0.21, three mid 0.18.
    assert_eq!(bought(&first), ["mid", "mid", "small"]);
    done(&mut seen, first);
    assert_eq!(
        message(&seen),
        "Buying: buys 2 mid, 1 small for 0.17 per hour in all; nothing on which as much fits costs less than 0.17"
    );
    // They are not up yet: the same need is not met again.
    let second = plan(&seen, NOW);
    assert_eq!(bought(&second), Vec::<String>::new());
    done(&mut seen, second);
    assert!(message(&seen).starts_with("HostsComing: waits for p-0"));
    assert_eq!(plan(&seen, NOW), Plan::default());
}

#[test]
fn no_more_than_max_and_no_dearer_than_allowed() {
    let mut seen = world(json!({"max": 1}), &MACHINES, &[4, 4, 4]);
    let one = plan(&seen, NOW);
    assert_eq!(bought(&one), ["big"]);
    done(&mut seen, one);
    let limited = world(
        json!({"max": 9, "maxPricePerHour": "0.07"}),
        &MACHINES,
        &[4, 4, 4, 4],
    );
    assert_eq!(bought(&plan(&limited, NOW)), ["mid"]);
    let chosen = world(
        json!({"max": 9, "machineTypes": ["small"]}),
        &MACHINES,
        &[4, 4],
    );
    assert_eq!(bought(&plan(&chosen, NOW)), ["small", "small"]);
    let elsewhere = world(json!({"max": 9, "clouds": ["west"]}), &MACHINES, &[4]);
    assert_eq!(bought(&plan(&elsewhere, NOW)), Vec::<String>::new());
}

#[test]
fn what_nothing_can_hold_is_said_and_nothing_is_bought_for_it() {
    let mut seen = world(json!({"max": 9}), &MACHINES, &[40, 4]);
    let planned = plan(&seen, NOW);
    assert_eq!(bought(&planned), ["small"]);
    done(&mut seen, planned);
    come_up(&mut seen);
    let later = plan(&seen, NOW);
    done(&mut seen, later);
    assert!(
        message(&seen)
            .contains("1 containers fit on no machine that may be bought, for example c0"),
        "{}",
        message(&seen)
    );
}

#[test]
fn the_least_number_is_kept_and_a_machine_that_cannot_be_had_is_routed_around() {
    let mut seen = world(json!({"min": 2, "max": 4}), &MACHINES, &[]);
    let planned = plan(&seen, NOW);
    assert_eq!(bought(&planned), ["small", "small"]);
    done(&mut seen, planned);
    let failed = json!({"phase": "Pending", "conditions": [{"type": "Provisioned", "status": "False", "reason": "NoCapacity", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    Arc::make_mut(&mut seen.objects.hosts[0]).status =
        Some(serde_json::from_value(failed).unwrap());
    let planned = plan(&seen, NOW);
    assert_eq!(planned.remove.len(), 1);
    done(&mut seen, planned);
    let planned = plan(&seen, NOW);
    assert_eq!(bought(&planned), ["mid"]);
    done(&mut seen, planned);
    // Later it is asked for again.
    seen.objects.hosts.clear();
    let later = NOW + SignedDuration::from_mins(11);
    assert_eq!(bought(&plan(&seen, later)), ["small", "small"]);
}

#[test]
fn an_empty_host_is_cordoned_then_given_back_and_one_that_got_something_is_opened_again() {
    let mut seen = world(json!({"max": 4, "returnAfter": "1m"}), &MACHINES, &[4]);
    let planned = plan(&seen, NOW);
    done(&mut seen, planned);
    come_up(&mut seen);
    let waiting = std::mem::take(&mut seen.objects.containers);
    let empty = plan(&seen, NOW);
    assert!(empty.cordon.is_empty() && empty.remove.is_empty());
    done(&mut seen, empty);
    let later = NOW + SignedDuration::from_secs(61);
    let planned = plan(&seen, later);
    assert_eq!((planned.cordon.len(), planned.remove.len()), (1, 0));
    done(&mut seen, planned);
    // Bound at the very moment.
    let mut bound: Container = (*waiting[0]).clone();
    bound.status = Some(
        serde_json::from_value(
            json!({"host": "p-0", "allocation": {"cpu": "400m", "memory": "400Mi"}}),
        )
        .unwrap(),
    );
    seen.objects.containers = vec![Arc::new(bound)];
    let planned = plan(&seen, later);
    assert_eq!((planned.cordon.len(), planned.remove.len()), (1, 0));
    done(&mut seen, planned);
    assert!(!seen.objects.hosts[0].spec.unschedulable);
    // Gone again: the time begins anew, then it goes.
    seen.objects.containers.clear();
    let planned = plan(&seen, later);
    assert!(planned.cordon.is_empty());
    done(&mut seen, planned);
    for expected in [(1, 0), (0, 1)] {
        let planned = plan(&seen, later + SignedDuration::from_secs(61));
        assert_eq!((planned.cordon.len(), planned.remove.len()), expected);
        done(&mut seen, planned);
    }
    assert!(seen.objects.hosts.is_empty());
}

#[test]
fn what_people_cordoned_or_made_themselves_is_not_touched() {
    let mut seen = world(json!({"max": 4, "returnAfter": "1s"}), &MACHINES, &[]);
    let mine: Host = object(
        "Host",
        "p-0",
        json!({"cloud": "east", "unschedulable": true}),
        Value::Null,
    );
    seen.objects.hosts = vec![Arc::new(mine)];
    come_up(&mut seen);
    let pool = Arc::make_mut(&mut seen.pools[0]);
    pool.spec.min = 1;
    let planned = plan(&seen, NOW);
    assert!(planned.cordon.is_empty() && planned.remove.is_empty());
    // The name is taken by a foreign one.
    assert_eq!(planned.create[0].name_any(), "p-1");
}

proptest! {
    #[test]
    fn the_purchase_is_the_cheapest_of_all(sizes in proptest::collection::vec(1u64..9, 1..6), prices in (1u64..30, 1u64..30)) {
        let (a, b) = (format!("0.{:02}", prices.0), format!("0.{:02}", prices.1));
        let machines = [("a", 8, a.as_str()), ("b", 12, b.as_str())];
        let seen = world(json!({"max": 6}), &machines, &sizes);
        let planned = plan(&seen, NOW);
        let cost: u64 = bought(&planned).iter().map(|k| if k == "a" { prices.0 } else { prices.1 }).sum();
        prop_assert_eq!(cost, cheapest(&sizes, prices));
    }
}

/// By trying every number of each machine, with every way to fill them.
fn cheapest(sizes: &[u64], prices: (u64, u64)) -> u64 {
    fn fits(sizes: &[u64], free: &mut Vec<u64>) -> bool {
        let Some((first, rest)) = sizes.split_first() else {
            return true;
        };
        (0..free.len()).any(|i| {
            if free[i] < *first {
                return false;
            }
            free[i] -= first;
            let all = fits(rest, free);
            free[i] += first;
            all
        })
    }
    let mut best = u64::MAX;
    for a in 0..=6usize {
        for b in 0..=(6 - a) {
            let mut free = [vec![8; a], vec![12; b]].concat();
            let cost = a as u64 * prices.0 + b as u64 * prices.1;
            if cost < best && fits(sizes, &mut free) {
                best = cost;
            }
        }
    }
    best
}
