//! How fast Hosts are chosen: `cargo run --release -p skysail-controllers --example bench_placement`.
//!
//! Per number of hosts, one JSON line: placements per second of whole turns (snapshot, requests, choices, statuses)
//! in time that the one thread worked, and how long single decisions took. Every host carries eight containers
//! already; what waits has affinity, anti-affinity, spread over zones, price limits and profiles, in four hundred
//! different wishes.

use jiff::Timestamp;
use serde_json::{Value, json};
use skysail_controllers::placement::board::Board;
use skysail_controllers::placement::plan::plan;
use skysail_controllers::placement::snapshot::{Objects, Snapshot};
use std::sync::Arc;
use std::time::Instant;

const TENANTS: usize = 50;
const SHAPES: usize = 8;
const RESIDENTS: usize = 8;

/// Seconds that this thread has worked: what the machine does besides is not counted.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos: Option<f64> = stat.split(' ').next().and_then(|n| n.parse().ok());
    nanos.unwrap_or(f64::NAN) / 1e9
}

fn main() {
    let waiting: usize = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(10_000);
    for hosts in [100, 1_000, 5_000] {
        println!("{}", measure(hosts, waiting.min(hosts * 8)));
    }
}

fn measure(hosts: usize, waiting: usize) -> Value {
    let objects = fleet(hosts, waiting);
    let now = Timestamp::now();
    // Whole turns, the best of three.
    let mut turns = vec![];
    let mut placed = 0;
    let mut build = f64::MAX;
    for _ in 0..3 {
        let objects = objects.clone();
        let begin = busy();
        let snapshot = Snapshot::new(objects, now);
        build = build.min(busy() - begin);
        placed = plan(&snapshot, now).bind.len();
        turns.push(busy() - begin);
    }
    let turn = turns.into_iter().fold(f64::MAX, f64::min);
    let snapshot = Snapshot::new(objects, now);
    let mut board = Board::new(&snapshot);
    let mut decisions: Vec<f64> = vec![];
    for container in &snapshot.waiting {
        let begin = Instant::now();
        if let Ok(request) = board.request(container) {
            let _ = std::hint::black_box(board.place(&request));
        }
        decisions.push(begin.elapsed().as_secs_f64());
    }
    decisions.sort_by(f64::total_cmp);
    let at = |q: f64| decisions[((decisions.len() - 1) as f64 * q) as usize] * 1e3;
    json!({
        "hosts": hosts, "residents": hosts * RESIDENTS, "waiting": waiting, "placed": placed,
        "placementsPerSecond": (placed as f64 / turn).round(),
        "snapshotMs": build * 1e3, "turnMs": turn * 1e3,
        "decisionMsP50": at(0.5), "decisionMsP99": at(0.99), "decisionMsMax": at(1.0),
    })
}

fn object<T: serde::de::DeserializeOwned>(
    kind: &str,
    namespace: &str,
    name: &str,
    rest: Value,
) -> Arc<T> {
    let mut all = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": kind, "spec": {}, "metadata": {"name": name, "namespace": namespace, "uid": name}});
    if let (Some(all), Value::Object(rest)) = (all.as_object_mut(), rest) {
        let labels = rest.get("labels").cloned();
        all.extend(rest.into_iter().filter(|(k, _)| k != "labels"));
        if let Some(labels) = labels {
            all["metadata"]["labels"] = labels;
        }
    }
    match serde_json::from_value(all) {
        Ok(object) => Arc::new(object),
        Err(e) => panic!("{kind} {name}: {e}"),
    }
}

fn ready() -> Value {
    json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

fn fleet(hosts: usize, waiting: usize) -> Objects {
    let mut objects = Objects::default();
    for i in 0..6 {
        let spec = json!({"driver": "sandbox", "sandbox": {"subnet": "10.1.0.0/16"}, "region": format!("r{}", i / 2), "zone": format!("z{i}")});
        objects
            .clouds
            .push(object("Cloud", "", &format!("c{i}"), json!({"spec": spec})));
    }
    for i in 0..5usize {
        let spec = json!({"cloud": "c0", "cpu": 4 << (i % 3), "memory": "16Gi", "disk": "100Gi", "pricePerHour": format!("{}", 0.05 * (i + 1) as f64)});
        objects.machine_types.push(object(
            "MachineType",
            "",
            &format!("m{i}"),
            json!({"spec": spec}),
        ));
    }
    for i in 0..hosts {
        let cores = 8 << (i % 3);
        let status = json!({"phase": "Running", "conditions": ready(), "kernel": "6.12.0", "images": ["sha256:0"],
            "allocatable": {"cpu": cores, "memory": format!("{}Gi", cores * 4), "disk": "500Gi"}});
        let spec = json!({"cloud": format!("c{}", i % 6), "machineType": format!("m{}", i % 5)});
        let labels = json!({"disk": if i % 4 == 0 { "ssd" } else { "hdd" }});
        objects.hosts.push(object(
            "Host",
            "",
            &format!("h{i:05}"),
            json!({"spec": spec, "status": status, "labels": labels}),
        ));
    }
    let image = json!({"status": {"digest": "sha256:0", "conditions": ready()}});
    objects.images.push(object("Image", "", "debian", image));
    for tenant in 0..TENANTS {
        for (name, cpu, memory, profile) in [
            ("s", 100, 128, json!(null)),
            ("m", 250, 512, json!("cpu")),
            ("l", 1000, 2048, json!("memory")),
        ] {
            let spec = json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi"), "profile": profile});
            objects.instance_types.push(object(
                "InstanceType",
                &format!("t{tenant}"),
                name,
                json!({"spec": spec}),
            ));
        }
    }
    for i in 0..hosts * RESIDENTS {
        let status = json!({"host": format!("h{:05}", i % hosts), "epoch": 1, "allocation": {"cpu": "100m", "memory": "128Mi", "disk": "1Gi"}});
        objects
            .containers
            .push(container(&format!("r{i}"), i, Some(status)));
    }
    for i in 0..waiting {
        objects
            .containers
            .push(container(&format!("w{i}"), i, None));
    }
    objects
}

fn container(name: &str, i: usize, status: Option<Value>) -> Arc<skysail_schemas::Container> {
    let (shape, size) = (i / TENANTS % SHAPES, ["s", "m", "l"][i % 3]);
    let picks = |app: usize| json!({"matchLabels": {"app": format!("a{app}")}});
    let rules = match shape {
        0 => json!({}),
        1 => json!({"spread": [{"topology": "zone", "selector": picks(1)}]}),
        2 => json!({"antiAffinity": {"required": [{"topology": "host", "selector": picks(2)}]}}),
        3 => {
            json!({"affinity": {"preferred": [{"topology": "zone", "selector": picks(2), "weight": 50}]}, "maxPricePerHour": "0.2"})
        }
        4 => {
            json!({"affinity": {"required": [{"topology": "cloud", "selector": picks(1)}]}, "strategy": "pack"})
        }
        5 => {
            json!({"hostSelector": {"disk": "ssd"}, "spread": [{"topology": "host", "selector": picks(5), "maxSkew": 3}]})
        }
        6 => {
            json!({"regions": ["r0", "r2"], "antiAffinity": {"preferred": [{"topology": "host", "selector": picks(6)}]}, "maxPricePerHour": "0.15"})
        }
        _ => json!({"strategy": "pack", "minKernel": "6.1"}),
    };
    let spec = json!({"image": "debian", "instanceType": size, "placement": rules});
    let mut rest = json!({"spec": spec, "labels": {"app": format!("a{shape}")}});
    if let Some(status) = status {
        rest["status"] = status;
    }
    object("Container", &format!("t{}", i % TENANTS), name, rest)
}
