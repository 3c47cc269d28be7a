//! A working copy of the snapshot: what is free while a batch is placed. Pure.
//!
//! Everything that a choice needs is counted when a Container is put down or taken
//! up, nothing is counted again per choice: room by host, Containers that a selector
//! picks by domain, those that keep others away. Containers with the same wishes
//! share a [`Class`], whose fixed rules are looked at once per host.

use super::class::{Class, Term};
use super::labels::{Group, Interned, Repulsion};
use super::place::Unplaceable;
use super::request::Request;
use super::snapshot::{HostView, Snapshot};
use kube::ResourceExt;
use skysail_schemas::Container;
use skysail_schemas::host::Resources;
use skysail_schemas::placement::Topology;
use std::collections::HashMap;
use std::sync::Arc;

/// What a choice reads of a Host, side by side in memory.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub free: Resources,
    pub used: Resources,
    /// Thousandths of the host per unit.
    pub per_cpu: f64,
    pub per_memory: f64,
    pub price: u64,
    pub domains: [u32; 4],
    /// Containers by their profile.
    pub profiles: [u16; 4],
}

/// A Container on the board.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub container: Arc<Container>,
    pub namespace: Arc<str>,
    pub host: usize,
    pub taken: Resources,
    pub profile: Option<usize>,
    /// Rules of required anti-affinity that it carries.
    pub carries: Vec<usize>,
    pub lifted: bool,
}

/// What a tenant takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    pub resources: Resources,
    pub containers: u64,
}

/// The state of a batch. Made from a [`Snapshot`] in time proportional to it; a placement then costs one pass over
/// the hosts that the Container's fixed rules allow.
#[derive(Debug, Clone)]
pub struct Board<'a> {
    /// What it was made from.
    pub snapshot: &'a Snapshot,
    pub(super) slots: Vec<Slot>,
    pub(super) pieces: Vec<Piece>,
    /// Numbers of pieces.
    pub(super) by_namespace: HashMap<Arc<str>, Vec<usize>>,
    pub(super) groups: Interned<Group>,
    pub(super) repulsions: Interned<Repulsion>,
    pub(super) classes: Interned<Class>,
    pub(super) tenants: HashMap<Arc<str>, Taken>,
    sizes: [usize; 4],
}

/// A Container that was put on a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put(pub(super) usize);

impl Slot {
    fn new(host: &HostView) -> Self {
        let all = host.allocatable;
        Self {
            free: all,
            used: Resources::default(),
            per_cpu: 1000.0 / all.cpu.0.max(1) as f64,
            per_memory: 1000.0 / all.memory.0.max(1) as f64,
            price: host.price.unwrap_or(u64::MAX),
            domains: host.domains,
            profiles: [0; 4],
        }
    }
}

/// The sum, or the difference, of each resource.
fn added(a: Resources, b: Resources) -> Resources {
    Resources {
        cpu: a.cpu.saturating_add(b.cpu),
        memory: a.memory.saturating_add(b.memory),
        disk: a.disk.saturating_add(b.disk),
    }
}

fn less(a: Resources, b: Resources) -> Resources {
    Resources {
        cpu: a.cpu.saturating_sub(b.cpu),
        memory: a.memory.saturating_sub(b.memory),
        disk: a.disk.saturating_sub(b.disk),
    }
}

impl<'a> Board<'a> {
    /// A board with everything that has a Host.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut board = Self {
            snapshot,
            slots: snapshot.hosts.iter().map(Slot::new).collect(),
            pieces: Vec::with_capacity(snapshot.residents.len() + snapshot.waiting.len()),
            by_namespace: HashMap::new(),
            groups: Interned::default(),
            repulsions: Interned::default(),
            classes: Interned::default(),
            tenants: HashMap::new(),
            sizes: snapshot.domains.each_ref().map(Vec::len),
        };
        for resident in &snapshot.residents {
            let namespace = board.namespace(resident.container.metadata.namespace.as_deref());
            let carries = board.carried(&resident.container, &namespace);
            board.put(Piece {
                container: resident.container.clone(),
                namespace,
                host: resident.host,
                taken: resident.taken,
                profile: resident.profile.map(|p| p as usize),
                carries,
                lifted: false,
            });
        }
        board
    }

    /// What is left on a Host.
    pub fn free(&self, host: usize) -> Resources {
        self.slots[host].free
    }

    /// Containers on a Host, with what each takes; those on their way here too.
    pub fn on(&self, host: usize) -> impl Iterator<Item = (&Arc<Container>, Resources)> {
        self.pieces
            .iter()
            .filter(move |p| p.host == host && !p.lifted)
            .map(|p| (&p.container, p.taken))
    }

    /// What a Container asks for, ready to be placed any number of times.
    ///
    /// # Errors
    /// When its InstanceType or Image is missing or its Namespace forbids it: no Host would do.
    pub fn request(&mut self, container: &Arc<Container>) -> Result<Request, Unplaceable> {
        Request::new(self, container)
    }

    /// Counts a Container on a Host, whether or not it fits.
    pub fn take(&mut self, request: &Request, host: usize) -> Put {
        let class = &self.classes.all[request.class];
        let piece = Piece {
            container: request.container.clone(),
            namespace: class.namespace.clone(),
            host,
            taken: class.wanted,
            profile: class.profile,
            carries: class.carries.clone(),
            lifted: false,
        };
        for group in &class.feeds {
            self.groups.all[*group].add(self.slots[host].domains);
        }
        self.put(piece)
    }

    /// Takes a Container up again.
    pub fn lift(&mut self, put: Put) {
        let Some(piece) = self.pieces.get_mut(put.0) else {
            return;
        };
        if std::mem::replace(&mut piece.lifted, true) {
            return;
        }
        let piece = &self.pieces[put.0];
        let slot = &mut self.slots[piece.host];
        slot.used = less(slot.used, piece.taken);
        slot.free = less(self.snapshot.hosts[piece.host].allocatable, slot.used);
        if let Some(profile) = piece.profile {
            slot.profiles[profile] -= 1;
        }
        let domains = slot.domains;
        for carried in &piece.carries {
            self.repulsions.all[*carried].group.remove(domains);
        }
        let labels = piece.container.labels();
        for group in &mut self.groups.all {
            if *group.namespace == *piece.namespace && group.picks(labels) {
                group.remove(domains);
            }
        }
        let taken = self.tenants.entry(piece.namespace.clone()).or_default();
        taken.containers -= 1;
        taken.resources = less(taken.resources, piece.taken);
        // The newest go first while a plan is tried; the list does not grow by trying.
        while self.pieces.last().is_some_and(|p| p.lifted) {
            let number = self.pieces.len() - 1;
            if let Some(gone) = self.pieces.pop()
                && let Some(list) = self.by_namespace.get_mut(&gone.namespace)
                && list.last() == Some(&number)
            {
                list.pop();
            }
        }
    }

    /// Counts that a Container of `namespace` on a Host takes something else than before.
    pub fn resize(&mut self, host: usize, namespace: &str, before: Resources, now: Resources) {
        let slot = &mut self.slots[host];
        slot.used = added(less(slot.used, before), now);
        slot.free = less(self.snapshot.hosts[host].allocatable, slot.used);
        if let Some(taken) = self.tenants.get_mut(namespace) {
            taken.resources = added(less(taken.resources, before), now);
        }
    }

    /// Where a bound Container stands on the board; its reservations elsewhere are not it.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Put> {
        let list = self.by_namespace.get(namespace)?;
        let is = |i: &&usize| {
            let piece = &self.pieces[**i];
            !piece.lifted && piece.container.metadata.name.as_deref() == Some(name)
        };
        list.iter().find(is).map(|i| Put(*i))
    }

    /// How much is on the board, for [`Self::back_to`].
    pub(super) fn mark(&self) -> usize {
        self.pieces.len()
    }

    /// Takes up what was put down since.
    pub(super) fn back_to(&mut self, mark: usize) {
        for number in (mark..self.pieces.len()).rev() {
            self.lift(Put(number));
        }
    }

    fn put(&mut self, piece: Piece) -> Put {
        let slot = &mut self.slots[piece.host];
        slot.used = added(slot.used, piece.taken);
        slot.free = less(self.snapshot.hosts[piece.host].allocatable, slot.used);
        if let Some(profile) = piece.profile {
            slot.profiles[profile] += 1;
        }
        for carried in &piece.carries {
            self.repulsions.all[*carried].group.add(slot.domains);
        }
        let taken = self.tenants.entry(piece.namespace.clone()).or_default();
        taken.containers += 1;
        taken.resources = added(taken.resources, piece.taken);
        let number = self.pieces.len();
        self.by_namespace
            .entry(piece.namespace.clone())
            .or_default()
            .push(number);
        self.pieces.push(piece);
        Put(number)
    }

    /// The one copy of a namespace's name.
    pub(super) fn namespace(&self, name: Option<&str>) -> Arc<str> {
        let name = name.unwrap_or_default();
        match self.by_namespace.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => name.into(),
        }
    }

    /// The numbers of the rules that a Container carries.
    pub(super) fn carried(&mut self, container: &Container, namespace: &Arc<str>) -> Vec<usize> {
        let rules = &container.spec.placement.anti_affinity.required;
        let number = |rule: &skysail_schemas::placement::AffinityTerm| {
            let selector = serde_json::to_string(&rule.selector).unwrap_or_default();
            let key = format!("{namespace}\n{}\n{selector}", rule.topology.as_str());
            if let Some(known) = self.repulsions.find(&key) {
                return known;
            }
            let group = Group::new(namespace, &rule.selector, self.sizes);
            let number = self.repulsions.all.len();
            for class in &mut self.classes.all {
                if class.namespace == *namespace && group.picks(&class.labels) {
                    class.repelled.push(number);
                }
            }
            let topology = rule.topology;
            self.repulsions.insert(key, Repulsion { group, topology })
        };
        let mut numbers: Vec<usize> = rules.iter().map(number).collect();
        numbers.dedup();
        numbers
    }

    /// The counts of a selector, made the first time that somebody asks.
    pub(super) fn term(
        &mut self,
        namespace: &Arc<str>,
        topology: Topology,
        selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    ) -> Term {
        let text = serde_json::to_string(selector).unwrap_or_default();
        let key = format!("{namespace}\n{text}");
        if let Some(group) = self.groups.find(&key) {
            return Term { group, topology };
        }
        let mut group = Group::new(namespace, selector, self.sizes);
        for number in self.by_namespace.get(namespace).into_iter().flatten() {
            let piece = &self.pieces[*number];
            if !piece.lifted && group.picks(piece.container.labels()) {
                group.add(self.slots[piece.host].domains);
            }
        }
        let number = self.groups.all.len();
        for class in &mut self.classes.all {
            if class.namespace == *namespace && group.picks(&class.labels) {
                class.feeds.push(number);
            }
        }
        let group = self.groups.insert(key, group);
        Term { group, topology }
    }
}
