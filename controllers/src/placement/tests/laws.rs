//! No host over capacity; what an exact solver places, we place; the same input gives the same plan.

use super::*;
use crate::placement::board::Board;
use kube::ResourceExt as _;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

proptest! {
    #[test]
    fn no_host_is_ever_overfilled_and_a_second_plan_is_empty(sizes in proptest::collection::vec((100u64..2000, 100u64..2000), 0..5), count in 0usize..30) {
        let hosts: Vec<_> = sizes.iter().enumerate().map(|(i, (cpu, mem))| host(&format!("h{i}"), *cpu, *mem)).collect();
        let containers: Vec<_> = (0..count).map(|i| container(&format!("c{i}"), json!({}), json!({}))).collect();
        let (first, there) = after(&objects(hosts, containers));
        prop_assert_eq!(first.bind.len() + first.explain.len(), count);
        let snapshot = snapshot(there.clone());
        prop_assert_eq!(overfilled(&there), None);
        // What did not fit, did not fit anywhere.
        let board = Board::new(&snapshot);
        let room = |h: usize| board.free(h).cpu.0 >= 250 && board.free(h).memory.0 >= 192 << 20;
        prop_assert!(first.explain.is_empty() || !(0..snapshot.hosts.len()).any(room));
        prop_assert!(planned(&there).bind.is_empty());
        // The explanation counts what the first round has taken, then stays as it is.
        let (_, settled) = after(&there);
        prop_assert_eq!(planned(&settled), Plan::default());
    }

    #[test]
    fn a_placement_that_an_exact_solver_finds_is_found(case in case()) {
        let all = case.objects();
        let exact = case.solve();
        let (plan, there) = after(&all);
        prop_assert_eq!(overfilled(&there), None);
        let everything = plan.bind.len() == case.containers.len();
        prop_assert!(everything || !exact, "{:?} left {:?}", case, plan.explain.iter().map(|s| s.container.name_any()).collect::<Vec<_>>());
        prop_assert!(exact || !everything, "the solver of the test is wrong: {case:?}");
    }

    #[test]
    fn the_order_in_which_objects_are_listed_changes_nothing(case in case(), turn in 0usize..5) {
        let all = case.objects();
        let mut turned = all.clone();
        let (hosts, containers) = (turned.hosts.len().max(1), turned.containers.len().max(1));
        turned.hosts.rotate_left(turn % hosts);
        turned.containers.rotate_left(turn % containers);
        prop_assert_eq!(planned(&all), planned(&turned));
    }
}

/// The first Host that holds more than it can give.
fn overfilled(objects: &Objects) -> Option<String> {
    let sum = |host: &str| {
        let here = objects.containers.iter().filter_map(|c| c.status.as_ref());
        let here = here.filter(|s| s.host.as_deref() == Some(host));
        here.filter_map(|s| s.allocation.as_ref())
            .fold((0, 0), |(cpu, memory), a| {
                (cpu + a.cpu.0, memory + a.memory.0)
            })
    };
    let over = |h: &&Arc<Host>| {
        let all = h.status.as_ref().unwrap().allocatable.unwrap();
        let (cpu, memory) = sum(&h.name_any());
        cpu > all.cpu.0 || memory > all.memory.0
    };
    objects.hosts.iter().find(over).map(|h| h.name_any())
}

/// A small case: sizes in units of 100m and 100Mi, letters instead of labels.
#[derive(Debug, Clone)]
struct Case {
    hosts: Vec<(u64, u64)>,
    containers: Vec<One>,
}

#[derive(Debug, Clone)]
struct One {
    cpu: u64,
    memory: u64,
    letter: u8,
    /// Must be on the host of one of these.
    near: Option<u8>,
    /// Must not be on the host of one of these.
    apart: Option<u8>,
    /// Spread with these, one ahead at the most.
    spread: Option<u8>,
}

fn case() -> impl Strategy<Value = Case> {
    let letter = || prop_oneof![4 => Just(None), 1 => (0u8..3).prop_map(Some)];
    let one = (1u64..6, 1u64..6, 0u8..3, letter(), letter(), letter()).prop_map(
        |(cpu, memory, letter, near, apart, spread)| One {
            cpu,
            memory,
            letter,
            spread,
            near: near.filter(|_| apart.is_none()),
            apart,
        },
    );
    let hosts = proptest::collection::vec((2u64..10, 2u64..10), 1..4);
    let containers = proptest::collection::vec(one, 1..6);
    (hosts, containers).prop_map(|(hosts, containers)| Case { hosts, containers })
}

impl Case {
    fn objects(&self) -> Objects {
        let hosts = self.hosts.iter().enumerate();
        let hosts = hosts
            .map(|(i, (cpu, memory))| host(&format!("h{i}"), cpu * 100, memory * 100))
            .collect();
        let mut all = objects(hosts, vec![]);
        let selector = |letter: u8| json!({"matchLabels": {"letter": letter.to_string()}});
        for (i, one) in self.containers.iter().enumerate() {
            let term = |letter: Option<u8>| {
                letter.map(|l| json!({"topology": "host", "selector": selector(l)}))
            };
            let list = |letter| json!({"required": term(letter).into_iter().collect::<Vec<_>>()});
            let spread: Vec<_> = term(one.spread).into_iter().collect();
            let rules = json!({"affinity": list(one.near), "antiAffinity": list(one.apart), "spread": spread});
            let size = format!("s{i}");
            let spec = json!({"cpu": format!("{}m", one.cpu * 100), "memory": format!("{}Mi", one.memory * 100)});
            all.instance_types.push(Arc::new(object(
                "InstanceType",
                &size,
                json!({"spec": spec}),
            )));
            let labels = json!({"letter": one.letter.to_string()});
            all.containers
                .push(Arc::new(sized(&format!("c{i}"), &size, labels, rules)));
        }
        all
    }

    /// Whether all can be placed, one after the other in some order, each by its rules when it comes.
    fn solve(&self) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![vec![None; self.containers.len()]];
        while let Some(state) = open.pop() {
            if state.iter().all(Option::is_some) {
                return true;
            }
            for i in (0..state.len()).filter(|i| state[*i].is_none()) {
                for host in (0..self.hosts.len()).filter(|h| self.allowed(&state, i, *h)) {
                    let mut next = state.clone();
                    next[i] = Some(host);
                    if seen.insert(next.clone()) {
                        open.push(next);
                    }
                }
            }
        }
        false
    }

    fn allowed(&self, state: &[Option<usize>], i: usize, host: usize) -> bool {
        let one = &self.containers[i];
        let there: Vec<&One> = self
            .containers
            .iter()
            .zip(state)
            .filter(|(_, h)| **h == Some(host))
            .map(|(c, _)| c)
            .collect();
        let (cpu, memory) = there
            .iter()
            .fold((one.cpu, one.memory), |(c, m), o| (c + o.cpu, m + o.memory));
        let placed = |letter: u8| {
            self.containers
                .iter()
                .zip(state)
                .filter(move |(c, h)| h.is_some() && c.letter == letter)
        };
        let first = |letter| one.letter == letter && placed(letter).count() == 0;
        let mut counts: BTreeMap<usize, u32> = (0..self.hosts.len()).map(|h| (h, 0)).collect();
        if let Some(letter) = one.spread {
            placed(letter).for_each(|(_, h)| *counts.get_mut(&h.unwrap()).unwrap() += 1);
        }
        let least = counts.values().min().copied().unwrap_or(0);
        (cpu <= self.hosts[host].0 && memory <= self.hosts[host].1)
            && one
                .near
                .is_none_or(|l| first(l) || there.iter().any(|o| o.letter == l))
            && one
                .apart
                .is_none_or(|l| !there.iter().any(|o| o.letter == l))
            && !there.iter().any(|o| o.apart == Some(one.letter))
            && (one.spread.is_none() || counts[&host] < least + 1)
    }
}
