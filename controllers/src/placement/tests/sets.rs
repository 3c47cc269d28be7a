//! Containers that are placed with regard to each other: spread, all or none.

use super::*;
use std::collections::BTreeMap;

#[test]
fn spread_containers_stand_evenly_over_hosts_zones_and_regions() {
    for (topology, expected) in [
        ("host", vec![2, 2, 2, 2]),
        ("zone", vec![2, 3, 3]),
        ("region", vec![4, 4]),
    ] {
        let rules = json!({"spread": [{"topology": topology, "selector": {"matchLabels": {"app": "web"}}}]});
        let containers: Vec<_> = (0..8)
            .map(|i| container(&format!("c{i}"), json!({"app": "web"}), rules.clone()))
            .collect();
        let clouds = ["east", "east", "east-2", "west"];
        let hosts: Vec<_> = (0..4u64)
            .map(|i| {
                host_with(
                    &format!("h{i}"),
                    4000 + i * 2000,
                    8192,
                    json!({"spec": {"cloud": clouds[i as usize]}}),
                )
            })
            .collect();
        let place = |host: &str| -> String {
            let number: usize = host[1..].parse().unwrap();
            match topology {
                "host" => host.to_owned(),
                "zone" => clouds[number].to_owned(),
                _ => clouds[number][..4].to_owned(),
            }
        };
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for step in planned(&objects(hosts, containers)).bind {
            *counts.entry(place(&step.status.host.unwrap())).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_values().collect();
        counts.sort_unstable();
        assert_eq!(counts, expected, "{topology}");
    }
}

#[test]
fn a_domain_whose_only_host_is_still_coming_up_is_waited_for() {
    let rules =
        json!({"spread": [{"topology": "host", "selector": {"matchLabels": {"app": "web"}}}]});
    let there = bound(container("c0", json!({"app": "web"}), json!({})), "a");
    let next = container("c1", json!({"app": "web"}), rules);
    let coming = host_with(
        "b",
        4000,
        4096,
        json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"}, "status": {"phase": "Bootstrapping", "conditions": []}}),
    );
    let why = answer(
        &objects(vec![host("a", 4000, 4096), coming], vec![there, next]),
        "c1",
    )
    .unwrap_err();
    assert!(
        why.contains("1 more than maxSkew 1 ahead of the emptiest, which is still coming up: b"),
        "{why}"
    );
}

fn set(replicas: u32) -> skysail_schemas::ContainerSet {
    let template = json!({"spec": {"image": "debian", "instanceType": "small"}});
    object(
        "ContainerSet",
        "web",
        json!({"spec": {"replicas": replicas, "allOrNone": true, "template": template}}),
    )
}

fn members(count: usize) -> Vec<Container> {
    let owner = json!([{"apiVersion": "skysail.dev/v1alpha1", "kind": "ContainerSet", "name": "web", "uid": "ContainerSet-web", "controller": true}]);
    let one = |i: usize| {
        let mut made = container(&format!("web-{i}"), json!({}), json!({}));
        made.metadata.owner_references = Some(serde_json::from_value(owner.clone()).unwrap());
        made
    };
    (0..count).map(one).collect()
}

#[test]
fn a_set_is_placed_as_a_whole_or_not_at_all() {
    // Room for three of small: 250m, 192Mi.
    let hosts = || vec![host("a", 500, 4096), host("b", 250, 4096)];
    let with = |replicas: u32, exist: usize| {
        let mut all = objects(hosts(), members(exist));
        all.containers
            .push(Arc::new(container("z", json!({}), json!({}))));
        all.container_sets = vec![Arc::new(set(replicas))];
        let planned = planned(&all);
        let why = planned
            .explain
            .first()
            .map(|s| s.status.conditions[0].message.clone());
        (planned.bind.len(), why.unwrap_or_default())
    };
    assert_eq!(with(3, 3).0, 3);
    // One too many: none of the set, and the other Container gets the room.
    let (bound, why) = with(4, 4);
    assert_eq!(bound, 1);
    assert!(why.starts_with("ContainerSet acme/web is placed as a whole; 2 of 4 that wait find no room: acme/web-2: 2 hosts: 2 too small in cpu by at least"), "{why}");
    // The set controller has not made all of them yet.
    let (bound, why) = with(3, 2);
    assert_eq!(
        (bound, why.as_str()),
        (
            1,
            "ContainerSet acme/web is placed as a whole; 2 of 3 exist"
        )
    );
}

#[test]
fn one_that_was_lost_from_a_whole_set_comes_back_alone() {
    let mut all = objects(vec![host("a", 4000, 4096)], members(3));
    for member in &mut all.containers[1..] {
        *member = Arc::new(bound((**member).clone(), "a"));
    }
    all.container_sets = vec![Arc::new(set(3))];
    assert_eq!(answer(&all, "web-0").unwrap(), "a");
}
