//! Everything there is at one moment: the objects that the controllers see, and behind them what the controllers do not
//! see (machines that boot, what containers really use).

use crate::account::Account;
use crate::random::Random;
use crate::scenario::{HostWish, MachineWish, Scenario};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skysail_controllers::placement::snapshot::Objects;
use skysail_controllers::rebalance::signals::Signals;
use skysail_schemas::duration::Span;
use skysail_schemas::host::{Host, Resources};
use skysail_schemas::quantity::Bytes;
use skysail_schemas::{Container, HostPool, RebalancePolicy};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the system keeps for itself of a machine's memory.
const RESERVED: u64 = 128 << 20;

/// A machine behind a Host.
#[derive(Debug, Clone)]
pub struct Machine {
    /// When it is ready.
    pub ready: Timestamp,
    /// What containers may take.
    pub room: Resources,
    /// It ended.
    pub ended: bool,
    /// Its agent says nothing.
    pub silent: bool,
    /// When its cloud takes it back.
    pub taken: Option<Timestamp>,
}

/// A container behind a Container.
#[derive(Debug, Clone)]
pub struct Life {
    /// Which workload it is of.
    pub workload: usize,
    /// When it came.
    pub came: Timestamp,
    /// When it goes.
    pub goes: Option<Timestamp>,
    /// Where it is in the period of its load, in milliseconds.
    pub phase: u64,
    /// Its own chance.
    pub random: Random,
    /// It was told that it waits.
    pub said: bool,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Line {
    /// Milliseconds after the beginning.
    pub at: u64,
    /// A sentence.
    pub text: String,
}

/// See the module.
pub struct World {
    /// What is simulated.
    pub scenario: Scenario,
    /// The clock.
    pub now: Timestamp,
    /// What controllers see.
    pub objects: Objects,
    /// Pools.
    pub pools: Vec<Arc<HostPool>>,
    /// Policies.
    pub policies: Vec<Arc<RebalancePolicy>>,
    /// What the rebalancer keeps of use.
    pub signals: Signals,
    /// By host.
    pub machines: BTreeMap<String, Machine>,
    /// By namespace and name.
    pub lives: BTreeMap<String, Life>,
    /// MachineTypes that cannot be had, until when.
    pub exhausted: BTreeMap<String, Timestamp>,
    /// By workload: cores in percent, where an event changed them.
    pub loads: BTreeMap<usize, u32>,
    /// By workload: when the next one comes, how many came, and its chance.
    pub arrivals: Vec<(Option<Timestamp>, u32, Random)>,
    /// What happened.
    pub log: Vec<Line>,
    /// What it came to.
    pub account: Account,
    serial: u64,
}

/// An object from what its manifest would say.
pub fn object<T: DeserializeOwned>(kind: &str, metadata: Value, spec: Value) -> Option<T> {
    let all = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
    serde_json::from_value(all).ok()
}

/// Conditions that are all true.
pub fn conditions(kinds: &[&str], now: Timestamp) -> Value {
    let one = |kind: &&str| json!({"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": now});
    kinds.iter().map(one).collect()
}

impl World {
    /// The beginning.
    pub fn new(scenario: Scenario) -> Self {
        let now = scenario.start;
        let arrivals = scenario.workloads.iter().map(|w| {
            let random = Random::new(scenario.seed, &format!("{}/{}", w.namespace, w.name));
            (Some(after(now, w.at)), 0, random)
        });
        let mut world = Self {
            now,
            arrivals: arrivals.collect(),
            objects: Objects::default(),
            pools: vec![],
            policies: vec![],
            signals: Signals::default(),
            machines: BTreeMap::new(),
            lives: BTreeMap::new(),
            exhausted: BTreeMap::new(),
            loads: BTreeMap::new(),
            log: vec![],
            account: Account::default(),
            serial: 0,
            scenario,
        };
        world.catalogue();
        world.tenants();
        for wish in world.scenario.hosts.clone() {
            world.existing(&wish);
        }
        world
    }

    /// A name that no other object has.
    pub fn uid(&mut self) -> String {
        self.serial += 1;
        format!("{:08x}", self.serial)
    }

    /// Milliseconds since the beginning.
    pub fn elapsed(&self) -> u64 {
        let passed = self.now.duration_since(self.scenario.start).as_millis();
        u64::try_from(passed).unwrap_or(0)
    }

    /// Writes down what happened.
    pub fn say(&mut self, text: impl Into<String>) {
        let at = self.elapsed();
        let text = text.into();
        self.log.push(Line { at, text });
    }

    fn catalogue(&mut self) {
        let scenario = self.scenario.clone();
        for cloud in &scenario.clouds {
            let spec = json!({"driver": "sandbox", "sandbox": {"subnet": "10.1.0.0/24"}, "region": cloud.region, "zone": cloud.zone});
            let uid = self.uid();
            let made = object("Cloud", json!({"name": cloud.name, "uid": uid}), spec);
            self.objects.clouds.extend(made.map(Arc::new));
            for machine in &cloud.machine_types {
                let spec = json!({"cloud": cloud.name, "cpu": machine.cpu, "memory": machine.memory, "disk": machine.disk, "pricePerHour": machine.price});
                let name = format!("{}-{}", cloud.name, machine.name);
                let made = object("MachineType", json!({"name": name, "uid": name}), spec);
                self.objects.machine_types.extend(made.map(Arc::new));
            }
        }
        for pool in &scenario.pools {
            let uid = self.uid();
            let mut made = HostPool::new(&pool.name, pool.spec.clone());
            made.metadata.uid = Some(uid);
            self.pools.push(Arc::new(made));
        }
        for policy in &scenario.policies {
            let uid = self.uid();
            let mut made = RebalancePolicy::new(&policy.name, policy.spec.clone());
            made.metadata.uid = Some(uid);
            self.policies.push(Arc::new(made));
        }
    }

    fn tenants(&mut self) {
        let scenario = self.scenario.clone();
        let mut namespaces: Vec<&String> =
            scenario.workloads.iter().map(|w| &w.namespace).collect();
        namespaces.sort();
        namespaces.dedup();
        for namespace in namespaces {
            let core =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            let made = serde_json::from_value(core).ok();
            self.objects.namespaces.extend(made.map(Arc::new));
            for size in &scenario.instance_types {
                let mut made = skysail_schemas::InstanceType::new(&size.name, size.spec.clone());
                made.metadata.namespace = Some(namespace.clone());
                self.objects.instance_types.push(Arc::new(made));
            }
        }
        let made: Option<skysail_schemas::Image> =
            object("Image", json!({"name": "image"}), json!({}));
        if let Some(mut image) = made {
            let status =
                json!({"digest": "sha256:0", "conditions": conditions(&["Ready"], self.now)});
            image.status = serde_json::from_value(status).ok();
            self.objects.images.push(Arc::new(image));
        }
    }

    fn existing(&mut self, wish: &HostWish) {
        let names: Vec<String> = match wish.count {
            None => vec![wish.name.clone()],
            Some(count) => (0..count).map(|i| format!("{}-{i}", wish.name)).collect(),
        };
        for name in names {
            let uid = self.uid();
            let metadata = json!({"name": name, "uid": uid, "labels": wish.labels, "creationTimestamp": self.now});
            let kind = format!("{}-{}", wish.cloud, wish.machine_type);
            let spec = json!({"cloud": wish.cloud, "machineType": kind});
            if let Some(host) = object("Host", metadata, spec) {
                self.add(host, true);
            }
        }
    }

    /// A machine begins to boot, or is there.
    pub fn add(&mut self, host: Host, up: bool) {
        let kind = host.spec.machine_type.clone().unwrap_or_default();
        let found = self.wish_of(&kind).map(|(boot, m)| (boot, room(m)));
        let (boot, room) = found.unwrap_or_default();
        let ready = if up { self.now } else { after(self.now, boot) };
        let machine = Machine {
            ready,
            room,
            ended: false,
            silent: false,
            taken: None,
        };
        let name = host.name_any();
        self.machines.insert(name.clone(), machine);
        self.objects.hosts.push(Arc::new(host));
        if up {
            self.come_up(&name);
        }
    }

    fn wish_of(&self, kind: &str) -> Option<(Span, &MachineWish)> {
        self.scenario.clouds.iter().find_map(|c| {
            let named = |m: &&MachineWish| format!("{}-{}", c.name, m.name) == kind;
            Some((c.boot, c.machine_types.iter().find(named)?))
        })
    }

    /// The agent of a machine reports for the first time.
    pub fn come_up(&mut self, name: &str) {
        let now = self.now;
        let Some(room) = self.machines.get(name).map(|m| m.room) else {
            return;
        };
        if let Some(host) = self.host_mut(name) {
            let status = json!({
                "phase": "Running", "capacity": room, "allocatable": room, "images": ["sha256:0"],
                "conditions": conditions(&["Provisioned", "AgentAlive", "Ready"], now),
                "usage": {"cpu": "0", "memory": RESERVED.to_string(), "disk": "0"}, "lastReport": now,
            });
            host.status = serde_json::from_value(status).ok();
        }
    }

    /// A Host, to be changed.
    pub fn host_mut(&mut self, name: &str) -> Option<&mut Host> {
        let mut hosts = self.objects.hosts.iter_mut();
        let found = hosts.find(|h| h.metadata.name.as_deref() == Some(name))?;
        Some(Arc::make_mut(found))
    }

    /// A Container, to be changed.
    pub fn container_mut(&mut self, namespace: &str, name: &str) -> Option<&mut Container> {
        let is = |c: &&mut Arc<Container>| {
            c.metadata.name.as_deref() == Some(name)
                && c.metadata.namespace.as_deref() == Some(namespace)
        };
        let found = self.objects.containers.iter_mut().find(is)?;
        Some(Arc::make_mut(found))
    }
}

/// What containers may take of a machine.
fn room(machine: &MachineWish) -> Resources {
    let reserved = RESERVED.min(machine.memory.0 / 8);
    Resources {
        cpu: machine.cpu,
        memory: Bytes((machine.memory.0 - reserved) >> 20 << 20),
        disk: Bytes((machine.disk.0 - machine.disk.0 / 20) >> 20 << 20),
    }
}

/// A time later by a span.
pub fn after(time: Timestamp, span: Span) -> Timestamp {
    let span = SignedDuration::try_from(span.duration()).unwrap_or(SignedDuration::MAX);
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// As the API has it.
pub fn time(at: Timestamp) -> Time {
    Time(at)
}
