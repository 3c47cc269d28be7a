//! What hosts and containers use, smoothed. Pure: readings and the time come in.
//!
//! An agent reports when something changed, and otherwise once a minute: between two reports the last one holds. One
//! that has not reported for longer is *unknown*, which is not zero; so is one whose figures cannot be.

use crate::placement::request::full_name;
use crate::placement::snapshot::Objects;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use skysail_schemas::host::{HostStatus, HostUsage};
use std::collections::BTreeMap;

/// After this time, two thirds of a change are taken for true.
const TIME_CONSTANT: f64 = 2.0;
/// The longest time between two reports of an agent that lives, with some patience.
const FRESH: SignedDuration = SignedDuration::from_secs(90);

/// A value that follows its readings slowly.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Smooth {
    base: f64,
    reading: f64,
    since: Timestamp,
}

impl Smooth {
    fn new(reading: f64, now: Timestamp) -> Self {
        Self {
            base: reading,
            reading,
            since: now,
        }
    }

    fn at(&self, now: Timestamp) -> f64 {
        let passed = now.duration_since(self.since).as_secs_f64().max(0.0);
        self.reading + (self.base - self.reading) * (-passed / TIME_CONSTANT).exp()
    }

    fn read(&mut self, reading: f64, now: Timestamp) {
        *self = Self {
            base: self.at(now),
            reading,
            since: now,
        };
    }
}

/// What a host uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Thousandths of a core.
    pub cpu: f64,
    /// Bytes.
    pub memory: f64,
    /// Percent of time in which something waited for a core, where it is known.
    pub cpu_pressure: Option<f64>,
    /// The same for memory.
    pub memory_pressure: Option<f64>,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Use {
    /// Thousandths of a core.
    pub cpu: f64,
    /// Bytes.
    pub memory: f64,
    /// Bytes of its private layer, where it is known.
    pub disk: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Known {
    No(String),
    Yes {
        reported: Timestamp,
        cpu: Smooth,
        memory: Smooth,
        cpu_pressure: Option<Smooth>,
        memory_pressure: Option<Smooth>,
    },
}

/// The smoothed readings of a fleet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Signals {
    hosts: BTreeMap<String, Known>,
    containers: BTreeMap<String, (Smooth, Smooth, Option<u64>)>,
}

impl Signals {
    /// Takes in what is reported now. Forgets what is gone.
    pub fn observe(&mut self, objects: &Objects, now: Timestamp) {
        let mut before = std::mem::take(&mut self.hosts);
        for host in &objects.hosts {
            let name = host.name_any();
            let old = before.remove(&name);
            let known = match host.status.as_ref().ok_or("it has not reported yet") {
                Ok(status) => reading(status, old, now),
                Err(why) => Known::No(why.to_owned()),
            };
            self.hosts.insert(name, known);
        }
        let mut before = std::mem::take(&mut self.containers);
        for container in &objects.containers {
            let status = container.status.as_ref();
            let Some(usage) = status.and_then(|s| s.usage.as_ref()) else {
                continue;
            };
            let name = full_name(container);
            let (cpu, memory) = (usage.cpu.0 as f64, usage.memory.0 as f64);
            let (mut c, mut m, _) = before.remove(&name).unwrap_or((
                Smooth::new(cpu, now),
                Smooth::new(memory, now),
                None,
            ));
            if c.reading != cpu {
                c.read(cpu, now);
            }
            if m.reading != memory {
                m.read(memory, now);
            }
            self.containers
                .insert(name, (c, m, usage.disk.map(|d| d.0)));
        }
    }

    /// What a host uses.
    ///
    /// # Errors
    /// Why it is not known.
    pub fn host(&self, name: &str, now: Timestamp) -> Result<Load, String> {
        match self.hosts.get(name) {
            None => Err("it has not reported yet".to_owned()),
            Some(Known::No(why)) => Err(why.clone()),
            Some(Known::Yes { reported, .. }) if now.duration_since(*reported) > FRESH => {
                Err(format!("its agent has not reported since {reported:.0}"))
            }
            Some(Known::Yes {
                cpu,
                memory,
                cpu_pressure,
                memory_pressure,
                ..
            }) => Ok(Load {
                cpu: cpu.at(now),
                memory: memory.at(now),
                cpu_pressure: cpu_pressure.map(|p| p.at(now)),
                memory_pressure: memory_pressure.map(|p| p.at(now)),
            }),
        }
    }

    /// What a container uses, where it is known.
    pub fn container(&self, name: &str, now: Timestamp) -> Option<Use> {
        let (cpu, memory, disk) = self.containers.get(name)?;
        Some(Use {
            cpu: cpu.at(now),
            memory: memory.at(now),
            disk: *disk,
        })
    }
}

fn reading(status: &HostStatus, old: Option<Known>, now: Timestamp) -> Known {
    let (Some(usage), Some(reported)) = (&status.usage, &status.last_report) else {
        return Known::No("it has not reported yet".to_owned());
    };
    let reported = reported.0;
    if reported.duration_since(now) > FRESH {
        return Known::No(format!(
            "it says that it reported at {reported:.0}, which is still to come: its clock is wrong"
        ));
    }
    if let Some(nonsense) = nonsense(status, usage) {
        return Known::No(nonsense);
    }
    let (cpu, memory) = (usage.cpu.0 as f64, usage.memory.0 as f64);
    let percent = |p: u32| f64::from(p) / 100.0;
    let mut all = [
        Some(cpu),
        Some(memory),
        usage.cpu_pressure.map(percent),
        usage.memory_pressure.map(percent),
    ]
    .map(|v| v.map(|v| Smooth::new(v, now)));
    if let Some(Known::Yes {
        reported: at,
        cpu,
        memory,
        cpu_pressure,
        memory_pressure,
    }) = old
        // What was known long ago says nothing of now.
        && reported.duration_since(at) <= FRESH
    {
        let before = [Some(cpu), Some(memory), cpu_pressure, memory_pressure];
        for (new, before) in all.iter_mut().zip(before) {
            if let (Some(new), Some(mut before)) = (new.as_mut(), before) {
                if before.reading != new.reading {
                    before.read(new.reading, now);
                }
                *new = before;
            }
        }
    }
    let [Some(cpu), Some(memory), cpu_pressure, memory_pressure] = all else {
        return Known::No("it has not reported yet".to_owned());
    };
    Known::Yes {
        reported,
        cpu,
        memory,
        cpu_pressure,
        memory_pressure,
    }
}

/// Figures that no machine can have.
fn nonsense(status: &HostStatus, usage: &HostUsage) -> Option<String> {
    let Some(capacity) = status.capacity.or(status.allocatable) else {
        return Some("it does not say what it has".to_owned());
    };
    // A reading may take in a moment of a neighbour; twice the machine may not be.
    if usage.cpu.0 > capacity.cpu.0.saturating_mul(2).saturating_add(1000) {
        return Some(format!(
            "it says that it uses {} of {} cores, which cannot be",
            usage.cpu, capacity.cpu
        ));
    }
    if usage.memory.0 > capacity.memory.0.saturating_mul(2) {
        return Some(format!(
            "it says that it uses {} of {} of memory, which cannot be",
            usage.memory, capacity.memory
        ));
    }
    let pressures = [usage.cpu_pressure, usage.memory_pressure];
    let over = pressures.into_iter().flatten().find(|p| *p > 10_000)?;
    Some(format!(
        "it says that {}% of the time something waited, which cannot be",
        over / 100
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skysail_schemas::Host;
    use std::sync::Arc;

    fn seen(usage: serde_json::Value, reported: Timestamp) -> Objects {
        let host: Host = serde_json::from_value(json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Host", "metadata": {"name": "h"}, "spec": {},
            "status": {"capacity": {"cpu": "2", "memory": "2Gi", "disk": "1Gi"}, "usage": usage, "lastReport": reported}
        }))
        .unwrap();
        Objects {
            hosts: vec![Arc::new(host)],
            ..Objects::default()
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_jump_is_believed_after_a_few_seconds_although_nothing_more_is_reported() {
        let mut signals = Signals::default();
        let usage = |cpu: &str| json!({"cpu": cpu, "memory": "1Gi"});
        signals.observe(&seen(usage("100m"), at(0)), at(0));
        signals.observe(&seen(usage("2"), at(2)), at(2));
        let cpu = |now| signals.host("h", now).unwrap().cpu;
        assert!(cpu(at(2)) < 101.0, "{}", cpu(at(2)));
        assert!(cpu(at(4)) > 1200.0 && cpu(at(10)) > 1900.0);
    }

    #[test]
    fn an_agent_that_stops_reporting_is_unknown_and_not_zero() {
        let mut signals = Signals::default();
        signals.observe(&seen(json!({"cpu": "1", "memory": "1Gi"}), at(0)), at(0));
        assert!(signals.host("h", at(60)).is_ok());
        let gone = signals.host("h", at(200)).unwrap_err();
        assert!(gone.contains("has not reported since"), "{gone}");
        // It comes back: what it was before says nothing of now.
        signals.observe(
            &seen(json!({"cpu": "100m", "memory": "1Gi"}), at(300)),
            at(300),
        );
        assert_eq!(signals.host("h", at(300)).unwrap().cpu, 100.0);
    }

    #[test]
    fn figures_that_cannot_be_are_refused_with_what_they_say() {
        let cases = [
            (
                json!({"cpu": "900", "memory": "1Gi"}),
                at(0),
                "900 of 2 cores",
            ),
            (json!({"cpu": "1", "memory": "9Ti"}), at(0), "9Ti of 2Gi"),
            (
                json!({"cpu": "1", "memory": "1Gi", "cpuPressure": 60000}),
                at(0),
                "600%",
            ),
            (
                json!({"cpu": "1", "memory": "1Gi"}),
                at(5000),
                "clock is wrong",
            ),
        ];
        for (usage, reported, words) in cases {
            let mut signals = Signals::default();
            signals.observe(&seen(usage, reported), at(0));
            let why = signals.host("h", at(0)).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
