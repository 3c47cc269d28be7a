//! Hosts that are too busy: which, and what leaves them. Pure.

use super::scene::{Move, Scene};
use super::signals::Load;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use skysail_schemas::Container;
use skysail_schemas::rebalance_policy::RebalanceStrategy;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A host that was hot is so until it is this much below the threshold, in percent.
const HYSTERESIS: f64 = 5.0;
/// Relief of less than this, in percent of the host, is not worth a move.
const LEAST: f64 = 5.0;

/// Whether a host that uses `load` is over a threshold lowered by `less`.
pub fn is_hot(scene: &Scene<'_>, host: usize, load: &Load, less: f64) -> bool {
    let hot = &scene.policy.hotspot;
    let [cpu, memory] = scene.shares(host, load);
    // Pressure of a machine of which the host is a part may be its neighbours'.
    let presses = |pressure: Option<f64>, share: f64| {
        share >= 50.0 && pressure.is_some_and(|p| p >= f64::from(hot.pressure) - less)
    };
    cpu >= f64::from(hot.cpu) - less
        || memory >= f64::from(hot.memory) - less
        || presses(load.cpu_pressure, cpu)
        || presses(load.memory_pressure, memory)
}

/// Hosts that are hot now, since when; what was hot `before` is so a little longer.
pub fn hot(scene: &Scene<'_>, before: &BTreeMap<String, Time>) -> BTreeMap<String, Time> {
    let mut hot = BTreeMap::new();
    for host in (0..scene.loads.len()).filter(|h| scene.is_in_scope(*h)) {
        let name = &scene.host(host).name;
        let Ok(load) = scene.signals.host(name, scene.now) else {
            continue;
        };
        let since = before.get(name);
        let less = if since.is_some() { HYSTERESIS } else { 0.0 };
        if is_hot(scene, host, &load, less) {
            let now = Time(scene.now);
            hot.insert(name.clone(), since.cloned().unwrap_or(now));
        }
    }
    hot
}

/// One move for each host that is hot for long enough and that nothing leaves already.
pub fn relieve(scene: &mut Scene<'_>, hot: &BTreeMap<String, Time>) -> Vec<Move> {
    let mut moves = vec![];
    for (name, since) in hot {
        let Some(host) = scene.board.snapshot.host(name) else {
            continue;
        };
        let held = held(since, scene.now);
        let hold = SignedDuration::try_from(scene.policy.hotspot.hold.duration());
        if hold.is_ok_and(|hold| held < hold) || scene.leaving.contains(&host) {
            continue;
        }
        // What was proposed before may be enough.
        let still = scene.loads[host].clone();
        if still.is_ok_and(|load| is_hot(scene, host, &load, HYSTERESIS)) {
            moves.extend(one(scene, host, held));
        }
    }
    moves
}

fn held(since: &Time, now: Timestamp) -> SignedDuration {
    now.duration_since(since.0)
}

/// The Container whose departure helps most for what it costs to move, to where it makes no new hotspot.
fn one(scene: &mut Scene<'_>, host: usize, held: SignedDuration) -> Option<Move> {
    let load = scene.loads[host].clone().ok()?;
    let before = scene.shares(host, &load);
    let name = scene.host(host).name.clone();
    let words = format!(
        "{name} uses {:.0}% of its cores and {:.0}% of its memory{}, for {}s",
        before[0],
        before[1],
        pressure(&load),
        held.as_secs()
    );
    let mut first_refusal = None;
    for container in ranked(scene, host, &load) {
        let used = scene.uses(&container);
        let cost = scene.cost(&container);
        let moved = scene.shift(&container, host, |s, h| s.stays_cool(h, &used));
        let to = match moved {
            Ok(tried) => scene.host(tried.to).name.clone(),
            Err(why) => {
                first_refusal = first_refusal.or(Some((container, why)));
                continue;
            }
        };
        let after = scene.loads[host].clone().ok()?;
        let after = scene.shares(host, &after);
        return Some(Move {
            strategy: RebalanceStrategy::RelieveHotspots,
            container,
            from: name,
            to: Ok(to),
            reason: format!("{words}; without it {:.0}% and {:.0}%", after[0], after[1]),
            saving: None,
            cost,
        });
    }
    let (container, why) = first_refusal?;
    Some(Move {
        strategy: RebalanceStrategy::RelieveHotspots,
        cost: scene.cost(&container),
        container,
        from: name,
        to: Err(why),
        reason: words,
        saving: None,
    })
}

fn pressure(load: &Load) -> String {
    let one = |what: &str, p: Option<f64>| {
        let p = p.filter(|p| *p >= 1.0);
        p.map_or_else(String::new, |p| {
            format!(", waits for {what} {p:.0}% of the time")
        })
    };
    one("cores", load.cpu_pressure) + &one("memory", load.memory_pressure)
}

/// By volume to size: the volume is how much it takes of what its host has left to take, over all resources.
fn ranked(scene: &Scene<'_>, host: usize, load: &Load) -> Vec<Arc<Container>> {
    let all = scene.host(host).allocatable;
    let mut ranked: Vec<(bool, f64, Arc<Container>)> = vec![];
    for container in &scene.here[host] {
        if !scene.may_move(container) || is_followed(scene, host, container) {
            continue;
        }
        let used = scene.uses(container);
        let share = |used: f64, all: u64| (used / all.max(1) as f64).clamp(0.0, 0.95);
        let (cpu, memory) = (share(used.cpu, all.cpu.0), share(used.memory, all.memory.0));
        let rest = Load {
            cpu: load.cpu - used.cpu,
            memory: load.memory - used.memory,
            ..*load
        };
        if cpu.max(memory) * 100.0 < LEAST {
            continue;
        }
        // Pressure goes with the use that makes it.
        let eased = Load {
            cpu_pressure: None,
            memory_pressure: None,
            ..rest
        };
        let cools = !is_hot(scene, host, &eased, HYSTERESIS);
        let volume = 1.0 / ((1.0 - cpu) * (1.0 - memory));
        let size = scene.cost(container).bytes.max(1) as f64;
        ranked.push((cools, volume / size, container.clone()));
    }
    ranked.sort_by(|a, b| {
        (b.0, b.1)
            .partial_cmp(&(a.0, a.1))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    ranked
        .into_iter()
        .map(|(.., container)| container)
        .collect()
}

/// Whether another Container on the host must be near it: it would have to follow.
fn is_followed(scene: &Scene<'_>, host: usize, container: &Container) -> bool {
    scene.here[host].iter().any(|other| {
        other.namespace() == container.namespace()
            && other.name_any() != container.name_any()
            && other.spec.placement.affinity.required.iter().any(|term| {
                Selector::try_from(term.selector.clone())
                    .is_ok_and(|s| s.matches(container.labels()))
            })
    })
}
