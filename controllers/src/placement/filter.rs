//! Which Hosts are possible for a Container, and why each of the others is not. Pure.
//!
//! [`fixed`] are the rules that no other Container changes; [`Board::check`] adds what
//! depends on who is where; [`Board::refusals`] says everything that is in the way.

use super::board::{Board, Slot};
use super::class::Class;
use super::labels::Group;
use super::request::Request;
use super::snapshot::{HostView, micros};
use skysail_schemas::host::Taint;
use skysail_schemas::placement::{PlacementRules, kernel_version};
use skysail_schemas::quantity::{Bytes, Cpu};

/// Why a Host is not possible. Numbers are places in the lists of `spec.placement`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// `host` names another.
    OtherHost,
    /// `clouds` does not name its Cloud.
    OtherCloud,
    /// `regions` does not name its region.
    OtherRegion,
    /// `zones` does not name its zone.
    OtherZone,
    /// `hostSelector` does not match its labels.
    Selector,
    /// Its kernel is older than `minKernel`, or not known.
    Kernel(String),
    /// It costs more than `maxPricePerHour`, or nobody knows how much.
    Price(String),
    /// It has a taint that the Container does not tolerate.
    Taint(String),
    /// It was cordoned.
    Cordoned,
    /// It takes no containers now.
    NotReady(String),
    /// Nothing that `affinity.required[i]` wants is near.
    Near(usize),
    /// Something that `antiAffinity.required[i]` keeps away is near.
    Apart(usize),
    /// Something near keeps this Container away by its own rule, by its number on the board.
    Repelled(usize),
    /// It would be further ahead of the emptiest than `spread[i].maxSkew`.
    Skew(usize),
    /// So much memory is missing.
    Memory(Bytes),
    /// So much cpu is missing.
    Cpu(Cpu),
    /// So much disk is missing.
    Disk(Bytes),
}

/// One rule that depends on the Host alone.
type Check = fn(&PlacementRules, &HostView) -> Option<Refusal>;

/// In the order in which they are said.
const FIXED: [Check; 9] = [
    |rules, host| {
        let other = rules.host.as_ref().is_some_and(|h| *h != host.name);
        other.then_some(Refusal::OtherHost)
    },
    |rules, host| unnamed(&rules.clouds, &host.cloud, Refusal::OtherCloud),
    |rules, host| unnamed(&rules.regions, &host.region, Refusal::OtherRegion),
    |rules, host| unnamed(&rules.zones, &host.zone, Refusal::OtherZone),
    |rules, host| {
        let mut wanted = rules.host_selector.iter();
        let all = wanted.all(|(k, v)| host.labels.get(k) == Some(v));
        (!all).then_some(Refusal::Selector)
    },
    kernel,
    too_dear,
    |rules, host| {
        let taint = host.taints.iter().find(|t| !tolerated(rules, t))?;
        Some(Refusal::Taint(taint.key.clone()))
    },
    |_, host| host.cordoned.then_some(Refusal::Cordoned),
];

/// The rules that depend on the Host alone, without whether it is ready: the Hosts over which Containers are spread.
///
/// # Errors
/// The first rule that refuses it.
pub fn fixed(rules: &PlacementRules, host: &HostView) -> Result<(), Refusal> {
    match FIXED.iter().find_map(|check| check(rules, host)) {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

fn unnamed(list: &[String], own: &Option<String>, refusal: Refusal) -> Option<Refusal> {
    let named = list.is_empty() || own.as_ref().is_some_and(|o| list.contains(o));
    (!named).then_some(refusal)
}

/// The same with whether it is ready.
///
/// # Errors
/// The first reason against it.
pub fn at_all(rules: &PlacementRules, host: &HostView) -> Result<(), Refusal> {
    fixed(rules, host)?;
    match &host.unready {
        Some(reason) => Err(Refusal::NotReady(reason.clone())),
        None => Ok(()),
    }
}

fn tolerated(rules: &PlacementRules, taint: &Taint) -> bool {
    let value = |v: &String| Some(v) == taint.value.as_ref();
    let mut tolerations = rules.tolerations.iter();
    tolerations.any(|t| t.key == taint.key && t.value.as_ref().is_none_or(value))
}

fn kernel(rules: &PlacementRules, host: &HostView) -> Option<Refusal> {
    let text = rules.min_kernel.as_ref()?;
    let wanted = kernel_version(text)?;
    (host.kernel.is_none_or(|k| k < wanted)).then(|| Refusal::Kernel(text.clone()))
}

fn too_dear(rules: &PlacementRules, host: &HostView) -> Option<Refusal> {
    let text = rules.max_price_per_hour.as_ref()?;
    let most = micros(text)?;
    (host.price.is_none_or(|p| p > most)).then(|| Refusal::Price(text.clone()))
}

/// The domain of a spread rule that has the fewest Containers, and how many: the first by name of several.
pub(super) fn emptiest(class: &Class, rule: usize, groups: &[Group]) -> Option<(u32, u32)> {
    let spread = &class.spread[rule];
    let counts = groups[spread.term.group].counts(spread.term.topology);
    let domains = spread.domains.iter();
    domains
        .map(|d| (*d, counts[*d as usize]))
        .min_by_key(|(_, count)| *count)
}

impl Board<'_> {
    /// Whether the Host is possible for it now.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn check(&self, request: &Request, host: usize) -> Result<(), Refusal> {
        match self.refusals(request, host).into_iter().next() {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    /// Everything that is in the way of the Container on this Host; nothing where it is possible.
    pub fn refusals(&self, request: &Request, host: usize) -> Vec<Refusal> {
        let view = &self.snapshot.hosts[host];
        let class = &self.classes.all[request.class];
        let rules = &request.container.spec.placement;
        let mut all: Vec<Refusal> = FIXED.iter().filter_map(|c| c(rules, view)).collect();
        all.extend(view.unready.clone().map(Refusal::NotReady));
        let least: Vec<u32> = self.least(class);
        let slot = &self.slots[host];
        self.moving(class, slot, &least, &mut |refusal| {
            all.push(refusal);
            true
        });
        all
    }

    /// The count of the emptiest domain of every spread rule.
    pub(super) fn least(&self, class: &Class) -> Vec<u32> {
        (0..class.spread.len())
            .map(|rule| emptiest(class, rule, &self.groups.all).map_or(0, |(_, count)| count))
            .collect()
    }

    /// What depends on who is where. `refuse` gets the reasons until it answers no.
    #[inline]
    pub(super) fn moving(
        &self,
        class: &Class,
        slot: &Slot,
        least: &[u32],
        refuse: &mut impl FnMut(Refusal) -> bool,
    ) {
        let at = |group: &Group, topology| -> u32 {
            group.counts(topology)[slot.domains[topology as usize] as usize]
        };
        for (i, (term, first_anywhere)) in class.near.iter().enumerate() {
            let group = &self.groups.all[term.group];
            let first = *first_anywhere && group.total == 0;
            if !first && at(group, term.topology) == 0 && !refuse(Refusal::Near(i)) {
                return;
            }
        }
        for (i, term) in class.apart.iter().enumerate() {
            let group = &self.groups.all[term.group];
            if at(group, term.topology) > 0 && !refuse(Refusal::Apart(i)) {
                return;
            }
        }
        for number in &class.repelled {
            let repulsion = &self.repulsions.all[*number];
            if at(&repulsion.group, repulsion.topology) > 0 && !refuse(Refusal::Repelled(*number)) {
                return;
            }
        }
        for (i, (spread, least)) in class.spread.iter().zip(least).enumerate() {
            let here = at(&self.groups.all[spread.term.group], spread.term.topology);
            if (here + 1).saturating_sub(*least) > spread.max_skew && !refuse(Refusal::Skew(i)) {
                return;
            }
        }
        let (wanted, free) = (class.wanted, slot.free);
        if wanted.memory > free.memory {
            let missing = wanted.memory.saturating_sub(free.memory);
            if !refuse(Refusal::Memory(missing)) {
                return;
            }
        }
        if wanted.cpu > free.cpu && !refuse(Refusal::Cpu(wanted.cpu.saturating_sub(free.cpu))) {
            return;
        }
        if wanted.disk > free.disk {
            refuse(Refusal::Disk(wanted.disk.saturating_sub(free.disk)));
        }
    }
}
