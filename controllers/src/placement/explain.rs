//! Says why: `4 hosts: 2 too small in memory by 128Mi, 1 cordoned`, and the least that would have to change. Pure.

use super::board::Board;
use super::class::Class;
use super::filter::{Refusal, emptiest, fixed};
use super::labels::Group;
use super::place::Unplaceable;
use super::request::{Request, full_name};
use skysail_schemas::host::Resources;
use skysail_schemas::placement::Topology;
use skysail_schemas::quantity::{Bytes, Cpu};
use std::collections::BTreeMap;

/// Refusals counted, not kept: one entry for what is the same, whatever the number of Hosts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub possible: usize,
    /// How many Hosts were asked for.
    pub hosts: usize,
    fixed: BTreeMap<Refusal, usize>,
    /// With one of the Hosts.
    rules: BTreeMap<Refusal, (usize, usize)>,
    /// How many lack memory, cpu, disk; the least that is missing, and one of the Hosts.
    missing: [(usize, u64, usize); 3],
}

impl Tally {
    pub fn new(class: &Class, hosts: usize) -> Self {
        Self {
            hosts,
            fixed: class.refused.clone(),
            ..Self::default()
        }
    }

    pub fn add_fixed(&mut self, checked: Result<(), Refusal>) {
        if let Err(refusal) = checked {
            *self.fixed.entry(refusal).or_default() += 1;
        }
    }

    pub fn add(&mut self, refusal: Refusal, host: usize) {
        let (kind, by) = match refusal {
            Refusal::Memory(by) => (0, by.0),
            Refusal::Cpu(by) => (1, by.0),
            Refusal::Disk(by) => (2, by.0),
            rule => {
                self.rules.entry(rule).or_insert((0, host)).0 += 1;
                return;
            }
        };
        let (count, least, where_) = &mut self.missing[kind];
        if *count == 0 || by < *least {
            (*least, *where_) = (by, host);
        }
        *count += 1;
    }

    /// The most frequent first. `name` says what several Hosts share, and may look at one of them.
    pub fn text(&self, name: impl Fn(&Refusal, Option<usize>) -> String) -> String {
        let mut groups: Vec<(String, usize, String)> = vec![];
        groups.extend(
            self.fixed
                .iter()
                .map(|(r, count)| (name(r, None), *count, String::new())),
        );
        groups.extend(
            self.rules
                .iter()
                .map(|(r, (count, host))| (name(r, Some(*host)), *count, String::new())),
        );
        for (kind, (count, least, host)) in self.missing.iter().enumerate() {
            if *count == 0 {
                continue;
            }
            let least = [
                Refusal::Memory(Bytes(*least)),
                Refusal::Cpu(Cpu(*least)),
                Refusal::Disk(Bytes(*least)),
            ][kind]
                .clone();
            let more = if *count > 1 { "at least " } else { "" };
            let by = amount(&least);
            groups.push((name(&least, Some(*host)), *count, format!(" by {more}{by}")));
        }
        groups.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
        let texts = groups
            .into_iter()
            .map(|(name, count, by)| format!("{count} {name}{by}"));
        texts.collect::<Vec<_>>().join(", ")
    }
}

fn amount(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Cpu(by) => by.to_string(),
        Refusal::Memory(by) | Refusal::Disk(by) => by.to_string(),
        _ => String::new(),
    }
}

/// `1 host`, `3 hosts`.
pub(super) fn plural(hosts: usize) -> String {
    if hosts == 1 {
        "1 host".to_owned()
    } else {
        format!("{hosts} hosts")
    }
}

impl Board<'_> {
    /// Why none of the Hosts is possible.
    pub(super) fn unplaceable(
        &self,
        request: &Request,
        tally: &Tally,
        among: impl Fn(usize) -> bool,
    ) -> Unplaceable {
        let hosts = &self.snapshot.hosts;
        if hosts.is_empty() {
            return Unplaceable::new("NoHostFits", "there are no hosts; create a Host");
        }
        if let Some(name) = &request.container.spec.placement.host
            && self.snapshot.host(name).is_none()
        {
            let message = format!("spec.placement.host: there is no Host {name:?}");
            return Unplaceable::new("NoHostFits", message);
        }
        if let Some(message) = self.larger_than_any(request) {
            return Unplaceable::new("LargerThanAnyHost", message);
        }
        let why = tally.text(|refusal, host| self.group(refusal, host.map(|h| (request, h))));
        let way_out = self.relaxation(request, among);
        let way_out = way_out.map_or_else(String::new, |w| {
            format!("; the least change that would do: {w}")
        });
        let message = format!("{}: {why}{way_out}", plural(tally.hosts));
        Unplaceable::new("NoHostFits", message)
    }

    /// What several Hosts share, without the amounts; with one of them, who is in the way there.
    pub(super) fn group(&self, refusal: &Refusal, at: Option<(&Request, usize)>) -> String {
        let blocker = || {
            at.and_then(|(request, host)| self.blocker(refusal, request, host))
                .map_or_else(String::new, |name| format!(" with {name}"))
        };
        match refusal {
            Refusal::OtherHost => "not the one in spec.placement.host".to_owned(),
            Refusal::OtherCloud => "in another cloud than spec.placement.clouds".to_owned(),
            Refusal::OtherRegion => "in another region than spec.placement.regions".to_owned(),
            Refusal::OtherZone => "in another zone than spec.placement.zones".to_owned(),
            Refusal::Selector => "without the labels of spec.placement.hostSelector".to_owned(),
            Refusal::Kernel(least) => format!("with a kernel older than {least}"),
            Refusal::Price(most) => format!("dearer than {most} per hour or of unknown price"),
            Refusal::Taint(key) => format!("tainted {key}"),
            Refusal::Cordoned => "cordoned".to_owned(),
            Refusal::NotReady(reason) => format!("not ready ({reason})"),
            Refusal::Near(i) => {
                format!("not near what spec.placement.affinity.required[{i}] selects")
            }
            Refusal::Apart(_) | Refusal::Repelled(_) => {
                format!("excluded by anti-affinity{}", blocker())
            }
            Refusal::Skew(i) => at.map_or_else(
                || format!("too full for spec.placement.spread[{i}]"),
                |(request, _)| self.skewed(request, *i),
            ),
            Refusal::Memory(_) => "too small in memory".to_owned(),
            Refusal::Cpu(_) => "too small in cpu".to_owned(),
            Refusal::Disk(_) => "too small in disk".to_owned(),
        }
    }

    fn skewed(&self, request: &Request, rule: usize) -> String {
        let class = &self.classes.all[request.class];
        let spread = &class.spread[rule];
        let topology = spread.term.topology;
        let domain = emptiest(class, rule, &self.groups.all).map(|(d, _)| d);
        let name = domain.map_or("", |d| {
            &self.snapshot.domains[topology as usize][d as usize]
        });
        let hosts = &self.snapshot.hosts;
        let coming = |h: &super::snapshot::HostView| {
            h.coming && Some(h.domains[topology as usize]) == domain
        };
        let waits = if hosts.iter().any(coming) {
            ", which is still coming up"
        } else {
            ""
        };
        format!(
            "more than maxSkew {} ahead of the emptiest{waits}: {name}",
            spread.max_skew
        )
    }

    /// The Container near `host` that keeps the asking one away.
    fn blocker(&self, refusal: &Refusal, request: &Request, host: usize) -> Option<String> {
        let class = &self.classes.all[request.class];
        let (topology, group): (Topology, Option<&Group>) = match refusal {
            Refusal::Apart(i) => {
                let term = class.apart[*i];
                (term.topology, Some(&self.groups.all[term.group]))
            }
            Refusal::Repelled(number) => (self.repulsions.all[*number].topology, None),
            _ => return None,
        };
        let domain = |host: usize| self.slots[host].domains[topology as usize];
        let pieces = self.by_namespace.get(&class.namespace)?.iter();
        let found = pieces.map(|p| &self.pieces[*p]).find(|p| {
            let in_the_way = match (refusal, group) {
                (Refusal::Repelled(number), _) => p.carries.contains(number),
                (_, Some(group)) => group.picks(kube::ResourceExt::labels(&*p.container)),
                _ => false,
            };
            !p.lifted && domain(p.host) == domain(host) && in_the_way
        });
        found.map(|p| full_name(&p.container))
    }

    /// Said where even an empty Host would be too small: waiting for others to leave would not help.
    fn larger_than_any(&self, request: &Request) -> Option<String> {
        let hosts = &self.snapshot.hosts;
        let known = |h: &&super::snapshot::HostView| h.allocatable != Resources::default();
        if !hosts.iter().all(|h| known(&h)) {
            return None;
        }
        let rules = &request.container.spec.placement;
        let wanted = request.allocation.resources();
        let allowed = || hosts.iter().filter(|h| fixed(rules, h).is_ok());
        let fits = |all: Resources| {
            wanted.cpu <= all.cpu && wanted.memory <= all.memory && wanted.disk <= all.disk
        };
        if allowed().any(|h| fits(h.allocatable)) {
            return None;
        }
        let largest =
            allowed().max_by_key(|h| (h.allocatable.memory, h.allocatable.cpu, &h.name))?;
        let all = largest.allocatable;
        Some(format!(
            "spec.instanceType {:?} asks for {} cpu, {} memory, {} disk; the largest possible host {} has {} cpu, {} memory, {} disk even when empty; choose a smaller InstanceType or add a larger Host",
            request.container.spec.instance_type,
            wanted.cpu,
            wanted.memory,
            wanted.disk,
            largest.name,
            all.cpu,
            all.memory,
            all.disk
        ))
    }

    /// The Host with the least in the way, and what would have to change there.
    fn relaxation(&self, request: &Request, among: impl Fn(usize) -> bool) -> Option<String> {
        let wanted = request.allocation.resources();
        let mut best: Option<((usize, u64, usize), Vec<Refusal>)> = None;
        for host in (0..self.snapshot.hosts.len()).filter(|h| among(*h)) {
            let refusals = self.refusals(request, host);
            if refusals.iter().any(|r| matches!(r, Refusal::NotReady(_))) {
                continue;
            }
            let effort = refusals.iter().map(|r| effort(r, wanted)).sum();
            let rank = (refusals.len(), effort, host);
            if !refusals.is_empty() && best.as_ref().is_none_or(|(b, _)| rank < *b) {
                best = Some((rank, refusals));
            }
        }
        let ((_, _, host), refusals) = best?;
        let mut changes: Vec<String> = refusals
            .iter()
            .map(|r| self.change(r, request, host))
            .collect();
        // A rule of either side may name the same Container.
        changes.dedup();
        Some(changes.join(" and "))
    }

    fn change(&self, refusal: &Refusal, request: &Request, host: usize) -> String {
        let name = &self.snapshot.hosts[host].name;
        match refusal {
            Refusal::OtherHost => format!("let spec.placement.host be {name}"),
            Refusal::OtherCloud => format!("add {name}'s cloud to spec.placement.clouds"),
            Refusal::OtherRegion => format!("add {name}'s region to spec.placement.regions"),
            Refusal::OtherZone => format!("add {name}'s zone to spec.placement.zones"),
            Refusal::Selector => {
                format!("give {name} the labels of spec.placement.hostSelector, or drop it")
            }
            Refusal::Kernel(_) => format!("drop spec.placement.minKernel, then {name} would do"),
            Refusal::Price(_) => format!("raise spec.placement.maxPricePerHour to {name}'s price"),
            Refusal::Taint(key) => format!("tolerate the taint {key} of {name}"),
            Refusal::Cordoned => format!("uncordon {name}"),
            Refusal::NotReady(_) => format!("wait until {name} is ready"),
            Refusal::Near(i) => format!(
                "drop spec.placement.affinity.required[{i}], or let one that it selects come to {name}"
            ),
            Refusal::Apart(_) | Refusal::Repelled(_) => {
                let topology = match refusal {
                    Refusal::Repelled(number) => self.repulsions.all[*number].topology,
                    Refusal::Apart(i) => self.classes.all[request.class].apart[*i].topology,
                    _ => Topology::Host,
                };
                let domain = self.slots[host].domains[topology as usize] as usize;
                let place = match topology {
                    Topology::Host => name.clone(),
                    wider => format!(
                        "{} {}",
                        wider.as_str(),
                        self.snapshot.domains[wider as usize][domain]
                    ),
                };
                match self.blocker(refusal, request, host) {
                    Some(other) => format!("let {other} leave {place}"),
                    None => "drop the required anti-affinity".to_owned(),
                }
            }
            Refusal::Skew(i) => {
                let max = self.classes.all[request.class].spread[*i].max_skew;
                format!("raise spec.placement.spread[{i}].maxSkew from {max} for {name}")
            }
            Refusal::Memory(by) => format!("{by} less memory on {name}"),
            Refusal::Cpu(by) => format!("{by} less cpu on {name}"),
            Refusal::Disk(by) => format!("{by} less disk on {name}"),
        }
    }
}

/// How much a change asks, to tell the least: first what is only said, then what takes a share of what was asked for.
fn effort(refusal: &Refusal, wanted: Resources) -> u64 {
    let share = |by: u64, all: u64| 100 + by.saturating_mul(1000) / all.max(1);
    match refusal {
        Refusal::Memory(by) => share(by.0, wanted.memory.0),
        Refusal::Cpu(by) => share(by.0, wanted.cpu.0),
        Refusal::Disk(by) => share(by.0, wanted.disk.0),
        Refusal::Cordoned => 10,
        Refusal::Taint(_) | Refusal::Price(_) => 50,
        Refusal::Skew(_) => 150,
        Refusal::Selector | Refusal::OtherCloud | Refusal::OtherZone | Refusal::OtherRegion => 200,
        _ => 400,
    }
}
