//! What the pools' planner buys, next to other ways: `cargo run --release -p skysail-simulator --example
//! compare_packing`. One JSON line per shape of sizes, number of containers and seed.

use skysail_simulator::packing::{Shape, compare};

fn main() {
    let wanted: Option<usize> = std::env::args().nth(1).and_then(|n| n.parse().ok());
    for (name, shape) in [("sizes", Shape::Sizes), ("tasks", Shape::Tasks)] {
        for count in wanted.map_or(vec![20, 100], |n| vec![n]) {
            for seed in 0..3 {
                let Some(found) = compare(count, seed, shape) else {
                    continue;
                };
                let mut line = serde_json::to_value(found).unwrap_or_default();
                line["shape"] = name.into();
                line["seed"] = seed.into();
                println!("{line}");
            }
        }
    }
}
