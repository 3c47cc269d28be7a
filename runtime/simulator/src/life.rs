//! Containers come, use something, and go; things happen.

use crate::scenario::{Happening, Trace};
use crate::world::{Life, World, after, object};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use skysail_controllers::placement::request::full_name;
use skysail_schemas::container::ContainerUsage;
use skysail_schemas::host::HostUsage;
use skysail_schemas::quantity::{Bytes, Cpu};
use skysail_schemas::rebalance_policy::SPOT_NOTICE;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the system itself uses of a host's memory.
const SYSTEM: u64 = 64 << 20;

impl World {
    /// Those whose time it is come.
    pub fn arrive(&mut self) {
        for number in 0..self.arrivals.len() {
            while let (Some(at), ..) = self.arrivals[number]
                && at <= self.now
            {
                let first = self.arrivals[number].1 == 0;
                let count = if first {
                    self.scenario.workloads[number].count
                } else {
                    1
                };
                (0..count).for_each(|_| self.one(number));
                let workload = &self.scenario.workloads[number];
                let until = workload.until.map(|u| after(self.scenario.start, u));
                let every = workload.every;
                let (next, came, random) = &mut self.arrivals[number];
                *came = (*came).max(1);
                *next = every.map(|every| {
                    let wait = skysail_schemas::duration::Span(random.wait(every.0));
                    after(at, wait)
                });
                if next.zip(until).is_some_and(|(next, until)| next > until) {
                    *next = None;
                }
            }
        }
    }

    fn one(&mut self, number: usize) {
        let workload = self.scenario.workloads[number].clone();
        let uid = self.uid();
        let (_, came, random) = &mut self.arrivals[number];
        let name = format!("{}-{came}", workload.name);
        *came += 1;
        let goes = workload.lifetime.map(|mean| {
            after(
                self.now,
                skysail_schemas::duration::Span(random.wait(mean.0)),
            )
        });
        let phase = if workload.cpu.scattered {
            random.below(workload.cpu.period.0)
        } else {
            0
        };
        let random = crate::random::Random::new(
            self.scenario.seed,
            &format!("{}/{name}", workload.namespace),
        );
        let metadata = json!({"name": name, "namespace": workload.namespace, "uid": uid, "labels": workload.labels, "creationTimestamp": self.now, "generation": 1});
        let spec = json!({"image": "image", "instanceType": workload.instance_type, "placement": workload.placement});
        let made: Option<skysail_schemas::Container> = object("Container", metadata, spec);
        let Some(container) = made else {
            return;
        };
        let life = Life {
            workload: number,
            came: self.now,
            goes,
            phase,
            random,
            said: false,
        };
        self.account.arrived += 1;
        self.lives.insert(full_name(&container), life);
        self.objects.containers.push(Arc::new(container));
    }

    /// Those whose time is over go, and what moves them with them.
    pub fn depart(&mut self) {
        let now = self.now;
        let over: Vec<String> = self
            .lives
            .iter()
            .filter(|(_, l)| l.goes.is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            self.lives.remove(&name);
            self.objects.containers.retain(|c| full_name(c) != name);
            self.objects.migrations.retain(|m| {
                format!("{}/{}", m.namespace().unwrap_or_default(), m.spec.container) != name
            });
            self.account.left += 1;
        }
    }

    /// What containers and hosts use is reported.
    pub fn report(&mut self) {
        let (now, start) = (self.now, self.scenario.start);
        let mut by_host: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for container in &mut self.objects.containers {
            let Some(life) = self.lives.get_mut(&full_name(container)) else {
                continue;
            };
            let workload = &self.scenario.workloads[life.workload];
            let container = Arc::make_mut(container);
            let Some(status) = container.status.as_mut() else {
                continue;
            };
            let (Some(host), Some(all)) = (status.host.clone(), status.allocation.as_ref()) else {
                continue;
            };
            let age = now.duration_since(life.came).as_millis();
            let age = u64::try_from(age).unwrap_or(0);
            let clock =
                u64::try_from(now.duration_since(start).as_millis()).unwrap_or(0) + life.phase;
            let mut percent = |trace: &Trace| share(trace, age, clock, life.random.share());
            let cpu = match self.loads.get(&life.workload) {
                Some(fixed) => f64::from(*fixed),
                None => percent(&workload.cpu),
            };
            let memory = percent(&workload.memory);
            let of = |all: u64, percent: f64| (all as f64 * percent / 100.0) as u64;
            let (cpu, memory) = (of(all.cpu.0, cpu), of(all.memory.0, memory));
            let sum = by_host.entry(host).or_default();
            *sum = (sum.0 + cpu, sum.1 + memory);
            status.usage = Some(ContainerUsage {
                cpu: Cpu(cpu),
                memory: Bytes(memory),
                pids: 10,
                disk: Some(Bytes(64 << 20)),
            });
        }
        for host in &mut self.objects.hosts {
            let name = host.name_any();
            let Some(machine) = self.machines.get(&name) else {
                continue;
            };
            if machine.ended || machine.silent || machine.ready > now {
                continue;
            }
            let (cpu, memory) = by_host.get(&name).copied().unwrap_or_default();
            let status = Arc::make_mut(host).status.get_or_insert_default();
            status.last_report = Some(crate::world::time(now));
            status.usage = Some(HostUsage {
                cpu: Cpu(cpu.min(machine.room.cpu.0)),
                memory: Bytes(memory + SYSTEM),
                ..HostUsage::default()
            });
        }
    }

    /// What the scenario says that happens now, since `before`.
    pub fn happen(&mut self, before: Option<Timestamp>) {
        let (start, now) = (self.scenario.start, self.now);
        let is_due = |h: &&Happening| {
            let at = after(start, h.at);
            at <= now && before.is_none_or(|before| at > before)
        };
        let due: Vec<Happening> = self
            .scenario
            .events
            .iter()
            .filter(is_due)
            .cloned()
            .collect();
        for event in due {
            self.happens(&event);
        }
    }

    fn happens(&mut self, event: &Happening) {
        if let Some(name) = event.cordon.as_ref().or(event.uncordon.as_ref()) {
            let closed = event.cordon.is_some();
            if let Some(host) = self.host_mut(name) {
                host.spec.unschedulable = closed;
            }
            self.say(format!(
                "{name} is {}",
                if closed { "cordoned" } else { "open again" }
            ));
        }
        for (name, ends) in [(&event.fail, true), (&event.silence, false)] {
            let Some(name) = name else { continue };
            if let Some(machine) = self.machines.get_mut(name) {
                (machine.ended, machine.silent) = (ends, !ends);
            }
            if ends {
                self.ready(name, false);
            }
            self.say(format!(
                "{name} {}",
                if ends {
                    "fails"
                } else {
                    "says nothing any more"
                }
            ));
        }
        if let Some(name) = &event.recover {
            if let Some(machine) = self.machines.get_mut(name) {
                (machine.ended, machine.silent) = (false, false);
            }
            self.ready(name, true);
            self.say(format!("{name} is back"));
        }
        if let Some(name) = &event.spot_notice {
            let at = after(self.now, skysail_schemas::duration::Span(120_000));
            if let Some(machine) = self.machines.get_mut(name) {
                machine.taken = Some(at);
            }
            if let Some(host) = self.host_mut(name) {
                host.annotations_mut()
                    .insert(SPOT_NOTICE.into(), at.to_string());
                host.spec.unschedulable = true;
            }
            self.say(format!("{name} is taken back in two minutes"));
        }
        self.markets(event);
    }

    fn markets(&mut self, event: &Happening) {
        if let Some(new) = &event.price {
            for kind in &mut self.objects.machine_types {
                if kind.name_any() == new.machine_type {
                    Arc::make_mut(kind).spec.price_per_hour = Some(new.to.clone());
                }
            }
            self.say(format!("{} costs {} per hour", new.machine_type, new.to));
        }
        if let Some(none) = &event.exhaust {
            let until = after(self.now, none.lasts);
            self.exhausted.insert(none.machine_type.clone(), until);
            self.say(format!(
                "{} cannot be had for {}",
                none.machine_type, none.lasts
            ));
        }
        if let Some(new) = &event.load {
            let named = |w: &crate::scenario::Workload| w.name == new.workload;
            if let Some(number) = self.scenario.workloads.iter().position(named) {
                self.loads.insert(number, new.cpu);
            }
            self.say(format!("{} uses {}% of its cores", new.workload, new.cpu));
        }
    }

    /// Says of a host whether it is ready.
    pub fn ready(&mut self, name: &str, ready: bool) {
        let now = self.now;
        if let Some(host) = self.host_mut(name)
            && let Some(status) = host.status.as_mut()
        {
            for condition in status.conditions.iter_mut().filter(|c| c.type_ == "Ready") {
                condition.status = if ready { "True" } else { "False" }.into();
                condition.reason = if ready { "Ready" } else { "AgentSilent" }.into();
                condition.last_transition_time = crate::world::time(now);
            }
        }
    }
}

/// What a trace says, in percent.
fn share(trace: &Trace, age: u64, clock: u64, chance: f64) -> f64 {
    let base = f64::from(trace.base);
    let level = if trace.points.is_empty() {
        match trace.peak {
            None => base,
            Some(peak) => {
                let period = trace.period.0.max(1);
                let turn = (clock % period) as f64 / period as f64;
                let height = (1.0 - (turn * std::f64::consts::TAU).cos()) / 2.0;
                base + (f64::from(peak) - base) * height
            }
        }
    } else {
        let past = trace.points.iter().take_while(|(at, _)| at.0 <= age);
        past.last().map_or(base, |(_, percent)| f64::from(*percent))
    };
    (level + f64::from(trace.noise) * (chance * 2.0 - 1.0)).clamp(0.0, 100.0)
}
