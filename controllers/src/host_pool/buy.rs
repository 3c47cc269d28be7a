//! The cheapest Hosts on which all that waits fits. Pure.
//!
//! Purchases are looked at in the order of the least that they can end up costing (A*):
//! what was chosen, plus what the missing cpu, memory and disk cost at the cheapest
//! rate. Each is tried with the placement's own planner, so the first that fits is the
//! cheapest. Where that would take too long, the best next Host is bought until all
//! fits, and the bound that was reached says how far from the cheapest that can be.

use crate::placement::board::Board;
use crate::placement::filter::fixed;
use crate::placement::plan::answers;
use crate::placement::snapshot::{HostView, Objects, Snapshot, micros};
use jiff::Timestamp;
use kube::ResourceExt;
use skysail_schemas::host::Resources;
use skysail_schemas::{Cloud, Container, Host, MachineType};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

/// Purchases that are tried, at the most.
const TRIES: usize = 200;

/// Something that can be bought, any number of times within `most`.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The pool that would buy it.
    pub pool: String,
    /// Its MachineType.
    pub kind: String,
    /// Per hour, in millionths.
    pub price: u64,
    /// The Host as it will be when it is up.
    pub host: Host,
}

/// What to buy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Purchase {
    /// Numbers of offers.
    pub offers: Vec<usize>,
    /// Per hour, in millionths.
    pub price: u64,
    /// No purchase on which as much fits costs less than this.
    pub bound: u64,
    /// Containers for which no offer would do even if it were empty.
    pub hopeless: Vec<String>,
    /// Containers that still have no Host.
    pub left: usize,
}

/// What a purchase may not exceed.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Hosts that a pool may still get.
    pub hosts: BTreeMap<String, usize>,
    /// What a pool may still spend per hour, in millionths.
    pub spend: BTreeMap<String, u64>,
}

impl Limits {
    fn allow(&self, offers: &[Offer], chosen: &[usize]) -> bool {
        let mut used: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for offer in chosen.iter().map(|i| &offers[*i]) {
            let (count, spent) = used.entry(&offer.pool).or_default();
            *count += 1;
            *spent += offer.price;
        }
        used.into_iter().all(|(pool, (count, spent))| {
            count <= self.hosts.get(pool).copied().unwrap_or(0)
                && self.spend.get(pool).is_none_or(|most| spent <= *most)
        })
    }
}

/// What a Container of this size takes of each resource.
type Amounts = [u64; 3];

fn amounts(r: Resources) -> Amounts {
    [r.cpu.0, r.memory.0, r.disk.0]
}

/// The purchase with which the most fits, and of those the cheapest. `objects` are as if all that was bought already
/// were up.
pub fn buy(objects: &Objects, offers: &[Offer], limits: &Limits, now: Timestamp) -> Purchase {
    let world = World::new(objects, offers, now);
    let start = world.left(&[]);
    let mut purchase = Purchase {
        left: start,
        hopeless: world.hopeless.clone(),
        ..Purchase::default()
    };
    // What no offer can help is no reason to buy.
    let wanted = world.hopeless.len();
    if start <= wanted || offers.is_empty() {
        return purchase;
    }
    let found = world.cheapest(limits, wanted);
    purchase.bound = found.bound;
    let offers = found.offers.unwrap_or_else(|| world.greedily(limits));
    purchase.left = world.left(&offers);
    purchase.price = world.price(&offers);
    purchase.offers = offers;
    purchase
}

struct Found {
    offers: Option<Vec<usize>>,
    bound: u64,
}

struct World<'a> {
    objects: &'a Objects,
    offers: &'a [Offer],
    now: Timestamp,
    hopeless: Vec<String>,
    /// What is missing beside all free room, whoever could use it.
    missing: Amounts,
}

impl<'a> World<'a> {
    fn new(objects: &'a Objects, offers: &'a [Offer], now: Timestamp) -> Self {
        let mut world = Self {
            objects,
            offers,
            now,
            hopeless: vec![],
            missing: [0; 3],
        };
        let snapshot = Snapshot::new(objects.clone(), now);
        let mut board = Board::new(&snapshot);
        let mut asked: Amounts = [0; 3];
        for container in &snapshot.waiting {
            let Ok(request) = board.request(container) else {
                // It waits for something else than room.
                world.hopeless.push(container.name_any());
                continue;
            };
            let wanted = request.allocation.resources();
            let helps = |o: &Offer| world.helps(o, container, wanted);
            if board.quick(&request).is_none() && !offers.iter().any(helps) {
                world.hopeless.push(container.name_any());
                continue;
            }
            for (sum, one) in asked.iter_mut().zip(amounts(wanted)) {
                *sum = sum.saturating_add(one);
            }
        }
        let free = (0..snapshot.hosts.len()).filter(|h| snapshot.hosts[*h].unready.is_none());
        let free = free
            .map(|h| amounts(board.free(h)))
            .fold([0u64; 3], |a, b| {
                [0, 1, 2].map(|r| a[r].saturating_add(b[r]))
            });
        world.missing = [0, 1, 2].map(|r| asked[r].saturating_sub(free[r]));
        world
    }

    /// Whether an empty Host of this offer would do by the rules that look at the Host alone.
    fn helps(&self, offer: &Offer, container: &Container, wanted: Resources) -> bool {
        let view = self.view(offer);
        let all = view.allocatable;
        fixed(&container.spec.placement, &view).is_ok()
            && wanted.cpu <= all.cpu
            && wanted.memory <= all.memory
            && wanted.disk <= all.disk
    }

    fn view(&self, offer: &Offer) -> HostView {
        fn named<'k, K: ResourceExt>(all: &'k [Arc<K>], name: Option<&String>) -> Option<&'k K> {
            let found = all.iter().find(|o| Some(&o.name_any()) == name);
            found.map(|o| &**o)
        }
        let spec = &offer.host.spec;
        let cloud: Option<&Cloud> = named(&self.objects.clouds, spec.cloud.as_ref());
        let kind: Option<&MachineType> =
            named(&self.objects.machine_types, spec.machine_type.as_ref());
        HostView::new(&offer.host, cloud, kind, self.now)
    }

    /// How many Containers have no Host with these bought.
    fn left(&self, chosen: &[usize]) -> usize {
        let mut objects = self.objects.clone();
        for (i, offer) in chosen.iter().enumerate() {
            let mut host = self.offers[*offer].host.clone();
            // After all that is there, and told apart.
            host.metadata.name = Some(format!("~{i:04}"));
            objects.hosts.push(Arc::new(host));
        }
        let snapshot = Snapshot::new(objects, self.now);
        let mut board = Board::new(&snapshot);
        let requests: Vec<_> = snapshot.waiting.iter().map(|c| board.request(c)).collect();
        let answers = answers(&mut board, &requests);
        let mut none = requests.iter().zip(answers);
        let none = none.by_ref();
        none.filter(|(request, answer)| request.is_err() || answer.is_err())
            .count()
    }

    fn price(&self, chosen: &[usize]) -> u64 {
        chosen.iter().map(|i| self.offers[*i].price).sum()
    }

    /// The least that anything costs which adds what is missing beside `chosen`: per resource at the cheapest rate.
    fn rest(&self, chosen: &[usize]) -> u64 {
        let size = |o: &Offer| {
            amounts(
                o.host
                    .status
                    .as_ref()
                    .and_then(|s| s.allocatable)
                    .unwrap_or_default(),
            )
        };
        let mut most = 0;
        for r in 0..3 {
            let bought: u64 = chosen.iter().map(|i| size(&self.offers[*i])[r]).sum();
            let missing = u128::from(self.missing[r].saturating_sub(bought));
            let cost = |o: &Offer| match size(o)[r] {
                0 => u64::MAX,
                size => u64::try_from(missing * u128::from(o.price) / u128::from(size))
                    .unwrap_or(u64::MAX),
            };
            most = most.max(self.offers.iter().map(cost).min().unwrap_or(0));
        }
        most
    }

    /// The cheapest purchase that leaves `wanted` without a Host, and a bound on it even where it was not found.
    fn cheapest(&self, limits: &Limits, wanted: usize) -> Found {
        let mut open = BinaryHeap::from([(Reverse(self.rest(&[])), Reverse(0), vec![])]);
        let mut bound = 0;
        let mut tries = 0;
        while let Some((Reverse(estimate), _, chosen)) = open.pop() {
            bound = estimate.max(bound);
            let missing = self.rest(&chosen) > 0;
            if !missing && !chosen.is_empty() {
                tries += 1;
                if self.left(&chosen) <= wanted {
                    let offers = Some(chosen);
                    return Found { offers, bound };
                }
            }
            if tries >= TRIES || open.len() > 100 * TRIES {
                break;
            }
            // Each multiset once: in the order of the offers.
            for next in chosen.last().copied().unwrap_or(0)..self.offers.len() {
                let mut more = chosen.clone();
                more.push(next);
                if limits.allow(self.offers, &more) {
                    let estimate = self.price(&more).saturating_add(self.rest(&more));
                    open.push((Reverse(estimate), Reverse(more.len()), more));
                }
            }
        }
        Found {
            offers: None,
            bound,
        }
    }

    /// One Host after the other: each time the one on which the most fits for its price, as long as more fits.
    fn greedily(&self, limits: &Limits) -> Vec<usize> {
        let mut chosen: Vec<usize> = vec![];
        let mut left = self.left(&chosen);
        loop {
            let mut best: Option<(f64, usize, usize)> = None;
            for next in 0..self.offers.len() {
                let mut more = chosen.clone();
                more.push(next);
                if !limits.allow(self.offers, &more) {
                    continue;
                }
                let after = self.left(&more);
                let gain = left.saturating_sub(after) as f64;
                let rate = gain / (self.offers[next].price.max(1) as f64);
                if gain > 0.0 && best.is_none_or(|(b, ..)| rate > b) {
                    best = Some((rate, next, after));
                }
            }
            let Some((_, next, after)) = best else {
                return chosen;
            };
            chosen.push(next);
            left = after;
        }
    }
}

/// Its price in millionths; `None` where it has none that can be used.
pub fn price(kind: &MachineType) -> Option<u64> {
    micros(kind.spec.price_per_hour.as_deref()?)
}
