//! A fleet on which moves are tried: who is where, what is free, what is in use, and what would be after the moves that
//! were proposed so far. Pure.

use super::signals::{Load, Signals, Use};
use crate::placement::board::{Board, Put};
use crate::placement::request::{Request, full_name};
use crate::placement::snapshot::{HostView, Objects, Snapshot};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use skysail_schemas::condition;
use skysail_schemas::migration::MigrationMode;
use skysail_schemas::rebalance_policy::{RebalancePolicySpec, RebalanceStrategy};
use skysail_schemas::{Container, Migration};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long what a host uses does not show yet that a container came or went.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(10);
/// Bytes per second at which memory is taken for frozen, and for which a cold start stands.
const DUMP_RATE: u64 = 500 << 20;

/// A move that would be good.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// Why it was looked for.
    pub strategy: RebalanceStrategy,
    /// What moves.
    pub container: Arc<Container>,
    /// The host that has it.
    pub from: String,
    /// The host that gets it, or why there is none.
    pub to: Result<String, String>,
    /// What was seen, with numbers.
    pub reason: String,
    /// What it saves per hour and what all the moves cost that this needs, in millionths.
    pub saving: Option<(u64, u64)>,
    /// What it takes.
    pub cost: Cost,
}

/// What a move takes, about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes to send.
    pub bytes: u64,
    /// Milliseconds of standing still.
    pub freeze: u64,
}

/// Something that was tried and can be undone.
pub struct Tried {
    container: Arc<Container>,
    request: Request,
    put: Put,
    from: usize,
    /// Where it went.
    pub to: usize,
}

/// See the module.
pub struct Scene<'a> {
    /// What the policy says whose turn it is.
    pub policy: &'a RebalancePolicySpec,
    /// Everything there is.
    pub objects: &'a Objects,
    /// What was measured.
    pub signals: &'a Signals,
    /// The time.
    pub now: Timestamp,
    /// Who is where.
    pub board: Board<'a>,
    /// By host: what it will use.
    pub loads: Vec<Result<Load, String>>,
    /// By host: Containers that can be moved, in the order of their names.
    pub here: Vec<Vec<Arc<Container>>>,
    /// By host: how many Containers are on it or on their way to it.
    pub counts: Vec<u32>,
    /// Hosts that something leaves now, or has left so lately that what they use does not show it.
    pub leaving: BTreeSet<usize>,
    /// Containers that have a Migration, or a proposal by an earlier strategy.
    pub taken: BTreeSet<String>,
}

impl Tried {
    /// What was moved.
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }
}

impl<'a> Scene<'a> {
    /// The fleet as it is.
    pub fn new(
        snapshot: &'a Snapshot,
        objects: &'a Objects,
        signals: &'a Signals,
        policy: &'a RebalancePolicySpec,
        now: Timestamp,
    ) -> Self {
        let hosts = snapshot.hosts.len();
        let mut scene = Self {
            policy,
            objects,
            signals,
            now,
            board: Board::new(snapshot),
            loads: snapshot
                .hosts
                .iter()
                .map(|h| signals.host(&h.name, now))
                .collect(),
            here: vec![vec![]; hosts],
            counts: vec![0; hosts],
            leaving: BTreeSet::new(),
            taken: BTreeSet::new(),
        };
        for resident in &snapshot.residents {
            scene.counts[resident.host] += 1;
        }
        for container in &snapshot.bound {
            if let Some(host) = host_of(snapshot, container) {
                scene.here[host].push(container.clone());
            }
        }
        for list in &mut scene.here {
            list.sort_by_cached_key(|c| full_name(c));
        }
        scene.under_way();
        scene
    }

    fn under_way(&mut self) {
        let by_name: BTreeMap<String, &Arc<Container>> = self
            .objects
            .containers
            .iter()
            .map(|c| (full_name(c), c))
            .collect();
        let snapshot = self.board.snapshot;
        for migration in self.objects.migrations.iter().filter(|m| !is_finished(m)) {
            let name = moved(migration);
            if let Some(container) = by_name.get(&name) {
                let target = migration.status.as_ref().and_then(|s| s.target.as_ref());
                let target = target.or(migration.spec.target.host.as_ref());
                let target = target.and_then(|t| snapshot.host(t));
                self.expect(container, host_of(snapshot, container), target);
            }
            self.taken.insert(name);
        }
        for container in &self.objects.containers {
            let last = container
                .status
                .as_ref()
                .and_then(|s| s.last_migration.as_ref());
            let Some(last) = last.filter(|l| l.moved && self.is_recent(l.at.as_ref())) else {
                continue;
            };
            self.expect(
                container,
                snapshot.host(&last.from),
                snapshot.host(&last.to),
            );
        }
    }

    fn is_recent(&self, at: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> bool {
        at.is_some_and(|at| self.now.duration_since(at.0).abs() < SETTLE)
    }

    /// Counts use where it will be, and nothing less where it was: that shows when it is gone.
    fn expect(&mut self, container: &Container, from: Option<usize>, to: Option<usize>) {
        let used = self.uses(container);
        self.leaving.extend(from);
        if let Some(to) = to.filter(|to| Some(*to) != from)
            && let Ok(load) = &mut self.loads[to]
        {
            load.cpu += used.cpu;
            load.memory += used.memory;
        }
    }

    /// What a Container uses; where that is not known, all that it may.
    pub fn uses(&self, container: &Container) -> Use {
        let known = self.signals.container(&full_name(container), self.now);
        let status = container.status.as_ref();
        let all = status
            .and_then(|s| s.allocation.clone())
            .unwrap_or_default();
        known.unwrap_or(Use {
            cpu: all.cpu.0 as f64,
            memory: all.memory.0 as f64,
            disk: None,
        })
    }

    /// What moving it takes.
    pub fn cost(&self, container: &Container) -> Cost {
        let used = self.uses(container);
        let status = container.status.as_ref();
        let is = |kind| status.is_some_and(|s| condition::is_true(&s.conditions, kind));
        let live = self.policy.migration != MigrationMode::Cold && is("Migratable");
        let memory = if live { used.memory as u64 } else { 0 };
        // What is not known is not nothing: a private layer is seldom larger than this.
        let disk = used.disk.unwrap_or(64 << 20);
        let dump = memory.saturating_mul(1000) / DUMP_RATE;
        Cost {
            bytes: memory.saturating_add(disk),
            freeze: if live { 300 + dump } else { 2000 },
        }
    }

    /// The host's view.
    pub fn host(&self, host: usize) -> &'a HostView {
        &self.board.snapshot.hosts[host]
    }

    /// Whether the policy speaks of this host.
    pub fn is_in_scope(&self, host: usize) -> bool {
        let clouds = &self.policy.clouds;
        clouds.is_empty()
            || self
                .host(host)
                .cloud
                .as_ref()
                .is_some_and(|c| clouds.contains(c))
    }

    /// Whether the policy may move this Container now.
    pub fn may_move(&self, container: &Container) -> bool {
        let namespaces = &self.policy.namespaces;
        let named = |n: String| namespaces.contains(&n);
        (namespaces.is_empty() || container.namespace().is_some_and(named))
            && !self.taken.contains(&full_name(container))
    }

    /// Shares of cores and memory in percent, of a host that uses `load`.
    pub fn shares(&self, host: usize, load: &Load) -> [f64; 2] {
        let all = self.host(host).allocatable;
        let share = |used: f64, all: u64| used * 100.0 / (all.max(1) as f64);
        [share(load.cpu, all.cpu.0), share(load.memory, all.memory.0)]
    }

    /// Whether the host is known to stay below what the policy wants of targets with this on it too.
    pub fn stays_cool(&self, host: usize, used: &Use) -> bool {
        let Ok(load) = &self.loads[host] else {
            return false;
        };
        let after = Load {
            cpu: load.cpu + used.cpu,
            memory: load.memory + used.memory,
            ..*load
        };
        let most = f64::from(self.policy.hotspot.target);
        let shares = self.shares(host, &after);
        shares.iter().all(|s| *s <= most) && !super::hotspot::is_hot(self, host, &after, 0.0)
    }

    /// Puts a Container on the best of the hosts that `among` allows, by placement's own rules.
    ///
    /// # Errors
    /// Why none is possible; nothing has changed then.
    pub fn shift(
        &mut self,
        container: &Arc<Container>,
        from: usize,
        among: impl Fn(&Self, usize) -> bool,
    ) -> Result<Tried, String> {
        let allowed: Vec<bool> = (0..self.counts.len())
            .map(|h| h != from && self.is_in_scope(h) && among(self, h))
            .collect();
        if !allowed.contains(&true) {
            return Err("no other host has enough to spare".to_owned());
        }
        let namespace = container.namespace().unwrap_or_default();
        while let Some(put) = self.board.find(&namespace, &container.name_any()) {
            self.board.lift(put);
        }
        let request = Request::again(&mut self.board, container);
        match self.board.best_among(&request, |h| allowed[h]) {
            Err(no) => {
                self.board.take(&request, from);
                Err(no.message)
            }
            Ok(choice) => {
                let to = choice.index;
                let put = self.board.take(&request, to);
                self.count(container, from, to);
                Ok(Tried {
                    container: container.clone(),
                    request,
                    put,
                    from,
                    to,
                })
            }
        }
    }

    /// Makes something untried.
    pub fn undo(&mut self, tried: Tried) {
        self.board.lift(tried.put);
        self.board.take(&tried.request, tried.from);
        self.count(&tried.container, tried.to, tried.from);
    }

    fn count(&mut self, container: &Container, from: usize, to: usize) {
        let used = self.uses(container);
        self.counts[from] = self.counts[from].saturating_sub(1);
        self.counts[to] += 1;
        if let Ok(load) = &mut self.loads[from] {
            load.cpu = (load.cpu - used.cpu).max(0.0);
            load.memory = (load.memory - used.memory).max(0.0);
        }
        if let Ok(load) = &mut self.loads[to] {
            load.cpu += used.cpu;
            load.memory += used.memory;
        }
    }
}

/// Where a Container's host is in the snapshot.
pub fn host_of(snapshot: &Snapshot, container: &Container) -> Option<usize> {
    snapshot.host(container.status.as_ref()?.host.as_deref()?)
}

/// Namespace and name of the Container that a Migration moves.
pub fn moved(migration: &Migration) -> String {
    format!(
        "{}/{}",
        migration.namespace().unwrap_or_default(),
        migration.spec.container
    )
}

/// Whether nothing more will happen.
pub fn is_finished(migration: &Migration) -> bool {
    let status = migration.status.as_ref();
    status.is_some_and(|s| s.phase.is_finished())
}
