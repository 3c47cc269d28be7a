//! Which proposals may be done now: mode, approvals, windows, cooldown, budgets. Pure.

use super::scene::{Move, is_finished, moved};
use crate::placement::request::full_name;
use crate::placement::snapshot::{Objects, set_uid};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kube::ResourceExt;
use skysail_schemas::condition::{READY, is_true};
use skysail_schemas::container_set::MAX_UNAVAILABLE;
use skysail_schemas::rebalance_policy::{
    APPROVE, POLICY_LABEL, RebalanceMode, RebalancePolicy, RebalanceStrategy, Waits, Window,
};
use skysail_schemas::{Container, Migration};
use std::collections::BTreeMap;
use std::sync::Arc;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// What a policy may still do.
pub struct Gate<'a> {
    policy: &'a RebalancePolicy,
    objects: &'a Objects,
    now: Timestamp,
    total: u32,
    hosts: BTreeMap<String, u32>,
    tenants: BTreeMap<String, u32>,
    /// Containers of sets that are away: moving, or not ready.
    sets: BTreeMap<String, usize>,
    /// When the moves of the last hour began.
    pub begun: Vec<Timestamp>,
}

/// The name of the Migration for a Container as it is now: the same one for the same Container at the same place, so
/// that a move is asked for once, whoever is killed or works twice.
pub fn name(container: &Container) -> String {
    let epoch = container.status.as_ref().map_or(0, |s| s.epoch);
    let uid = container.uid().unwrap_or_default();
    // Not for secrecy: only so that a Container made anew is another one.
    let hash = uid.bytes().fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    let name: String = container.name_any().chars().take(44).collect();
    format!("{name}-rb{epoch}-{:04x}", hash & 0xffff)
}

/// Namespace and name of it.
pub fn id(container: &Container) -> String {
    let namespace = container.namespace().unwrap_or_default();
    format!("{namespace}/{}", name(container))
}

impl<'a> Gate<'a> {
    /// As it is before anything is begun.
    pub fn new(policy: &'a RebalancePolicy, objects: &'a Objects, now: Timestamp) -> Self {
        let mut gate = Self {
            policy,
            objects,
            now,
            total: 0,
            hosts: BTreeMap::new(),
            tenants: BTreeMap::new(),
            sets: away(objects),
            begun: begun(policy, objects, now),
        };
        let hosts: BTreeMap<String, &String> = objects
            .containers
            .iter()
            .filter_map(|c| Some((full_name(c), c.status.as_ref()?.host.as_ref()?)))
            .collect();
        for migration in objects.migrations.iter().filter(|m| !is_finished(m)) {
            let status = migration.status.as_ref();
            let from = status.and_then(|s| s.source.as_ref());
            let from = from.or(hosts.get(&moved(migration)).copied());
            let to = status.and_then(|s| s.target.as_ref());
            let to = to.or(migration.spec.target.host.as_ref());
            // A host has the work of all moves, whoever asked for them.
            for host in [from, to].into_iter().flatten() {
                *gate.hosts.entry(host.clone()).or_default() += 1;
            }
            if is_own(policy, migration) {
                gate.total += 1;
                let tenant = migration.namespace().unwrap_or_default();
                *gate.tenants.entry(tenant).or_default() += 1;
            }
        }
        gate
    }

    /// The policy's Migrations under way, with those that were let through.
    pub fn moving(&self) -> u32 {
        self.total
    }

    /// Why it may not begin, or `Waits::Nothing`: then it counts as begun.
    pub fn admit(&mut self, planned: &Move) -> (Waits, String) {
        let to = match &planned.to {
            Ok(to) => to.clone(),
            Err(why) => return (Waits::Room, why.clone()),
        };
        for check in [Self::tried, Self::cool, Self::open, Self::approved] {
            if let Some(no) = check(self, planned) {
                return no;
            }
        }
        if let Some(no) = self.spent(planned, &to) {
            return (Waits::Budget, no);
        }
        self.total += 1;
        for host in [planned.from.clone(), to] {
            *self.hosts.entry(host).or_default() += 1;
        }
        let tenant = planned.container.namespace().unwrap_or_default();
        *self.tenants.entry(tenant).or_default() += 1;
        if let Some(uid) = set_uid(&planned.container) {
            *self.sets.entry(uid.to_owned()).or_default() += 1;
        }
        self.begun.push(self.now);
        (Waits::Nothing, String::new())
    }

    fn tried(&self, planned: &Move) -> Option<(Waits, String)> {
        let (namespace, name) = (planned.container.namespace(), name(&planned.container));
        let mut migrations = self.objects.migrations.iter();
        let there = migrations.find(|m| m.name_any() == name && m.namespace() == namespace)?;
        let status = there.status.as_ref();
        let conditions = status.iter().flat_map(|s| &s.conditions);
        let why = conditions
            .into_iter()
            .find(|c| c.type_ == "Succeeded")
            .map(|c| format!("{}: {}", c.reason, c.message));
        let message = format!(
            "migrations/{name} was given up ({}); it is tried again when that is gone",
            why.unwrap_or_default()
        );
        Some((Waits::Failed, message))
    }

    fn cool(&self, planned: &Move) -> Option<(Waits, String)> {
        let status = planned.container.status.as_ref()?;
        let at = status.last_migration.as_ref()?.at.as_ref()?.0;
        let cooldown = SignedDuration::try_from(self.policy.spec.cooldown.duration()).ok()?;
        let until = at.checked_add(cooldown).ok()?;
        let waits = until > self.now && !is_urgent(planned.strategy);
        waits.then(|| {
            let message = format!("it was moved at {at:.0} and stays until {until:.0}");
            (Waits::Cooldown, message)
        })
    }

    fn open(&self, planned: &Move) -> Option<(Waits, String)> {
        let windows = &self.policy.spec.windows;
        let open = windows.is_empty() || windows.iter().any(|w| is_open(w, self.now));
        (!open && !is_urgent(planned.strategy)).then(|| {
            let list: Vec<String> = windows
                .iter()
                .map(|w| format!("{}-{}", w.from, w.to))
                .collect();
            let message = format!("spec.windows: moves begin {} UTC", list.join(", "));
            (Waits::Window, message)
        })
    }

    fn approved(&self, planned: &Move) -> Option<(Waits, String)> {
        match self.policy.spec.mode {
            RebalanceMode::Automatic => None,
            RebalanceMode::Report => {
                Some((Waits::Report, "spec.mode: Report: it is only said".into()))
            }
            RebalanceMode::Manual => {
                let id = id(&planned.container);
                let text = self.policy.annotations().get(APPROVE);
                let mut approved = text.map_or("", String::as_str).split([' ', ',']);
                (!approved.any(|a| a == id || a == "all")).then(|| {
                    let message = format!(
                        "kubectl annotate rebalancepolicy {} {APPROVE}={id} --overwrite",
                        self.policy.name_any()
                    );
                    (Waits::Approval, message)
                })
            }
        }
    }

    fn spent(&self, planned: &Move, to: &str) -> Option<String> {
        let budgets = &self.policy.spec.budgets;
        let full = |used: u32, most: u32, field: &str, what: String| {
            (used >= most).then(|| format!("spec.budgets.{field}: {used} of {most} {what}"))
        };
        let of = |map: &BTreeMap<String, u32>, key: &str| map.get(key).copied().unwrap_or(0);
        let tenant = planned.container.namespace().unwrap_or_default();
        let hour = u32::try_from(self.begun.len()).unwrap_or(u32::MAX);
        full(self.total, budgets.total, "total", "are moving".into())
            .or_else(|| {
                [planned.from.as_str(), to].into_iter().find_map(|host| {
                    let what = format!("move from or to {host}");
                    full(of(&self.hosts, host), budgets.per_host, "perHost", what)
                })
            })
            .or_else(|| {
                let what = format!("of {tenant} are moving");
                full(
                    of(&self.tenants, &tenant),
                    budgets.per_tenant,
                    "perTenant",
                    what,
                )
            })
            .or_else(|| {
                full(
                    hour,
                    budgets.per_hour,
                    "perHour",
                    "began within the hour".into(),
                )
            })
            .or_else(|| self.set(planned))
    }

    /// A set says how many of it may be away at once.
    fn set(&self, planned: &Move) -> Option<String> {
        let uid = set_uid(&planned.container)?;
        let mut sets = self.objects.container_sets.iter();
        let set = sets.find(|s| s.uid().as_deref() == Some(uid));
        let most = set.and_then(|s| s.annotations().get(MAX_UNAVAILABLE)?.parse().ok());
        let most: usize = most.unwrap_or(1);
        let away = self.sets.get(uid).copied().unwrap_or(0);
        // One that is not ready is away already.
        let cost = usize::from(is_ready(&planned.container));
        (away + cost > most).then(|| {
            format!("its set allows {most} to be away at once ({MAX_UNAVAILABLE}); {away} are")
        })
    }
}

/// What must leave its host does not wait for a good time.
fn is_urgent(strategy: RebalanceStrategy) -> bool {
    strategy == RebalanceStrategy::Evacuate
}

/// Whether a Migration was asked for by the policy.
pub fn is_own(policy: &RebalancePolicy, migration: &Migration) -> bool {
    migration.labels().get(POLICY_LABEL) == Some(&policy.name_any())
}

fn is_ready(container: &Container) -> bool {
    let status = container.status.as_ref();
    status.is_some_and(|s| is_true(&s.conditions, READY))
}

fn away(objects: &Objects) -> BTreeMap<String, usize> {
    let moving: Vec<String> = objects
        .migrations
        .iter()
        .filter(|m| !is_finished(m))
        .map(|m| moved(m))
        .collect();
    let mut away: BTreeMap<String, usize> = BTreeMap::new();
    let is_away = |c: &&Arc<Container>| !is_ready(c) || moving.contains(&full_name(c));
    for container in objects.containers.iter().filter(is_away) {
        if let Some(uid) = set_uid(container) {
            *away.entry(uid.to_owned()).or_default() += 1;
        }
    }
    away
}

/// When the moves of the last hour began: by the status, which is written before they do, or by the Migrations that
/// are there, whichever says more.
fn begun(policy: &RebalancePolicy, objects: &Objects, now: Timestamp) -> Vec<Timestamp> {
    let lately = |t: &Timestamp| now.duration_since(*t) < HOUR;
    let own = objects.migrations.iter().filter(|m| is_own(policy, m));
    let made: Vec<Timestamp> = own
        .filter_map(|m| m.creation_timestamp().map(|t| t.0))
        .filter(lately)
        .collect();
    let status = policy.status.iter().flat_map(|s| &s.begun);
    let said: Vec<Timestamp> = status.map(|t| t.0).filter(lately).collect();
    if made.len() > said.len() { made } else { said }
}

/// Whether `now` is in the window.
pub fn is_open(window: &Window, now: Timestamp) -> bool {
    let Some((from, to)) = window.minutes() else {
        return false;
    };
    let local = now.to_zoned(TimeZone::UTC);
    let minute =
        u32::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(0);
    let day = |offset: i8| {
        let today = local.weekday().to_monday_zero_offset();
        let wanted = (today + 7 - offset) % 7;
        window.days.is_empty() || window.days.iter().any(|d| *d as i8 == wanted)
    };
    if from < to {
        day(0) && (from..to).contains(&minute)
    } else {
        (day(0) && minute >= from) || (day(1) && minute < to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skysail_schemas::rebalance_policy::Day;

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let window = Window {
            days: vec![Day::Fri],
            from: "22:00".into(),
            to: "06:00".into(),
        };
        // 2026-01-02 is a Friday.
        for (at, open) in [
            ("2026-01-02T21:59:00Z", false),
            ("2026-01-02T22:00:00Z", true),
            ("2026-01-03T05:59:00Z", true),
            ("2026-01-03T06:00:00Z", false),
            ("2026-01-03T23:00:00Z", false),
            ("2026-01-02T03:00:00Z", false),
        ] {
            assert_eq!(is_open(&window, at.parse().unwrap()), open, "{at}");
        }
    }
}
