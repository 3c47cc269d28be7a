//! Laws on random fleets: with the planners that run in the server, on a clock that does not wait.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use skysail_simulator::{Run, Scenario, simulate};

/// A fleet of any kind, for a few hours.
fn fleet() -> impl Strategy<Value = Value> {
    let workload = (
        0usize..3,
        1u32..6,
        5u64..60,
        0u32..100,
        0u32..100,
        any::<bool>(),
        0usize..4,
    );
    let event = (0u64..180, 0usize..6, 0usize..4);
    (
        proptest::collection::vec(workload, 1..5),
        proptest::collection::vec(event, 0..5),
        (1u32..4, 1u32..3, 1u32..4, 1u32..12),
        0u32..4,
        any::<u64>(),
    )
        .prop_map(|(workloads, events, budgets, hosts, seed)| {
            let workloads: Vec<Value> = workloads.into_iter().enumerate().map(workload_of).collect();
            let events: Vec<Value> = events.into_iter().map(event_of).collect();
            let (total, per_host, per_tenant, per_hour) = budgets;
            json!({
                "name": "fleet", "duration": "3h", "step": "30s", "seed": seed,
                "clouds": [
                    {"name": "east", "machineTypes": [{"name": "s", "cpu": "2", "memory": "4Gi", "price": "0.04"}, {"name": "l", "cpu": "4", "memory": "8Gi", "price": "0.07"}]},
                    {"name": "west", "quota": 3, "machineTypes": [{"name": "s", "cpu": "2", "memory": "4Gi", "price": "0.05"}]}
                ],
                "hosts": [{"name": "own", "count": hosts, "cloud": "east", "machineType": "s"}],
                "pools": [{"name": "pool", "spec": {"max": 8, "returnAfter": "5m"}}],
                "policies": [{"name": "auto", "spec": {"mode": "Automatic", "cooldown": "3m", "saving": {"hold": "1m"}, "budgets": {"total": total, "perHost": per_host, "perTenant": per_tenant, "perHour": per_hour}}}],
                "instanceTypes": [
                    {"name": "a", "spec": {"cpu": "250m", "memory": "256Mi"}},
                    {"name": "b", "spec": {"cpu": "1", "memory": "1Gi", "profile": "cpu"}},
                    {"name": "c", "spec": {"cpu": "500m", "memory": "2Gi", "profile": "memory"}}
                ],
                "workloads": workloads, "events": events,
            })
        })
}

/// Size, count, minutes between two, least and most use, whether they leave, which rule.
type Wish = (usize, u32, u64, u32, u32, bool, usize);

fn workload_of((i, w): (usize, Wish)) -> Value {
    let (size, count, every, base, peak, leaves, rule) = w;
    let term =
        json!([{"topology": "host", "selector": {"matchLabels": {"app": format!("w{}", i / 2)}}}]);
    let placement = match rule {
        0 => json!({"antiAffinity": {"required": term}}),
        1 => json!({"affinity": {"required": term}}),
        2 => {
            json!({"spread": [{"topology": "host", "maxSkew": 1, "selector": {"matchLabels": {"app": format!("w{i}")}}}]})
        }
        _ => json!({"strategy": "pack"}),
    };
    let name = ["a", "b", "c"][size];
    let mut workload = json!({
        "name": format!("w{i}"), "namespace": format!("t{}", i % 2), "instanceType": name, "count": count,
        "labels": {"app": format!("w{i}")}, "placement": placement,
        "cpu": {"base": base, "peak": peak, "period": "40m", "scattered": true, "noise": 5}, "memory": {"base": peak},
    });
    if leaves {
        workload["every"] = json!(format!("{every}m"));
        workload["lifetime"] = json!("50m");
        workload["until"] = json!("3h");
    }
    workload
}

fn event_of((at, what, host): (u64, usize, usize)) -> Value {
    let host = ["own-0", "pool-0", "pool-1", "own-1"][host];
    let at = format!("{at}m");
    match what {
        0 => json!({"at": at, "cordon": host}),
        1 => json!({"at": at, "uncordon": host}),
        2 => json!({"at": at, "fail": host}),
        3 => json!({"at": at, "silence": host}),
        4 => json!({"at": at, "exhaust": {"machineType": "east-s", "for": "30m"}}),
        _ => json!({"at": at, "price": {"machineType": "east-l", "to": "0.03"}}),
    }
}

fn run(scenario: Value) -> Run {
    simulate(Scenario::parse(&scenario.to_string()).expect("a scenario"))
}

/// The fleet with another mode, and without what changes by itself.
fn calm(mut scenario: Value, mode: &str) -> Value {
    scenario["policies"][0]["spec"]["mode"] = json!(mode);
    scenario["events"] = json!([]);
    for workload in scenario["workloads"].as_array_mut().expect("a list") {
        let workload = workload.as_object_mut().expect("an object");
        for gone in ["every", "lifetime", "until"] {
            workload.remove(gone);
        }
        let base = workload["cpu"]["base"].clone();
        workload.insert("cpu".into(), json!({"base": base}));
    }
    scenario
}

/// A few fleets, always the same: each is hours of work for a clock that does not wait. `LAWS_CASES` asks for more, and
/// for others.
fn config() -> ProptestConfig {
    let wanted = std::env::var("LAWS_CASES").ok();
    match wanted.and_then(|n| n.parse().ok()) {
        Some(cases) => ProptestConfig::with_cases(cases),
        None => ProptestConfig {
            cases: 4,
            rng_seed: RngSeed::Fixed(4),
            ..ProptestConfig::default()
        },
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_host_is_ever_over_capacity_no_budget_is_exceeded_and_a_run_is_the_same_twice(scenario in fleet()) {
        let first = run(scenario.clone());
        prop_assert_eq!(&first.account().broken, &Vec::<String>::new());
        prop_assert_eq!(first.text(), run(scenario).text());
    }

    #[test]
    fn a_policy_that_only_reports_changes_nothing(scenario in fleet()) {
        let mut without = scenario.clone();
        without["policies"] = json!([]);
        let mut report = scenario;
        report["policies"][0]["spec"]["mode"] = json!("Report");
        let (report, without) = (run(report), run(without));
        prop_assert_eq!(report.log(), without.log());
        prop_assert_eq!(report.account(), without.account());
    }

    #[test]
    fn under_constant_load_a_day_has_no_move_after_it_has_settled(scenario in fleet()) {
        let mut scenario = calm(scenario, "Automatic");
        scenario["duration"] = json!("24h");
        scenario["step"] = json!("2m");
        let done = run(scenario);
        prop_assert_eq!(&done.account().broken, &Vec::<String>::new());
        // Few moves an hour are allowed: the longest queue is worked off after a third of the day.
        let late: Vec<_> = done.account().moved.iter().filter(|at| **at > 8 * 3_600_000).collect();
        prop_assert!(late.is_empty(), "{}", done.text());
    }

    #[test]
    fn a_machine_that_was_bought_is_used_or_given_back(scenario in fleet()) {
        let mut scenario = calm(scenario, "Automatic");
        scenario["duration"] = json!("6h");
        scenario["step"] = json!("1m");
        let done = run(scenario);
        let json = done.json();
        let empty = json["pools"][0]["status"]["empty"].as_object().cloned().unwrap_or_default();
        prop_assert!(empty.is_empty(), "{}", done.text());
    }
}
