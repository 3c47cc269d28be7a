//! How many Containers a selector picks, per host, cloud, zone and region: counted once, then kept up to date. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use skysail_schemas::placement::Topology;
use std::collections::{BTreeMap, HashMap};

/// A selector within a namespace, with its counts.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub namespace: String,
    /// `None` where the selector cannot be read: it picks nothing.
    selector: Option<Selector>,
    /// By topology, then by domain.
    counts: [Vec<u32>; 4],
    pub total: u32,
}

impl Group {
    pub fn new(namespace: &str, selector: &LabelSelector, sizes: [usize; 4]) -> Self {
        Self {
            namespace: namespace.to_owned(),
            selector: Selector::try_from(selector.clone()).ok(),
            counts: sizes.map(|n| vec![0; n]),
            total: 0,
        }
    }

    pub fn picks(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_some_and(|s| s.matches(labels))
    }

    pub fn add(&mut self, domains: [u32; 4]) {
        self.total += 1;
        for (counts, domain) in self.counts.iter_mut().zip(domains) {
            counts[domain as usize] += 1;
        }
    }

    pub fn remove(&mut self, domains: [u32; 4]) {
        self.total -= 1;
        for (counts, domain) in self.counts.iter_mut().zip(domains) {
            counts[domain as usize] -= 1;
        }
    }

    /// By domain.
    pub fn counts(&self, topology: Topology) -> &[u32] {
        &self.counts[topology as usize]
    }
}

/// Containers that keep others away: counts of those that carry a rule of required anti-affinity.
#[derive(Debug, Clone)]
pub(super) struct Repulsion {
    /// Whom the rule keeps away; its counts are of those who carry the rule.
    pub group: Group,
    pub topology: Topology,
}

/// Values that are told apart by a key and found again by their number.
#[derive(Debug, Clone)]
pub(super) struct Interned<T> {
    pub all: Vec<T>,
    numbers: HashMap<String, usize>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self {
            all: vec![],
            numbers: HashMap::new(),
        }
    }
}

impl<T> Interned<T> {
    pub fn find(&self, key: &str) -> Option<usize> {
        self.numbers.get(key).copied()
    }

    pub fn insert(&mut self, key: String, value: T) -> usize {
        let number = self.all.len();
        self.all.push(value);
        self.numbers.insert(key, number);
        number
    }
}
