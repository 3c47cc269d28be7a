//! The clock: one step after the other, and after each of them the laws.

use crate::world::World;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use skysail_controllers::placement::request::full_name;
use skysail_controllers::placement::snapshot::micros;
use skysail_schemas::host::Resources;
use skysail_schemas::rebalance_policy::POLICY_LABEL;
use skysail_schemas::{Container, Migration};
use std::collections::BTreeMap;
use std::sync::Arc;

const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// How often pools look, in milliseconds; and how often where something waits that they could not help before, as long
/// as nothing has changed: they would find the same.
const POOLS: u64 = 10_000;
const HELPLESS: u64 = 600_000;

impl World {
    /// From the beginning to the end.
    pub fn run(&mut self) {
        let step = self.scenario.step;
        let end = crate::world::after(self.scenario.start, self.scenario.duration);
        let mut before: Option<Timestamp> = None;
        let mut pools: Option<(u64, (usize, usize, usize))> = None;
        while self.now <= end {
            self.happen(before);
            self.depart();
            self.arrive();
            self.boot();
            self.migrate();
            self.report();
            self.place();
            let there = self.what_pools_see();
            let due = |(at, before): (u64, (usize, usize, usize))| {
                let helpless = there.2 > 0 && there == before;
                self.elapsed() >= at + if helpless { HELPLESS } else { POOLS }
            };
            if pools.is_none_or(due) {
                pools = Some((self.elapsed(), there));
                self.pool();
            }
            self.laws();
            self.rebalance();
            self.migrate();
            self.laws();
            self.count(step.0);
            before = Some(self.now);
            self.now = crate::world::after(self.now, step);
        }
    }

    /// Hosts that are ready, Containers, and those that wait.
    fn what_pools_see(&self) -> (usize, usize, usize) {
        let up = self.machines.values();
        let up = up.filter(|m| m.ready <= self.now && !m.ended).count();
        let waits = |c: &&Arc<Container>| c.status.as_ref().is_none_or(|s| s.host.is_none());
        let waiting = self.objects.containers.iter().filter(waits).count();
        (up, self.objects.containers.len(), waiting)
    }

    fn laws(&mut self) {
        self.capacity();
        self.budgets();
    }

    /// Nothing holds more than it can give: what is there, and what is on its way.
    fn capacity(&mut self) {
        let mut taken: BTreeMap<&str, Resources> = BTreeMap::new();
        let targets: BTreeMap<String, &str> = self
            .objects
            .migrations
            .iter()
            .filter(|m| !is_finished(m))
            .filter_map(|m| Some((moved(m), m.status.as_ref()?.target.as_deref()?)))
            .collect();
        for container in &self.objects.containers {
            let Some(status) = &container.status else {
                continue;
            };
            let size = status.allocation.clone().unwrap_or_default().resources();
            let target = targets.get(&full_name(container)).copied();
            for host in [status.host.as_deref(), target].into_iter().flatten() {
                let sum = taken.entry(host).or_default();
                sum.cpu = sum.cpu.saturating_add(size.cpu);
                sum.memory = sum.memory.saturating_add(size.memory);
                sum.disk = sum.disk.saturating_add(size.disk);
            }
        }
        let mut broken = vec![];
        for (host, sum) in taken {
            let room = self.machines.get(host).map(|m| m.room).unwrap_or_default();
            if sum.cpu > room.cpu || sum.memory > room.memory || sum.disk > room.disk {
                broken.push(format!("{host} holds more than it can give"));
            }
        }
        broken.into_iter().for_each(|b| self.account.broken(b));
    }

    fn budgets(&mut self) {
        let mut broken = vec![];
        for policy in &self.policies {
            let name = policy.name_any();
            let most = &policy.spec.budgets;
            let own: Vec<&Arc<Migration>> = self
                .objects
                .migrations
                .iter()
                .filter(|m| m.labels().get(POLICY_LABEL) == Some(&name))
                .collect();
            let moving: Vec<&&Arc<Migration>> = own.iter().filter(|m| !is_finished(m)).collect();
            let mut hosts: BTreeMap<&String, u32> = BTreeMap::new();
            let mut tenants: BTreeMap<String, u32> = BTreeMap::new();
            for migration in &moving {
                let status = migration.status.as_ref();
                let ends = [
                    status.and_then(|s| s.source.as_ref()),
                    status.and_then(|s| s.target.as_ref()),
                ];
                for host in ends.into_iter().flatten() {
                    *hosts.entry(host).or_default() += 1;
                }
                *tenants
                    .entry(migration.namespace().unwrap_or_default())
                    .or_default() += 1;
            }
            let lately = |m: &&&Arc<Migration>| {
                m.creation_timestamp()
                    .is_some_and(|t| self.now.duration_since(t.0) < HOUR)
            };
            let hour = own.iter().filter(lately).count();
            let over = moving.len() > most.total as usize
                || hosts.values().any(|n| *n > most.per_host)
                || tenants.values().any(|n| *n > most.per_tenant)
                || hour > most.per_hour as usize;
            if over {
                broken.push(format!("{name} exceeds a budget"));
            }
        }
        broken.into_iter().for_each(|b| self.account.broken(b));
    }

    fn count(&mut self, step: u64) {
        let at = self.elapsed();
        let prices: BTreeMap<String, u64> = self
            .objects
            .machine_types
            .iter()
            .filter_map(|t| Some((t.name_any(), micros(t.spec.price_per_hour.as_deref()?)?)))
            .collect();
        let mut promised = (0u128, 0u128);
        let mut hot = vec![];
        for host in &self.objects.hosts {
            let Some(machine) = self.machines.get(&host.name_any()) else {
                continue;
            };
            let kind = host.spec.machine_type.as_ref();
            let price = kind.and_then(|k| prices.get(k)).copied().unwrap_or(0);
            // A machine is paid for from the order on.
            self.account.spent += u128::from(price) * u128::from(step);
            if machine.ready > self.now || machine.ended {
                continue;
            }
            self.account.host_time += step;
            promised.1 += u128::from(machine.room.cpu.0);
            let usage = host
                .status
                .as_ref()
                .and_then(|s| s.usage.clone())
                .unwrap_or_default();
            let share = |used: u64, all: u64| used * 100 / all.max(1);
            let over = share(usage.cpu.0, machine.room.cpu.0) > 85
                || share(usage.memory.0, machine.room.memory.0) > 90;
            hot.push((host.name_any(), over));
        }
        for (name, over) in hot {
            if !over {
                self.account.hot_since.remove(&name);
                continue;
            }
            self.account.hot += step;
            let since = *self.account.hot_since.entry(name).or_insert(at);
            self.account.longest_hot = self.account.longest_hot.max(at + step - since);
        }
        let most = self.machines.len() as u64;
        self.account.most_hosts = self.account.most_hosts.max(most);
        self.containers(step, promised);
    }

    fn containers(&mut self, step: u64, mut promised: (u128, u128)) {
        for container in &self.objects.containers {
            let status = container.status.as_ref();
            match status.filter(|s| s.host.is_some()) {
                None => self.account.waiting += step,
                Some(status) => {
                    let size = status.allocation.clone().unwrap_or_default();
                    promised.0 += u128::from(size.cpu.0);
                    let alone = self.alone(container);
                    self.account.alone += u128::from(alone) * u128::from(step);
                }
            }
        }
        self.account.promised.0 += promised.0 * u128::from(step);
        self.account.promised.1 += promised.1 * u128::from(step);
    }

    /// The cheapest machine that a container would have for itself.
    fn alone(&self, container: &Container) -> u64 {
        let status = container.status.as_ref();
        let size = status
            .and_then(|s| s.allocation.clone())
            .unwrap_or_default();
        let fits = |t: &&Arc<skysail_schemas::MachineType>| {
            let room = t.spec.memory.0 - (128 << 20).min(t.spec.memory.0 / 8);
            t.spec.cpu >= size.cpu
                && room >= size.memory.0
                && t.spec.disk.0 / 20 * 19 >= size.disk.0
        };
        let types = self.objects.machine_types.iter().filter(fits);
        let prices = types.filter_map(|t| micros(t.spec.price_per_hour.as_deref()?));
        prices.min().unwrap_or(0)
    }
}

fn is_finished(migration: &Migration) -> bool {
    let status = migration.status.as_ref();
    status.is_some_and(|s| s.phase.is_finished())
}

fn moved(migration: &Migration) -> String {
    format!(
        "{}/{}",
        migration.namespace().unwrap_or_default(),
        migration.spec.container
    )
}
