//! Which Hosts come and which go. Pure.

use super::buy::{Limits, Offer, Purchase, buy, price};
use crate::money;
use crate::owner::is_owned_by;
use crate::placement::snapshot::{Objects, micros};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, ResourceExt};
use skysail_schemas::condition::{self, Fact, READY};
use skysail_schemas::host::{HostPhase, HostSpec, Resources};
use skysail_schemas::host_pool::{HostPoolStatus, POOL_LABEL};
use skysail_schemas::{Host, HostPool, MachineType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every pool.
    pub pools: Vec<Arc<HostPool>>,
    /// All that placement looks at.
    pub objects: Objects,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Hosts to make.
    pub create: Vec<Host>,
    /// Hosts that get no new Containers any more, or get them again.
    pub cordon: Vec<(Arc<Host>, bool)>,
    /// Hosts to give back.
    pub remove: Vec<Arc<Host>>,
    /// What is said of pools whose status is not so yet.
    pub status: Vec<(Arc<HostPool>, HostPoolStatus)>,
}

const SATISFIED: &str = "Satisfied";
/// How long a MachineType that could not be delivered is not asked for again.
const EXHAUSTED: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// One pool as it is.
struct Own<'a> {
    pool: &'a Arc<HostPool>,
    /// Its Hosts that are not going already.
    hosts: Vec<&'a Arc<Host>>,
    status: HostPoolStatus,
}

/// Decides.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let taken = occupied(&seen.objects);
    let mut own: Vec<Own<'_>> = seen
        .pools
        .iter()
        .filter(|p| p.meta().deletion_timestamp.is_none())
        .map(|pool| Own::new(pool, &seen.objects))
        .collect();
    for own in &mut own {
        own.failures(now, &mut plan);
        own.leave(&taken, now, &mut plan);
    }
    let (offers, limits) = offers(&own, &seen.objects, &plan, now);
    let purchase = buy(&as_if_up(seen, &plan), &offers, &limits, now);
    for own in &mut own {
        let mut wanted: Vec<&Offer> = purchase.offers.iter().map(|o| &offers[*o]).collect();
        wanted.retain(|o| o.pool == own.pool.name_any());
        let count = own.hosts.len() + wanted.len();
        let cheapest = offers
            .iter()
            .filter(|o| o.pool == own.pool.name_any())
            .min_by_key(|o| (o.price, &o.kind));
        let lacking = (own.pool.spec.min as usize).saturating_sub(count);
        wanted.extend(cheapest.into_iter().cycle().take(lacking));
        own.create(&wanted, &seen.objects, &mut plan);
        own.say(&purchase, &offers, &seen.objects, now);
        if own.pool.status.as_ref() != Some(&own.status) {
            plan.status.push((own.pool.clone(), own.status.clone()));
        }
    }
    plan
}

/// Hosts that something is on, or on its way to.
fn occupied(objects: &Objects) -> BTreeSet<String> {
    let bound = objects
        .containers
        .iter()
        .filter_map(|c| c.status.as_ref()?.host.clone());
    let moving = objects.migrations.iter().filter_map(|m| {
        let status = m.status.as_ref().filter(|s| !s.phase.is_finished())?;
        status.target.clone()
    });
    bound.chain(moving).collect()
}

fn going(host: &Host) -> bool {
    host.meta().deletion_timestamp.is_some()
}

fn is_ready(host: &Host) -> bool {
    let status = host.status.as_ref();
    status.is_some_and(|s| condition::is_true(&s.conditions, READY))
}

/// The objects as if every Host of a pool that stays were up: what was bought already is not bought again.
fn as_if_up(seen: &Seen, plan: &Plan) -> Objects {
    let mut objects = seen.objects.clone();
    let leaves = |h: &Host| plan.remove.iter().any(|r| r.name_any() == h.name_any());
    let reopened = |h: &Host| {
        plan.cordon
            .iter()
            .any(|(c, closed)| !closed && c.name_any() == h.name_any())
    };
    for host in &mut objects.hosts {
        let of_pool = seen
            .pools
            .iter()
            .any(|p| p.uid().is_some_and(|uid| is_owned_by(&**host, &uid)));
        if !of_pool || going(host) || leaves(host) {
            continue;
        }
        let kind = host.spec.machine_type.as_ref();
        let kind = kind.and_then(|k| {
            seen.objects
                .machine_types
                .iter()
                .find(|t| t.name_any() == *k)
        });
        let mut up = (**host).clone();
        if !is_ready(host)
            && let Some(kind) = kind
        {
            up = with_room(up, kind);
        }
        if reopened(host) {
            up.spec.unschedulable = false;
        }
        *host = Arc::new(up);
    }
    objects
}

/// The Host as it is when it is up; a little less than the machine has, for the system itself.
fn with_room(mut host: Host, kind: &MachineType) -> Host {
    let mut status = host.status.unwrap_or_default();
    status.phase = HostPhase::Running;
    let memory = kind.spec.memory.0;
    let reserved = (256u64 << 20).min(memory / 8);
    let known = status.allocatable.filter(|a| *a != Resources::default());
    let mut room = known.unwrap_or(Resources {
        cpu: kind.spec.cpu,
        memory: kind.spec.memory,
        disk: kind.spec.disk,
    });
    // Before the agent measures, what is known is what the machine has as a whole.
    if room.memory == kind.spec.memory {
        room.memory.0 = (memory - reserved) >> 20 << 20;
        room.disk.0 = (room.disk.0 - room.disk.0 / 20) >> 20 << 20;
    }
    status.allocatable = Some(room);
    status.conditions.retain(|c| c.type_ != READY);
    let fact = Fact::yes(READY, "Assumed", "");
    condition::merge(&mut status.conditions, &[fact], None, Timestamp::UNIX_EPOCH);
    host.status = Some(status);
    host
}

/// What the pools may buy, and how much of it.
fn offers(own: &[Own<'_>], objects: &Objects, plan: &Plan, now: Timestamp) -> (Vec<Offer>, Limits) {
    let mut offers = vec![];
    let mut limits = Limits::default();
    for own in own {
        let (pool, spec) = (own.pool.name_any(), &own.pool.spec);
        let leaving = own
            .hosts
            .iter()
            .filter(|h| plan.remove.iter().any(|r| r.name_any() == h.name_any()));
        let most = (spec.max as usize).saturating_sub(own.hosts.len() - leaving.count());
        limits.hosts.insert(pool.clone(), most);
        if let Some(most) = spec.max_price_per_hour.as_deref().and_then(micros) {
            limits
                .spend
                .insert(pool.clone(), most.saturating_sub(own.spend(objects)));
        }
        for kind in &objects.machine_types {
            let name = kind.name_any();
            let named = spec.machine_types.contains(&name);
            let wanted = (spec.machine_types.is_empty() || named)
                && (spec.clouds.is_empty() || spec.clouds.contains(&kind.spec.cloud));
            let exhausted = own
                .status
                .exhausted
                .get(&name)
                .is_some_and(|until| until.0 > now);
            let cost = price(kind).or(named.then_some(0));
            if let (true, false, Some(price)) = (wanted, exhausted, cost) {
                let host = with_room(own.host("", kind), kind);
                offers.push(Offer {
                    pool: pool.clone(),
                    kind: name,
                    price,
                    host,
                });
            }
        }
    }
    offers.sort_by(|a, b| (a.price, &a.pool, &a.kind).cmp(&(b.price, &b.pool, &b.kind)));
    (offers, limits)
}

impl<'a> Own<'a> {
    fn new(pool: &'a Arc<HostPool>, objects: &'a Objects) -> Self {
        let uid = pool.uid().unwrap_or_default();
        let mine = |h: &&Arc<Host>| is_owned_by(&***h, &uid) && !going(h);
        Self {
            pool,
            hosts: objects.hosts.iter().filter(mine).collect(),
            status: pool.status.clone().unwrap_or_default(),
        }
    }

    /// A Host that the cloud could not deliver goes, and its MachineType is not asked for again for a while.
    fn failures(&mut self, now: Timestamp, plan: &mut Plan) {
        self.status.exhausted.retain(|_, until| until.0 > now);
        for host in &self.hosts {
            let status = host.status.as_ref();
            let provisioned =
                status.and_then(|s| s.conditions.iter().find(|c| c.type_ == "Provisioned"));
            let failed = provisioned.is_some_and(|c| {
                c.status == "False" && matches!(c.reason.as_str(), "NoCapacity" | "QuotaExceeded")
            });
            if failed && let Some(kind) = &host.spec.machine_type {
                self.status
                    .exhausted
                    .insert(kind.clone(), Time(now + EXHAUSTED));
                plan.remove.push((*host).clone());
            }
        }
    }

    /// Empty Hosts go after a while: first cordoned, then, still empty, given back. One that got something meanwhile
    /// is opened again.
    fn leave(&mut self, taken: &BTreeSet<String>, now: Timestamp, plan: &mut Plan) {
        let names: BTreeSet<String> = self.hosts.iter().map(|h| h.name_any()).collect();
        self.status
            .empty
            .retain(|name, _| names.contains(name) && !taken.contains(name));
        let hold = jiff::SignedDuration::try_from(self.pool.spec.return_after.duration())
            .unwrap_or(jiff::SignedDuration::MAX);
        let mut stay = self.hosts.len()
            - plan
                .remove
                .iter()
                .filter(|r| names.contains(&r.name_any()))
                .count();
        // The dearest first, then the newest.
        let mut hosts = self.hosts.clone();
        hosts.sort_by_key(|h| std::cmp::Reverse((h.spec.machine_type.clone(), h.name_any())));
        for host in hosts {
            let name = host.name_any();
            let marked = host.annotations().contains_key(LEAVING);
            if taken.contains(&name) || !is_ready(host) {
                if marked && host.spec.unschedulable {
                    plan.cordon.push((host.clone(), false));
                }
                continue;
            }
            let since = self.status.empty.entry(name).or_insert(Time(now)).0;
            if now.duration_since(since) < hold || stay <= self.pool.spec.min as usize {
                continue;
            }
            stay -= 1;
            if marked && host.spec.unschedulable {
                plan.remove.push(host.clone());
            } else if !host.spec.unschedulable {
                plan.cordon.push((host.clone(), true));
            }
        }
    }

    fn host(&self, name: &str, kind: &MachineType) -> Host {
        let template = &self.pool.spec.template;
        let mut labels = template.labels.clone();
        labels.insert(POOL_LABEL.to_owned(), self.pool.name_any());
        Host {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels),
                owner_references: Some(self.pool.controller_owner_ref(&()).into_iter().collect()),
                ..ObjectMeta::default()
            },
            spec: HostSpec {
                cloud: Some(kind.spec.cloud.clone()),
                machine_type: Some(kind.name_any()),
                public_address: template.public_address,
                taints: template.taints.clone(),
                ..HostSpec::default()
            },
            status: None,
        }
    }

    /// The lowest numbers that are free.
    fn create(&mut self, wanted: &[&Offer], objects: &Objects, plan: &mut Plan) {
        let pool = self.pool.name_any();
        let names: BTreeSet<String> = objects.hosts.iter().map(|h| h.name_any()).collect();
        let free = (0..)
            .map(|n| format!("{pool}-{n}"))
            .filter(|n| !names.contains(n));
        for (offer, name) in wanted.iter().zip(free) {
            let kind = objects
                .machine_types
                .iter()
                .find(|t| t.name_any() == offer.kind);
            plan.create.extend(kind.map(|kind| self.host(&name, kind)));
        }
    }

    fn spend(&self, objects: &Objects) -> u64 {
        let price_of = |h: &&Arc<Host>| {
            let kind = h.spec.machine_type.as_ref()?;
            price(
                objects
                    .machine_types
                    .iter()
                    .find(|t| t.name_any() == *kind)?,
            )
        };
        self.hosts.iter().filter_map(price_of).sum()
    }

    fn say(&mut self, purchase: &Purchase, offers: &[Offer], objects: &Objects, now: Timestamp) {
        let generation = self.pool.metadata.generation;
        let spend = self.spend(objects);
        self.status.observed_generation = generation;
        self.status.hosts = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        self.status.spend_per_hour = Some(money(spend));
        let bought: Vec<&Offer> = purchase.offers.iter().map(|o| &offers[*o]).collect();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for offer in bought.iter().filter(|o| o.pool == self.pool.name_any()) {
            *kinds.entry(&offer.kind).or_default() += 1;
        }
        let fact = if !kinds.is_empty() {
            let list: Vec<String> = kinds
                .iter()
                .map(|(kind, n)| format!("{n} {kind}"))
                .collect();
            let message = format!(
                "buys {} for {} per hour in all; nothing on which as much fits costs less than {}",
                list.join(", "),
                money(purchase.price),
                money(purchase.bound.min(purchase.price))
            );
            Fact::no(SATISFIED, "Buying", message)
        } else if let Some(host) = self.hosts.iter().find(|h| !is_ready(h)) {
            Fact::no(
                SATISFIED,
                "HostsComing",
                format!("waits for {}", host.name_any()),
            )
        } else if purchase.left > purchase.hopeless.len() {
            let message = format!(
                "{} containers fit nowhere, and what may be bought within max and maxPricePerHour does not help{}",
                purchase.left,
                self.exhausted()
            );
            Fact::no(SATISFIED, "LimitReached", message)
        } else if let Some(name) = purchase.hopeless.first() {
            let message = format!(
                "{} containers fit on no machine that may be bought, for example {name}; their own condition says why{}",
                purchase.hopeless.len(),
                self.exhausted()
            );
            Fact::yes(SATISFIED, "NothingHelps", message)
        } else {
            Fact::yes(SATISFIED, "Satisfied", "all containers have hosts")
        };
        condition::merge(&mut self.status.conditions, &[fact], generation, now);
        let ready = condition::ready(&self.status.conditions, &[SATISFIED]);
        condition::merge(&mut self.status.conditions, &[ready], generation, now);
    }

    fn exhausted(&self) -> String {
        match self.status.exhausted.first_key_value() {
            Some((kind, until)) => format!(
                "; {kind} could not be delivered and is asked for again at {}",
                until.0
            ),
            None => String::new(),
        }
    }
}

/// Annotation of a Host that its pool cordoned: told apart from one that people cordoned.
pub const LEAVING: &str = "skysail.dev/leaving";
