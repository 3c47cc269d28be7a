//! Hosts that a pool can give back once they are empty: fewer hosts, or cheaper ones. Pure.
//!
//! A host is worth emptying when what it costs over the horizon is more than what all the moves cost; when all that is
//! on it may move, and fits elsewhere without making any host busy; and only while nothing waits for a host. One host
//! at a time: the one that was begun, then the one that was found first.

use super::scene::{Cost, Move, Scene, Tried};
use crate::owner::is_owned_by;
use crate::placement::snapshot::micros;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};
use skysail_schemas::HostPool;
use skysail_schemas::rebalance_policy::{RebalanceStrategy, Saving};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Hosts that are tried in one turn, at the most.
const TRIES: usize = 16;

/// A host that its pool would give back.
struct Candidate {
    host: usize,
    name: String,
    price: u64,
    cost: Cost,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The host that can be emptied, since when.
    pub spare: BTreeMap<String, Time>,
    /// Its moves, once it has been so for the hold time.
    pub moves: Vec<Move>,
}

/// Looks for a host whose Containers all fit on others that are in use (or, following the price, on any that cost less).
pub fn find(
    scene: &mut Scene<'_>,
    pools: &[Arc<HostPool>],
    strategy: RebalanceStrategy,
    before: &BTreeMap<String, Time>,
) -> Found {
    if !scene.board.snapshot.waiting.is_empty() {
        return Found::default();
    }
    let owned = owned(scene, pools);
    let mut candidates = candidates(scene, &owned);
    candidates.sort_by_cached_key(|c| {
        let begun = !scene.leaving.contains(&c.host);
        let since = before.get(&c.name).map(|t| t.0);
        let known = (since.is_none(), since);
        (begun, known, Reverse(c.price), c.cost.bytes, c.name.clone())
    });
    for candidate in candidates.into_iter().take(TRIES) {
        let Some((tried, saving, cost)) = empty(scene, &candidate, &owned, strategy) else {
            continue;
        };
        let since = before.get(&candidate.name).cloned();
        let since = since.unwrap_or(Time(scene.now));
        let hold = SignedDuration::try_from(scene.policy.saving.hold.duration());
        let held = scene.now.duration_since(since.0);
        let mut found = Found {
            spare: BTreeMap::from([(candidate.name.clone(), since)]),
            moves: vec![],
        };
        if hold.is_ok_and(|hold| held < hold) {
            tried.into_iter().rev().for_each(|t| scene.undo(t));
        } else {
            found.moves = said(scene, &candidate, tried, strategy, (saving, cost));
        }
        return found;
    }
    Found::default()
}

/// By host: the pool that would give it back, for pools that have more than their minimum and wait for none.
fn owned(scene: &Scene<'_>, pools: &[Arc<HostPool>]) -> BTreeMap<usize, String> {
    let mut owned = BTreeMap::new();
    for pool in pools
        .iter()
        .filter(|p| p.meta().deletion_timestamp.is_none())
    {
        let uid = pool.uid().unwrap_or_default();
        let mine = scene.objects.hosts.iter();
        let mine = mine.filter(|h| is_owned_by(&***h, &uid));
        let numbers: Vec<usize> = mine
            .filter_map(|h| scene.board.snapshot.host(&h.name_any()))
            .collect();
        let ready = |h: &usize| scene.host(*h).unready.is_none();
        // One that is cordoned is going already.
        let stay: Vec<usize> = numbers
            .iter()
            .copied()
            .filter(|h| !scene.host(*h).cordoned)
            .collect();
        if stay.iter().all(ready) && stay.len() > pool.spec.min as usize {
            owned.extend(stay.into_iter().map(|h| (h, pool.name_any())));
        }
    }
    owned
}

fn candidates(scene: &Scene<'_>, owned: &BTreeMap<usize, String>) -> Vec<Candidate> {
    let mut candidates = vec![];
    let under_way: BTreeSet<&String> = scene.taken.iter().collect();
    for host in owned.keys().copied().filter(|h| scene.is_in_scope(*h)) {
        let view = scene.host(host);
        let here = &scene.here[host];
        // What moves away from here is counted here, and is not in the way; what comes is.
        let going = scene
            .board
            .on(host)
            .filter(|(c, _)| {
                let own = c.status.as_ref().and_then(|s| s.host.as_ref()) == Some(&view.name);
                own && under_way.contains(&crate::placement::request::full_name(c))
            })
            .count();
        let all = here.len() + going == scene.counts[host] as usize;
        let mine = here.iter().all(|c| scene.may_move(c));
        let price = view.price.filter(|p| *p > 0);
        if let (false, true, true, Some(price)) = (here.is_empty(), all, mine, price) {
            let mut cost = Cost::default();
            for one in here.iter().map(|c| scene.cost(c)) {
                cost.bytes = cost.bytes.saturating_add(one.bytes);
                cost.freeze = cost.freeze.saturating_add(one.freeze);
            }
            candidates.push(Candidate {
                host,
                name: view.name.clone(),
                price,
                cost,
            });
        }
    }
    candidates
}

/// Tries to put everything elsewhere, the largest first; what is saved per hour and what it costs, in millionths.
fn empty(
    scene: &mut Scene<'_>,
    candidate: &Candidate,
    owned: &BTreeMap<usize, String>,
    strategy: RebalanceStrategy,
) -> Option<(Vec<Tried>, u64, u64)> {
    let host = candidate.host;
    let mut here = scene.here[host].clone();
    here.sort_by_cached_key(|c| {
        let used = scene.uses(c);
        Reverse(used.memory as u64)
    });
    let occupied: Vec<bool> = scene.counts.iter().map(|c| *c > 0).collect();
    let pays = |s: &Scene<'_>, h: usize| match strategy {
        RebalanceStrategy::FollowPrice => {
            let price = s.host(h).price;
            occupied[h] || price.is_some_and(|p| p < candidate.price)
        }
        // An empty one of a pool is going; one that belongs to nobody costs the same empty or not.
        _ => occupied[h] || !owned.contains_key(&h),
    };
    let mut tried: Vec<Tried> = vec![];
    for container in &here {
        let used = scene.uses(container);
        match scene.shift(container, host, |s, h| pays(s, h) && s.stays_cool(h, &used)) {
            Ok(one) => tried.push(one),
            Err(_) => {
                tried.into_iter().rev().for_each(|t| scene.undo(t));
                return None;
            }
        }
    }
    let opened: BTreeSet<usize> = tried.iter().map(|t| t.to).collect();
    let opened = opened
        .iter()
        .filter(|h| !occupied[**h] && owned.contains_key(*h));
    let opened: u64 = opened.filter_map(|h| scene.host(*h).price).sum();
    let saving = candidate.price.saturating_sub(opened);
    let cost = money(&scene.policy.saving, candidate.cost);
    if worth(&scene.policy.saving, saving, cost) {
        return Some((tried, saving, cost));
    }
    tried.into_iter().rev().for_each(|t| scene.undo(t));
    None
}

/// What moves cost, in millionths.
pub fn money(saving: &Saving, cost: Cost) -> u64 {
    let rate = |text: &str| u128::from(micros(text).unwrap_or(u64::MAX));
    let sent = u128::from(cost.bytes) * rate(&saving.price_per_gib) / (1 << 30);
    let frozen = u128::from(cost.freeze) * rate(&saving.price_per_frozen_second) / 1000;
    u64::try_from(sent + frozen).unwrap_or(u64::MAX)
}

/// Whether a saving per hour is more, over the horizon, than what it costs.
fn worth(policy: &Saving, saving: u64, cost: u64) -> bool {
    let over = u128::from(saving) * u128::from(policy.horizon.0) / 3_600_000;
    over > u128::from(cost) && saving > 0
}

fn said(
    scene: &Scene<'_>,
    candidate: &Candidate,
    tried: Vec<Tried>,
    strategy: RebalanceStrategy,
    money: (u64, u64),
) -> Vec<Move> {
    let count = tried.len();
    let moves = tried.into_iter().map(|tried| Move {
        strategy,
        from: candidate.name.clone(),
        to: Ok(scene.host(tried.to).name.clone()),
        reason: format!(
            "{} can be emptied: all {count} containers fit elsewhere",
            candidate.name
        ),
        saving: Some(money),
        cost: scene.cost(tried.container()),
        container: tried.container().clone(),
    });
    moves.collect()
}
