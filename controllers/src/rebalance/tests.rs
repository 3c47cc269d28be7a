//! What each strategy finds, and what holds it back.

use super::plan::{Plan, Seen, plan, still_good};
use crate::placement::snapshot::Objects;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde_json::{Value, json};
use skysail_schemas::rebalance_policy::Waits;
use skysail_schemas::{Container, Host, HostPool, RebalancePolicy};
use std::sync::Arc;

fn object<T: serde::de::DeserializeOwned>(
    kind: &str,
    metadata: Value,
    spec: Value,
    status: Value,
) -> T {
    let all = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec, "status": status});
    serde_json::from_value(all).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

fn ready() -> Value {
    json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": at(0)}])
}

/// A Host of 4 cores and 4 Gi in Cloud `east`, with a reading.
fn host(name: &str, cpu: u64, memory_mi: u64) -> Host {
    object(
        "Host",
        json!({"name": name, "uid": name}),
        json!({"cloud": "east"}),
        json!({
            "phase": "Running", "conditions": ready(), "lastReport": at(0),
            "allocatable": {"cpu": "4", "memory": "4Gi", "disk": "100Gi"},
            "usage": {"cpu": format!("{cpu}m"), "memory": format!("{memory_mi}Mi"), "disk": "1Gi"}
        }),
    )
}

/// A Container of 1 core and 1 Gi on a Host, using so many thousandths of a core and 100 Mi.
fn on(host: &str, name: &str, cpu: u64) -> Container {
    with(host, name, cpu, json!({}), json!({}))
}

fn with(host: &str, name: &str, cpu: u64, labels: Value, placement: Value) -> Container {
    object(
        "Container",
        json!({"name": name, "namespace": "acme", "uid": name, "labels": labels}),
        json!({"image": "debian", "instanceType": "one", "placement": placement}),
        json!({
            "phase": "Running", "host": host, "epoch": 1, "conditions": ready(),
            "allocation": {"cpu": "1", "memory": "1Gi", "disk": "1Gi"},
            "image": {"name": "debian", "digest": "sha256:0"},
            "usage": {"cpu": format!("{cpu}m"), "memory": "100Mi", "pids": 3, "disk": "64Mi"}
        }),
    )
}

fn policy(spec: Value) -> RebalancePolicy {
    object(
        "RebalancePolicy",
        json!({"name": "p", "uid": "p"}),
        spec,
        Value::Null,
    )
}

fn seen(policy: RebalancePolicy, hosts: Vec<Host>, containers: Vec<Container>) -> Seen {
    let objects = Objects {
        hosts: hosts.into_iter().map(Arc::new).collect(),
        containers: containers.into_iter().map(Arc::new).collect(),
        ..Objects::default()
    };
    let mut seen = Seen {
        policies: vec![Arc::new(policy)],
        objects,
        ..Seen::default()
    };
    seen.signals.observe(&seen.objects, at(0));
    seen
}

/// The same, as its own plan leaves it.
fn goes_on(seen: &mut Seen, planned: &Plan) {
    for turn in &planned.turns {
        for policy in &mut seen.policies {
            if policy.name_any() == turn.policy.name_any() {
                Arc::make_mut(policy).status = Some(turn.status.clone());
            }
        }
        let made = turn.make.iter().map(|(_, m)| Arc::new(m.clone()));
        seen.objects.migrations.extend(made);
    }
}

fn auto(rest: Value) -> Value {
    let mut spec = json!({"mode": "Automatic"});
    for (key, value) in rest.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// `container -> host` of what is made.
fn made(planned: &Plan) -> Vec<String> {
    let all = planned.turns.iter().flat_map(|t| &t.make);
    all.map(|(c, m)| {
        format!(
            "{} -> {}",
            c.name_any(),
            m.spec.target.host.as_deref().unwrap_or("?")
        )
    })
    .collect()
}

fn waits(planned: &Plan) -> Vec<(String, Waits)> {
    let all = planned.turns.iter().flat_map(|t| &t.status.proposals);
    all.map(|p| (p.container.clone(), p.waits)).collect()
}

/// h1 is hot: three Containers use 3.6 of its 4 cores.
fn hot(spec: Value) -> Seen {
    let hosts = vec![
        host("h1", 3600, 500),
        host("h2", 200, 300),
        host("h3", 2700, 300),
    ];
    let containers = vec![
        on("h1", "a", 900),
        on("h1", "b", 950),
        on("h1", "c", 850),
        on("h1", "d", 900),
    ];
    seen(policy(spec), hosts, containers)
}

#[test]
fn a_host_is_relieved_only_after_it_was_hot_for_the_hold_time_and_then_by_one_move_at_a_time() {
    let mut seen = hot(auto(json!({"strategies": ["RelieveHotspots"]})));
    let first = plan(&seen, at(0));
    assert_eq!(made(&first), Vec::<String>::new());
    assert!(first.turns[0].status.hot.contains_key("h1"));
    goes_on(&mut seen, &first);
    assert_eq!(made(&plan(&seen, at(4))), Vec::<String>::new());
    let now = plan(&seen, at(5));
    // The one with the most to give for its size, to the one host that stays cool with it.
    assert_eq!(made(&now), ["b -> h2"]);
    let said = &now.turns[0].status.decisions[0].proposal.reason;
    assert!(
        said.contains("h1 uses 90% of its cores") && said.contains("without it 66%"),
        "{said}"
    );
    goes_on(&mut seen, &now);
    assert_eq!(made(&plan(&seen, at(6))), Vec::<String>::new());
}

#[test]
fn a_policy_that_reports_makes_nothing_and_one_that_asks_waits_for_its_approval() {
    for (mode, wanted) in [("Report", Waits::Report), ("Manual", Waits::Approval)] {
        let mut seen = hot(json!({"mode": mode, "strategies": ["RelieveHotspots"]}));
        let first = plan(&seen, at(0));
        goes_on(&mut seen, &first);
        let now = plan(&seen, at(6));
        assert_eq!(made(&now), Vec::<String>::new());
        assert_eq!(waits(&now), [("acme/b".to_owned(), wanted)]);
        assert!(now.turns[0].notes.is_empty());
        let id = now.turns[0].status.proposals[0].id.clone();
        goes_on(&mut seen, &now);
        // What is said once is not said again.
        assert_eq!(plan(&seen, at(7)), Plan::default());
        let policy = Arc::make_mut(&mut seen.policies[0]);
        policy
            .annotations_mut()
            .insert("skysail.dev/approve".into(), id);
        let approved = made(&plan(&seen, at(8)));
        assert_eq!(approved.len(), usize::from(mode == "Manual"));
    }
}

#[test]
fn a_host_of_which_nothing_is_known_is_neither_source_nor_target() {
    let spec = auto(json!({"strategies": ["RelieveHotspots"], "hotspot": {"hold": "0s"}}));
    let mut silent = hot(spec.clone());
    Arc::make_mut(&mut silent.objects.hosts[1])
        .status
        .as_mut()
        .unwrap()
        .last_report = None;
    silent.signals.observe(&silent.objects, at(0));
    let planned = plan(&silent, at(1));
    assert_eq!(made(&planned), Vec::<String>::new());
    assert!(planned.turns[0].status.unknown.contains_key("h2"));
    assert_eq!(waits(&planned)[0].1, Waits::Room);
    // An hour later nobody knows anything of anyone.
    assert!(plan(&hot(spec), at(3600)).turns[0].status.hot.is_empty());
}

#[test]
fn pressure_makes_a_host_hot_only_where_the_host_itself_is_busy() {
    let spec = auto(json!({"strategies": ["RelieveHotspots"], "hotspot": {"hold": "0s"}}));
    for (cpu, moves) in [(2600, 1), (400, 0)] {
        let mut busy = host("h1", cpu, 300);
        let usage = busy.status.as_mut().unwrap().usage.as_mut().unwrap();
        usage.cpu_pressure = Some(8000);
        let containers = vec![on("h1", "a", cpu / 2), on("h1", "b", cpu / 2)];
        let seen = seen(
            policy(spec.clone()),
            vec![busy, host("h2", 100, 300)],
            containers,
        );
        assert_eq!(made(&plan(&seen, at(0))).len(), moves, "{cpu}");
    }
}

#[test]
fn what_must_leave_its_host_leaves_it_the_taken_before_the_cordoned_whatever_the_hour() {
    let mut cordoned = host("h1", 100, 100);
    cordoned.spec.unschedulable = true;
    let mut taken = host("h2", 100, 100);
    taken
        .annotations_mut()
        .insert("skysail.dev/spot-notice".into(), at(100).to_string());
    taken.spec.unschedulable = true;
    let spec =
        auto(json!({"windows": [{"from": "03:00", "to": "04:00"}], "budgets": {"total": 1}}));
    let containers = vec![on("h1", "a", 10), on("h2", "b", 10)];
    let mut seen = seen(
        policy(spec),
        vec![cordoned, taken, host("h3", 100, 100)],
        containers,
    );
    let planned = plan(&seen, at(0));
    assert_eq!(made(&planned), ["b -> h3"]);
    assert_eq!(waits(&planned), [("acme/a".to_owned(), Waits::Budget)]);
    goes_on(&mut seen, &planned);
    // The budget counts what is under way.
    assert_eq!(made(&plan(&seen, at(1))), Vec::<String>::new());
    // By what is said, too, should the Migrations be gone.
    seen.objects.migrations.clear();
    let mut tight = (*seen.policies[0]).clone();
    tight.spec.budgets.per_hour = 1;
    seen.policies = vec![Arc::new(tight)];
    assert_eq!(made(&plan(&seen, at(1800))), Vec::<String>::new());
}

#[test]
fn a_container_whose_own_rules_do_not_hold_any_more_goes_where_they_do() {
    let near = json!({"affinity": {"required": [{"topology": "host", "selector": {"matchLabels": {"app": "db"}}}]}});
    let containers = vec![
        with("h1", "web", 10, json!({"app": "web"}), near),
        with("h2", "db", 10, json!({"app": "db"}), json!({})),
    ];
    let spec = auto(json!({"strategies": ["RestoreRules"]}));
    let seen = seen(
        policy(spec),
        vec![host("h1", 10, 100), host("h2", 10, 100)],
        containers,
    );
    let planned = plan(&seen, at(0));
    assert_eq!(made(&planned), ["web -> h2"]);
    let said = &planned.turns[0].status.decisions[0].proposal.reason;
    assert!(said.contains("placement.affinity.required[0]"), "{said}");
}

/// Two hosts of a pool, each with a Container, and what their machine costs.
fn pooled(spec: Value, price: &str, containers: Vec<Container>) -> Seen {
    let pool: HostPool = object(
        "HostPool",
        json!({"name": "pool", "uid": "pool"}),
        json!({"max": 4}),
        Value::Null,
    );
    let owner = json!([{"apiVersion": "skysail.dev/v1alpha1", "kind": "HostPool", "name": "pool", "uid": "pool", "controller": true}]);
    let of_pool = |name: &str| {
        let mut host = host(name, 100, 200);
        host.metadata.owner_references = serde_json::from_value(owner.clone()).unwrap();
        host.spec.machine_type = Some("m".into());
        host
    };
    let mut seen = seen(policy(spec), vec![of_pool("h1"), of_pool("h2")], containers);
    let machine = json!({"cloud": "east", "cpu": "4", "memory": "4Gi", "disk": "100Gi", "pricePerHour": price});
    seen.objects.machine_types = vec![Arc::new(object(
        "MachineType",
        json!({"name": "m"}),
        machine,
        Value::Null,
    ))];
    seen.pools = vec![Arc::new(pool)];
    seen
}

#[test]
fn a_host_of_a_pool_is_emptied_where_that_saves_more_than_it_costs() {
    let spec = |saving: Value| auto(json!({"strategies": ["Consolidate"], "saving": saving}));
    let both = || vec![on("h1", "a", 10), on("h2", "b", 10), on("h2", "c", 10)];
    let now = json!({"hold": "0s"});
    let planned = plan(&pooled(spec(now.clone()), "0.1", both()), at(0));
    assert_eq!(made(&planned), ["a -> h2"]);
    let said = &planned.turns[0].status.decisions[0].proposal;
    assert_eq!(said.saving_per_hour.as_deref(), Some("0.1"));
    assert!(
        said.cost.is_some() && said.bytes.0 > 0 && said.freeze.0 > 0,
        "{said:?}"
    );
    // A free machine saves nothing; one whose horizon is short does not pay for the move.
    assert_eq!(
        made(&plan(&pooled(spec(now.clone()), "0", both()), at(0))),
        Vec::<String>::new()
    );
    let short = json!({"hold": "0s", "horizon": "1s"});
    assert_eq!(
        made(&plan(&pooled(spec(short), "0.1", both()), at(0))),
        Vec::<String>::new()
    );
    // One that may not move holds its host, so the other goes.
    let pinned = with("h1", "a", 10, json!({}), json!({"host": "h1"}));
    let planned = plan(
        &pooled(spec(now.clone()), "0.1", vec![pinned, on("h2", "b", 10)]),
        at(0),
    );
    assert_eq!(made(&planned), ["b -> h1"]);
    // The pool keeps its minimum.
    let mut least = pooled(spec(now), "0.1", both());
    Arc::make_mut(&mut least.pools[0]).spec.min = 2;
    assert_eq!(made(&plan(&least, at(0))), Vec::<String>::new());
}

#[test]
fn what_could_be_emptied_must_stay_so_for_the_hold_time() {
    let spec = auto(json!({"strategies": ["Consolidate"]}));
    let mut seen = pooled(
        spec,
        "0.1",
        vec![on("h1", "a", 10), on("h2", "b", 10), on("h2", "c", 10)],
    );
    let first = plan(&seen, at(0));
    assert_eq!(
        (made(&first).len(), first.turns[0].status.spare.len()),
        (0, 1)
    );
    goes_on(&mut seen, &first);
    for host in &mut seen.objects.hosts {
        let status = Arc::make_mut(host).status.as_mut().unwrap();
        status.last_report = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(
            300,
        )));
    }
    seen.signals.observe(&seen.objects, at(300));
    assert_eq!(made(&plan(&seen, at(300))), ["a -> h2"]);
}

#[test]
fn the_same_goes_to_a_host_that_costs_less() {
    let spec = auto(json!({"strategies": ["FollowPrice"], "saving": {"hold": "0s"}}));
    let mut seen = pooled(spec, "0.1", vec![on("h1", "a", 10)]);
    let cheap = json!({"cloud": "east", "cpu": "4", "memory": "4Gi", "disk": "100Gi", "pricePerHour": "0.04"});
    seen.objects.machine_types.push(Arc::new(object(
        "MachineType",
        json!({"name": "cheap"}),
        cheap,
        Value::Null,
    )));
    // The other is empty and costs the same.
    assert_eq!(made(&plan(&seen, at(0))), Vec::<String>::new());
    Arc::make_mut(&mut seen.objects.hosts[1]).spec.machine_type = Some("cheap".into());
    let planned = plan(&seen, at(0));
    assert_eq!(made(&planned), ["a -> h2"]);
    let said = &planned.turns[0].status.decisions[0].proposal;
    assert_eq!(said.saving_per_hour.as_deref(), Some("0.06"));
}

#[test]
fn a_container_that_was_just_moved_stays_and_a_move_that_was_given_up_is_not_tried_again() {
    let spec = auto(json!({"strategies": ["RelieveHotspots"], "hotspot": {"hold": "0s"}}));
    let mut lately = hot(spec.clone());
    for container in &mut lately.objects.containers {
        let status = Arc::make_mut(container).status.as_mut().unwrap();
        status.last_migration = serde_json::from_value(json!({"name": "m", "uid": "m", "from": "h9", "to": "h1", "moved": true, "at": at(-60)})).unwrap();
    }
    assert_eq!(
        waits(&plan(&lately, at(0))),
        [("acme/b".to_owned(), Waits::Cooldown)]
    );
    let mut failed = hot(spec);
    let planned = plan(&failed, at(0));
    goes_on(&mut failed, &planned);
    let status = json!({"phase": "Failed", "conditions": [{"type": "Succeeded", "status": "False", "reason": "NoPath", "message": "no way", "lastTransitionTime": at(1)}]});
    Arc::make_mut(&mut failed.objects.migrations[0]).status =
        serde_json::from_value(status).unwrap();
    let again = plan(&failed, at(2));
    assert_eq!(waits(&again), [("acme/b".to_owned(), Waits::Failed)]);
    assert!(
        again.turns[0].status.proposals[0]
            .message
            .contains("no way")
    );
}

#[test]
fn before_a_move_begins_it_is_looked_whether_it_still_can() {
    let seen = hot(auto(
        json!({"strategies": ["RelieveHotspots"], "hotspot": {"hold": "0s"}}),
    ));
    let planned = plan(&seen, at(0));
    let (container, migration) = &planned.turns[0].make[0];
    let good = |objects: &Objects| still_good(objects, container, migration, at(1));
    assert_eq!(good(&seen.objects), Ok(()));
    let mut moved = seen.objects.clone();
    for other in &mut moved.containers {
        Arc::make_mut(other).status.as_mut().unwrap().epoch = 2;
    }
    assert!(good(&moved).unwrap_err().contains("no longer where it was"));
    let mut full = seen.objects.clone();
    full.containers
        .extend((0..4).map(|i| Arc::new(on("h2", &format!("x{i}"), 1))));
    assert!(good(&full).is_err());
    let mut busy = seen.objects.clone();
    busy.migrations.push(Arc::new(migration.clone()));
    assert!(good(&busy).unwrap_err().contains("already"));
}

#[test]
fn two_policies_do_not_move_the_same_container_and_two_rebalancers_name_a_move_alike() {
    let spec = auto(json!({"strategies": ["RelieveHotspots"], "hotspot": {"hold": "0s"}}));
    let mut seen = hot(spec.clone());
    let mut other = policy(spec);
    other.metadata.name = Some("q".into());
    seen.policies.push(Arc::new(other));
    let both = made(&plan(&seen, at(0)));
    assert_eq!(both[0], "b -> h2");
    assert!(!both[1..].iter().any(|m| m.starts_with("b ")), "{both:?}");
    let name = |p: Plan| p.turns[0].make[0].1.name_any();
    assert_eq!(name(plan(&seen, at(0))), name(plan(&seen, at(1))));
    let later = at(0).checked_add(SignedDuration::from_millis(1)).unwrap();
    assert_eq!(name(plan(&seen, later)), name(plan(&seen, at(0))));
}
