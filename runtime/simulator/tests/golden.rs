//! The example runs as it did, to the letter. `UPDATE=1 cargo test -p skysail-simulator` writes what it is now.

use skysail_simulator::{Scenario, simulate};
use std::path::Path;

#[test]
fn the_example_runs_as_it_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/scenarios");
    let scenario = std::fs::read_to_string(folder.join("shop.yaml")).unwrap();
    let run = simulate(Scenario::parse(&scenario).unwrap());
    assert_eq!(run.account().broken, Vec::<String>::new());
    let golden = folder.join("shop.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, run.text()).unwrap();
    }
    let was = std::fs::read_to_string(&golden).unwrap();
    assert_eq!(run.text(), was);
}

#[test]
fn a_mistake_in_a_scenario_is_told_with_its_field() {
    let base = "name: x\nduration: 1h\nclouds: []\ninstanceTypes: []\nworkloads: []\n";
    assert!(Scenario::parse(base).is_ok());
    let cases = [
        ("events: [{at: 1h}]\n", "events[0]"),
        (
            "hosts: [{name: h, cloud: east, machineType: small}]\n",
            "hosts[0].machineType",
        ),
        (
            "pools: [{name: p, spec: {max: 2, min: 3}}]\n",
            "pools[0].spec.min",
        ),
        ("step: 0ms\n", "step"),
        ("speed: 3\n", "speed"),
    ];
    for (more, field) in cases {
        let said = Scenario::parse(&format!("{base}{more}"))
            .unwrap_err()
            .to_string();
        assert!(said.contains(field), "{said}");
    }
}
