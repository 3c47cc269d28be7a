//! What the pools' planner buys for many containers at once, next to one machine per container, best-fit decreasing,
//! and a bound below which no purchase can be.

use crate::account::Account;
use crate::random::Random;
use crate::scenario::{CloudWish, MachineWish, Named, Scenario, Workload};
use crate::world::World;
use serde::Serialize;
use skysail_controllers::placement::snapshot::micros;
use skysail_schemas::duration::Span;
use skysail_schemas::host_pool::HostPoolSpec;
use skysail_schemas::quantity::{Bytes, Cpu};
use std::collections::BTreeMap;

/// How sizes are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As people order VMs: powers of two from a quarter of a core, the small ones more often, one to eight gibibytes
    /// per core.
    Sizes,
    /// As clusters' traces have tasks: any size, many small ones and a heavy tail (Pareto, exponent 1.2, from 50m to
    /// 4 cores), memory per core anything between half and eight gibibytes.
    Tasks,
}

/// Prices per hour.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Containers.
    pub containers: usize,
    /// Those that got no host.
    pub left: usize,
    /// Machines bought.
    pub machines: usize,
    /// What they cost.
    pub price: f64,
    /// One machine per container, each the cheapest that will do.
    pub alone: f64,
    /// The largest first, each where it leaves the least; each machine the cheapest that holds what is on it.
    pub best_fit: f64,
    /// The solution of the linear program in which containers and machines can be cut: no purchase costs less.
    pub bound: f64,
    /// How long the planner took, in seconds.
    pub took: f64,
}

/// Cores in thousandths, memory in mebibytes.
type Size = [u64; 2];

fn sizes(count: usize, seed: u64, shape: Shape) -> Vec<Size> {
    let mut random = Random::new(seed, "packing");
    let one = |random: &mut Random| match shape {
        Shape::Sizes => {
            let cpu = match random.below(100) {
                0..30 => 250,
                30..55 => 500,
                55..75 => 1000,
                75..92 => 2000,
                _ => 4000,
            };
            [cpu, cpu * (1024 << random.below(4)) / 1000]
        }
        Shape::Tasks => {
            let cpu = 50.0 / (1.0 - random.share()).powf(1.0 / 1.2);
            let cpu = (cpu as u64).clamp(50, 4000);
            let ratio = 0.5 * 16f64.powf(random.share());
            [cpu, (cpu as f64 * ratio * 1.024) as u64 + 16]
        }
    };
    (0..count).map(|_| one(&mut random)).collect()
}

/// Two clouds with the usual families: two, four and eight gibibytes per core.
fn clouds() -> Vec<CloudWish> {
    let machine = |family: &str, cores: u64, per_core: u64, price: f64| MachineWish {
        name: format!("{family}{cores}"),
        cpu: Cpu(cores * 1000),
        memory: Bytes((cores * per_core) << 30),
        disk: Bytes(1 << 40),
        price: format!("{:.4}", price * cores as f64),
    };
    let cloud = |name: &str, scale: f64| CloudWish {
        name: name.into(),
        region: None,
        zone: None,
        boot: Span(60_000),
        quota: None,
        machine_types: [2, 4, 8, 16]
            .into_iter()
            .flat_map(|cores| {
                [
                    machine("c", cores, 2, 0.0425 * scale),
                    machine("m", cores, 4, 0.048 * scale),
                    machine("r", cores, 8, 0.063 * scale),
                ]
            })
            .collect(),
    };
    vec![cloud("east", 1.0), cloud("west", 1.08)]
}

fn scenario(sizes: &[Size]) -> Option<Scenario> {
    let mut kinds: Vec<Size> = sizes.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    let name = |size: &Size| format!("s{}-{}", size[0], size[1]);
    let spec = |size: &Size| {
        let spec = serde_json::json!({"cpu": format!("{}m", size[0]), "memory": format!("{}Mi", size[1]), "disk": "1Gi"});
        serde_json::from_value(spec).ok()
    };
    let types = kinds.iter().map(|s| {
        Some(Named {
            name: name(s),
            spec: spec(s)?,
        })
    });
    let workload = |(i, size): (usize, &Size)| {
        let wish = serde_json::json!({"name": format!("c{i}"), "instanceType": name(size)});
        serde_json::from_value::<Workload>(wish).ok()
    };
    let pool = HostPoolSpec {
        max: 1000,
        ..serde_json::from_value(serde_json::json!({"max": 1000})).ok()?
    };
    let base = serde_json::json!({"name": "packing", "duration": "1m", "clouds": [], "instanceTypes": [], "workloads": []});
    let mut scenario: Scenario = serde_json::from_value(base).ok()?;
    scenario.clouds = clouds();
    scenario.pools = vec![Named {
        name: "pool".into(),
        spec: pool,
    }];
    scenario.instance_types = types.collect::<Option<_>>()?;
    scenario.workloads = sizes
        .iter()
        .enumerate()
        .map(workload)
        .collect::<Option<_>>()?;
    Some(scenario)
}

/// Buys for `count` containers that come at once. `None` where the sizes make no scenario.
pub fn compare(count: usize, seed: u64, shape: Shape) -> Option<Comparison> {
    let sizes = sizes(count, seed, shape);
    let mut world = World::new(scenario(&sizes)?);
    let begun = std::time::Instant::now();
    world.arrive();
    for _ in 0..4 {
        world.pool();
        world.up();
        world.place();
    }
    let took = begun.elapsed().as_secs_f64();
    let waits = |c: &std::sync::Arc<skysail_schemas::Container>| {
        c.status.as_ref().is_none_or(|s| s.host.is_none())
    };
    let left = world.objects.containers.iter().filter(|c| waits(c)).count();
    let machines = machines(&world);
    let prices: BTreeMap<String, u64> = machines.iter().map(|m| (m.0.clone(), m.2)).collect();
    let bought = world.objects.hosts.iter();
    let bought: Vec<u64> = bought
        .filter_map(|h| prices.get(h.spec.machine_type.as_ref()?).copied())
        .collect();
    Some(Comparison {
        containers: count,
        left,
        machines: bought.len(),
        price: bought.iter().sum::<u64>() as f64 / 1e6,
        alone: sizes
            .iter()
            .filter_map(|s| cheapest(&machines, *s))
            .sum::<u64>() as f64
            / 1e6,
        best_fit: best_fit(&machines, &sizes) as f64 / 1e6,
        bound: bound(&machines, &sizes),
        took,
    })
}

type Machine = (String, Size, u64);

/// What can be bought: name, room, price in millionths.
fn machines(world: &World) -> Vec<Machine> {
    let types = world.objects.machine_types.iter();
    let one = types.filter_map(|t| {
        let memory = t.spec.memory.0;
        // As pools count what a machine has left for containers.
        let room = (memory - (256 << 20).min(memory / 8)) >> 20;
        let price = micros(t.spec.price_per_hour.as_deref()?)?;
        Some((t.metadata.name.clone()?, [t.spec.cpu.0, room], price))
    });
    one.collect()
}

fn cheapest(machines: &[Machine], size: Size) -> Option<u64> {
    let fits = machines
        .iter()
        .filter(|m| m.1[0] >= size[0] && m.1[1] >= size[1]);
    fits.map(|m| m.2).min()
}

fn best_fit(machines: &[Machine], sizes: &[Size]) -> u64 {
    let Some(largest) = machines.iter().max_by_key(|m| (m.1[0], m.1[1])) else {
        return 0;
    };
    let share = |s: &Size| [0, 1].map(|r| s[r] as f64 / largest.1[r] as f64);
    let mut order: Vec<&Size> = sizes.iter().collect();
    order.sort_by(|a, b| {
        let most = |s: &Size| share(s)[0].max(share(s)[1]);
        most(b).total_cmp(&most(a))
    });
    let mut bins: Vec<Size> = vec![];
    for size in order {
        let left = |bin: &Size| {
            (0..2)
                .map(|r| largest.1[r].checked_sub(bin[r] + size[r]))
                .collect::<Option<Vec<u64>>>()
        };
        let fits = bins
            .iter()
            .enumerate()
            .filter_map(|(i, b)| Some((i, left(b)?)));
        let rest = |left: &[u64]| share(&[left[0], left[1]]).iter().sum::<f64>();
        let best = fits.min_by(|a, b| rest(&a.1).total_cmp(&rest(&b.1)));
        match best {
            Some((i, _)) => bins[i] = [bins[i][0] + size[0], bins[i][1] + size[1]],
            None => bins.push(*size),
        }
    }
    bins.iter().filter_map(|b| cheapest(machines, *b)).sum()
}

/// The dual of the linear program: the greatest worth of all cores and all memory at prices for each at which no
/// machine is worth more than it costs. In two dimensions the best is at a corner, and there are few.
fn bound(machines: &[Machine], sizes: &[Size]) -> f64 {
    let demand = [0, 1].map(|r| sizes.iter().map(|s| s[r]).sum::<u64>() as f64);
    let mut lines: Vec<[f64; 3]> = machines
        .iter()
        .map(|m| [m.1[0] as f64, m.1[1] as f64, m.2 as f64])
        .collect();
    lines.extend([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]);
    let possible = |y: [f64; 2]| {
        y.iter().all(|v| *v >= -1e-9)
            && machines
                .iter()
                .all(|m| m.1[0] as f64 * y[0] + m.1[1] as f64 * y[1] <= m.2 as f64 * (1.0 + 1e-9))
    };
    let mut best: f64 = 0.0;
    for (i, a) in lines.iter().enumerate() {
        for b in &lines[..i] {
            let det = a[0] * b[1] - a[1] * b[0];
            if det.abs() < 1e-9 {
                continue;
            }
            let y = [
                (a[2] * b[1] - a[1] * b[2]) / det,
                (a[0] * b[2] - a[2] * b[0]) / det,
            ];
            if possible(y) {
                best = best.max(demand[0] * y[0] + demand[1] * y[1]);
            }
        }
    }
    best / 1e6
}

impl World {
    /// Every machine is up at once.
    fn up(&mut self) {
        let now = self.now;
        self.machines.values_mut().for_each(|m| m.ready = now);
        self.boot();
    }
}

/// What a run with pools costs, of what one machine per container costs.
pub fn share_of(account: &Account) -> f64 {
    Account::money(account.spent) / Account::money(account.alone).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_below_every_purchase_and_touches_one_that_is_full() {
        let machines = vec![
            ("a".to_owned(), [2000, 4000], 100),
            ("b".to_owned(), [2000, 8000], 150),
        ];
        assert_eq!(bound(&machines, &[[2000, 4000]]) * 1e6, 100.0);
        let mixed = bound(&machines, &[[2000, 4000], [2000, 8000]]) * 1e6;
        assert!((mixed - 250.0).abs() < 1e-6, "{mixed}");
        for seed in 0..3 {
            let found = compare(30, seed, Shape::Tasks).unwrap();
            assert_eq!(found.left, 0, "{found:?}");
            assert!(
                found.bound <= found.price && found.price <= found.alone,
                "{found:?}"
            );
        }
    }
}
