//! Every rule keeps a host away with its own reason, and every reason has a way out.

use super::*;
use crate::placement::elsewhere::elsewhere;
use skysail_schemas::Container;
use skysail_schemas::migration::MigrationTarget;

fn one(rules: Value) -> Vec<Container> {
    vec![container("x", json!({"app": "web"}), rules)]
}

#[test]
fn a_refusal_says_how_many_hosts_lack_what_and_the_least_that_would_help() {
    let hosts = vec![
        host("a", 4000, 64),
        host("b", 4000, 32),
        host_with("c", 4000, 4096, json!({"spec": {"unschedulable": true}})),
        host_with(
            "d",
            4000,
            4096,
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "AgentLost", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
        ),
    ];
    assert_eq!(
        answer(&objects(hosts, one(json!({}))), "x").unwrap_err(),
        "NoHostFits: 4 hosts: 2 too small in memory by at least 128Mi, 1 cordoned, 1 not ready (AgentLost); the least change that would do: uncordon c"
    );
}

#[test]
fn the_one_who_keeps_a_container_away_is_named() {
    let rule = json!({"antiAffinity": {"required": [{"topology": "host", "selector": {"matchLabels": {"app": "db"}}}]}});
    let db = bound(container("db-0", json!({"app": "db"}), json!({})), "a");
    let mut all = one(rule);
    all.push(db.clone());
    let hosts = vec![host("a", 4000, 4096)];
    assert_eq!(
        answer(&objects(hosts.clone(), all), "x").unwrap_err(),
        "NoHostFits: 1 host: 1 excluded by anti-affinity with acme/db-0; the least change that would do: let acme/db-0 leave a"
    );
    // The rule of the one that is there keeps the other away as well.
    let selector = json!({"matchLabels": {"app": "web"}});
    let rule = json!({"antiAffinity": {"required": [{"topology": "cloud", "selector": selector}]}});
    let mut all = one(json!({}));
    all.push(bound(container("db-0", json!({"app": "db"}), rule), "a"));
    let west = host_with("b", 4000, 4096, json!({"spec": {"cloud": "west"}}));
    let hosts = vec![host("a", 4000, 4096), host("a2", 4000, 4096), west];
    assert_eq!(answer(&objects(hosts, all.clone()), "x").unwrap(), "b");
    let hosts = vec![host("a", 4000, 4096), host("a2", 4000, 4096)];
    let why = answer(&objects(hosts, all), "x").unwrap_err();
    assert!(
        why.contains("2 excluded by anti-affinity with acme/db-0"),
        "{why}"
    );
}

#[test]
fn another_tenant_s_containers_are_no_reason() {
    let rule = json!({"antiAffinity": {"required": [{"topology": "host", "selector": {}}]}});
    let mut foreign = bound(container("db-0", json!({}), json!({})), "a");
    foreign.metadata.namespace = Some("globex".into());
    let mut all = one(rule);
    all.push(foreign);
    assert_eq!(
        answer(&objects(vec![host("a", 4000, 4096)], all), "x").unwrap(),
        "a"
    );
}

#[test]
fn fixed_rules_choose_cloud_region_zone_labels_kernel_and_price() {
    let on = |cloud: &str, rest: Value| {
        let mut all = json!({"spec": {"cloud": cloud}});
        json_patch(&mut all, rest);
        host_with(&format!("{cloud}-h"), 4000, 4096, all)
    };
    let hosts = vec![
        on(
            "east",
            json!({"status": {"kernel": "5.10.0-1-amd64"}, "spec": {"machineType": "big"}}),
        ),
        on(
            "east-2",
            json!({"metadata": {"labels": {"disk": "ssd"}}, "status": {"kernel": "6.12.1"}, "spec": {"machineType": "unpriced"}}),
        ),
        on(
            "west",
            json!({"status": {"kernel": "6.1.0"}, "spec": {"machineType": "little"}}),
        ),
    ];
    let mut all = objects(hosts, vec![]);
    for (name, price) in [
        ("big", json!("0.2")),
        ("little", json!("0.05")),
        ("unpriced", json!(null)),
    ] {
        let spec = json!({"cloud": "east", "cpu": 1, "memory": "1Gi", "disk": "1Gi", "pricePerHour": price});
        all.machine_types
            .push(Arc::new(object("MachineType", name, json!({"spec": spec}))));
    }
    for (rules, expected) in [
        (json!({"clouds": ["west"]}), Ok("west-h")),
        (json!({"regions": ["r2"]}), Ok("west-h")),
        (json!({"zones": ["z2"]}), Ok("east-2-h")),
        (json!({"hostSelector": {"disk": "ssd"}}), Ok("east-2-h")),
        (
            json!({"hostSelector": {"skysail.dev/zone": "z3"}}),
            Ok("west-h"),
        ),
        (
            json!({"minKernel": "6.1", "regions": ["r1"]}),
            Ok("east-2-h"),
        ),
        (json!({"maxPricePerHour": "0.05"}), Ok("west-h")),
        (
            json!({"maxPricePerHour": "0.2", "regions": ["r1"]}),
            Ok("east-h"),
        ),
        (
            json!({"clouds": ["north"]}),
            Err("3 in another cloud than spec.placement.clouds"),
        ),
        (
            json!({"minKernel": "7"}),
            Err("3 with a kernel older than 7"),
        ),
        (
            json!({"maxPricePerHour": "0"}),
            Err("3 dearer than 0 per hour or of unknown price"),
        ),
        (
            json!({"host": "east-h", "zones": ["z2"]}),
            Err("2 not the one in spec.placement.host, 1 in another zone"),
        ),
        (
            json!({"host": "b"}),
            Err("spec.placement.host: there is no Host \"b\""),
        ),
    ] {
        all.containers = one(rules.clone()).into_iter().map(Arc::new).collect();
        match (answer(&all, "x"), expected) {
            (Ok(host), Ok(wanted)) => assert_eq!(host, wanted, "{rules}"),
            (Err(why), Err(part)) => assert!(why.contains(part), "{rules}: {why}"),
            other => panic!("{rules}: {other:?}"),
        }
    }
    let nowhere = answer(&objects(vec![], one(json!({}))), "x").unwrap_err();
    assert!(nowhere.contains("there are no hosts"), "{nowhere}");
}

#[test]
fn a_taint_keeps_away_who_does_not_tolerate_it() {
    let tainted = host_with(
        "a",
        4000,
        4096,
        json!({"spec": {"taints": [{"key": "gpu"}]}}),
    );
    let with = |rules| answer(&objects(vec![tainted.clone()], one(rules)), "x");
    assert!(with(json!({})).unwrap_err().starts_with("NoHostFits: 1 host: 1 tainted gpu; the least change that would do: tolerate the taint gpu of a"));
    assert!(with(json!({"tolerations": [{"key": "gpu"}]})).is_ok());
    assert!(with(json!({"tolerations": [{"key": "gpu", "value": "a100"}]})).is_err());
}

#[test]
fn affinity_puts_near_and_the_first_of_its_own_kind_anywhere() {
    let near = |app: &str, topology: &str| json!({"affinity": {"required": [{"topology": topology, "selector": {"matchLabels": {"app": app}}}]}});
    let hosts = || vec![host("a", 4000, 4096), host("b", 8000, 8192)];
    let mut all = one(near("db", "host"));
    let why = answer(&objects(hosts(), all.clone()), "x").unwrap_err();
    assert!(
        why.contains("2 not near what spec.placement.affinity.required[0] selects"),
        "{why}"
    );
    // What it wants to be near may come in the same batch, after it.
    all.push(container("z", json!({"app": "db"}), json!({"host": "a"})));
    assert_eq!(answer(&objects(hosts(), all), "x").unwrap(), "a");
    let together: Vec<_> = (0..4)
        .map(|i| container(&format!("c{i}"), json!({"app": "web"}), near("web", "host")))
        .collect();
    let planned = planned(&objects(hosts(), together));
    let mut on: Vec<_> = planned.bind.iter().map(|s| s.status.host.clone()).collect();
    assert_eq!(on.len(), 4);
    on.dedup();
    assert_eq!(on.len(), 1);
}

#[test]
fn a_preference_decides_before_load_and_never_refuses() {
    let like = |weight: u32| json!({"affinity": {"preferred": [{"topology": "host", "selector": {"matchLabels": {"app": "db"}}, "weight": weight}]}});
    let db = bound(container("db", json!({"app": "db"}), json!({})), "busy");
    let hosts = || vec![host("busy", 1000, 1024), host("idle", 8000, 8192)];
    let with = |rules| {
        answer(
            &objects(hosts(), vec![container("x", json!({}), rules), db.clone()]),
            "x",
        )
        .unwrap()
    };
    assert_eq!(
        (with(like(1)), with(json!({}))),
        ("busy".into(), "idle".into())
    );
    let both = json!({"affinity": like(1)["affinity"], "antiAffinity": {"preferred": [{"topology": "host", "selector": {"matchLabels": {"app": "db"}}, "weight": 2}]}});
    assert_eq!(with(both), "idle");
}

#[test]
fn workloads_of_one_profile_are_kept_apart_before_load_counts() {
    let busy = |i: usize| {
        bound(
            sized(&format!("n{i}"), "network", json!({}), json!({})),
            "busy",
        )
    };
    let mut there: Vec<_> = (0..10).map(busy).collect();
    there.push(bound(sized("rival", "cpu", json!({}), json!({})), "rival"));
    let hosts = || vec![host("busy", 8000, 8192), host("rival", 8000, 8192)];
    let chosen = |size: &str| {
        let mut all = there.clone();
        all.push(sized("x", size, json!({}), json!({})));
        answer(&objects(hosts(), all), "x").unwrap()
    };
    assert_eq!(
        (chosen("cpu").as_str(), chosen("small").as_str()),
        ("busy", "rival")
    );
}

#[test]
fn pack_fills_the_fullest_and_price_decides_between_equals() {
    let there = bound(container("y", json!({}), json!({})), "b");
    let hosts = || vec![host("a", 4000, 4096), host("b", 4000, 4096)];
    let with = |rules| {
        answer(
            &objects(
                hosts(),
                vec![container("x", json!({}), rules), there.clone()],
            ),
            "x",
        )
        .unwrap()
    };
    assert_eq!(
        (with(json!({"strategy": "pack"})), with(json!({}))),
        ("b".into(), "a".into())
    );
    let bought = |name: &str, kind: &str| {
        host_with(name, 4000, 4096, json!({"spec": {"machineType": kind}}))
    };
    let mut all = objects(
        vec![bought("a", "dear"), bought("b", "cheap")],
        one(json!({})),
    );
    for (name, price) in [("dear", "0.2"), ("cheap", "0.1")] {
        let spec = json!({"cloud": "east", "cpu": 1, "memory": "1Gi", "disk": "1Gi", "pricePerHour": price});
        all.machine_types
            .push(Arc::new(object("MachineType", name, json!({"spec": spec}))));
    }
    assert_eq!(answer(&all, "x").unwrap(), "b");
}

#[test]
fn a_tenant_stays_within_its_quota_and_a_quota_that_cannot_be_read_lets_nothing_in() {
    let with = |annotations: Value| {
        let mut all = objects(
            vec![host("a", 8000, 8192)],
            (0..3)
                .map(|i| container(&format!("c{i}"), json!({}), json!({})))
                .collect(),
        );
        let namespace = json!({"metadata": {"name": "acme", "annotations": annotations}});
        all.namespaces = vec![Arc::new(serde_json::from_value(namespace).unwrap())];
        let planned = planned(&all);
        let why = planned
            .explain
            .first()
            .map(|s| s.status.conditions[0].message.clone());
        (planned.bind.len(), why.unwrap_or_default())
    };
    assert_eq!(with(json!({})).0, 3);
    assert_eq!(with(json!({"quota.skysail.dev/cpu": "500m"})), (2, "Namespace acme: quota.skysail.dev/cpu is 500m; 500m are taken and 250m more are asked for".into()));
    assert_eq!(with(json!({"quota.skysail.dev/containers": "1"})).0, 1);
    assert_eq!(with(json!({"quota.skysail.dev/memory": "400Mi"})).0, 2);
    let (bound, why) = with(json!({"quota.skysail.dev/memory": "much"}));
    assert!(
        bound == 0
            && why.contains("annotation quota.skysail.dev/memory: \"much\" is not a quantity"),
        "{why}"
    );
}

#[test]
fn privilege_needs_the_namespace_to_allow_it() {
    let mut c = container("x", json!({}), json!({}));
    c.spec.privileged = true;
    let mut all = objects(vec![host("a", 4000, 4096)], vec![c]);
    assert!(
        answer(&all, "x")
            .unwrap_err()
            .starts_with("PrivilegedNotAllowed: ")
    );
    let namespace =
        json!({"metadata": {"name": "acme", "labels": {"skysail.dev/privileged": "allowed"}}});
    all.namespaces = vec![Arc::new(serde_json::from_value(namespace).unwrap())];
    assert!(answer(&all, "x").is_ok());
}

#[test]
fn a_moving_container_goes_elsewhere_by_the_same_rules_and_its_target_is_held_for_it() {
    let apart = json!({"antiAffinity": {"required": [{"topology": "host", "selector": {"matchLabels": {"app": "web"}}}]}});
    let web = |i: usize, on: &str| {
        bound(
            container(&format!("w{i}"), json!({"app": "web"}), apart.clone()),
            on,
        )
    };
    let hosts = vec![
        host("a", 4000, 4096),
        host("b", 4000, 4096),
        host("c", 300, 200),
    ];
    let mut all = objects(hosts, vec![web(0, "a"), web(1, "b")]);
    let moving = all.containers[0].clone();
    let chosen = |all: &Objects, host: Option<&str>, cloud: Option<&str>| {
        let target = MigrationTarget {
            host: host.map(str::to_owned),
            cloud: cloud.map(str::to_owned),
        };
        elsewhere(&snapshot(all.clone()), &moving, &target).map(|e| e.host)
    };
    // Not where it is, although that is the emptiest without it; not b, where its rival is.
    assert_eq!(chosen(&all, None, None).unwrap(), "c");
    let why = chosen(&all, Some("b"), None).unwrap_err();
    assert!(
        why.message
            .starts_with("1 host: 1 excluded by anti-affinity with acme/w1"),
        "{why:?}"
    );
    assert_eq!(
        chosen(&all, None, Some("west")).unwrap_err().reason,
        "NoHostFits"
    );
    // While it moves to c, nothing else gets that room, and who keeps away from it keeps away from there too.
    let moves = json!({"spec": {"container": "w0"}, "status": {"phase": "Copying", "target": "c"}});
    all.migrations = vec![Arc::new(object("Migration", "m", moves))];
    let x = container("x", json!({}), json!({"host": "c"}));
    all.containers.push(Arc::new(x));
    let w2 = container("w2", json!({"app": "web"}), apart);
    all.containers.push(Arc::new(w2));
    let why = answer(&all, "x").unwrap_err();
    assert!(why.contains("1 too small in"), "{why}");
    let why = answer(&all, "w2").unwrap_err();
    assert!(
        why.contains("3 excluded by anti-affinity with acme/w"),
        "{why}"
    );
}
