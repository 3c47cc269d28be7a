//! Containers are placed, and moved.

use crate::world::{World, after, conditions};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde_json::json;
use skysail_controllers::placement::elsewhere::elsewhere;
use skysail_controllers::placement::plan::plan as placement;
use skysail_controllers::placement::request::full_name;
use skysail_controllers::placement::snapshot::Snapshot;
use skysail_controllers::rebalance::plan::{Seen, plan, still_good};
use skysail_schemas::container::{ContainerPhase, LastMigration};
use skysail_schemas::duration::Span;
use skysail_schemas::migration::{MigrationPhase, MigrationStatus};
use skysail_schemas::rebalance_policy::RebalanceMode;
use skysail_schemas::{Container, Migration};
use std::sync::Arc;

/// What every move takes beside sending, in milliseconds.
const OVERHEAD: u64 = 1_000;

impl World {
    /// What waits is placed, by placement's own planner.
    pub fn place(&mut self) {
        let waits = |c: &Arc<Container>| c.status.as_ref().is_none_or(|s| s.host.is_none());
        if !self.objects.containers.iter().any(waits) {
            return;
        }
        let snapshot = Snapshot::new(self.objects.clone(), self.now);
        let planned = placement(&snapshot, self.now);
        drop(snapshot);
        let bound: Vec<(String, String)> = planned
            .bind
            .iter()
            .map(|s| {
                (
                    full_name(&s.container),
                    s.status.host.clone().unwrap_or_default(),
                )
            })
            .collect();
        for step in planned.bind.into_iter().chain(planned.explain) {
            let (namespace, name) = (step.container.namespace(), step.container.name_any());
            let mut status = step.status;
            let full = full_name(&step.container);
            drop(step.container);
            if status.host.is_some() {
                status.phase = ContainerPhase::Running;
                let live = self
                    .lives
                    .get(&full)
                    .map(|l| self.scenario.workloads[l.workload].live);
                let kinds: &[&str] = match live {
                    Some(true) => &["Scheduled", "Running", "Ready", "Migratable"],
                    _ => &["Scheduled", "Running", "Ready"],
                };
                status.conditions =
                    serde_json::from_value(conditions(kinds, self.now)).unwrap_or_default();
            } else if let Some(life) = self.lives.get_mut(&full).filter(|l| !l.said) {
                life.said = true;
                let why = status.conditions.iter().find(|c| c.type_ == "Scheduled");
                let why = why.map(|c| c.message.clone()).unwrap_or_default();
                self.say(format!("{full} waits: {why}"));
            }
            if let Some(there) = self.container_mut(&namespace.unwrap_or_default(), &name) {
                there.status = Some(status);
            }
        }
        match bound.as_slice() {
            [] => {}
            [(name, host)] => self.say(format!("places {name} on {host}")),
            many => {
                let mut hosts: Vec<&String> = many.iter().map(|(_, host)| host).collect();
                hosts.sort();
                hosts.dedup();
                let text = format!("places {} containers on {} hosts", many.len(), hosts.len());
                self.say(text);
            }
        }
    }

    /// The rebalancer's own planner looks, and what it says is done.
    pub fn rebalance(&mut self) {
        if self.policies.is_empty() {
            return;
        }
        self.signals.observe(&self.objects, self.now);
        let mut seen = Seen {
            policies: self.policies.clone(),
            pools: self.pools.clone(),
            objects: self.objects.clone(),
            signals: std::mem::take(&mut self.signals),
        };
        let planned = plan(&seen, self.now);
        self.signals = std::mem::take(&mut seen.signals);
        drop(seen);
        for turn in planned.turns {
            let name = turn.policy.name_any();
            let report = turn.policy.spec.mode == RebalanceMode::Report;
            let decisions = turn.status.decisions.clone();
            if let Some(there) = self.policies.iter_mut().find(|p| p.name_any() == name) {
                Arc::make_mut(there).status = Some(turn.status);
            }
            if report && !turn.make.is_empty() {
                self.account
                    .broken(format!("{name} only reports, and moves something"));
            }
            // The newest decision stands first, and was made last.
            let strategies: Vec<_> = decisions
                .iter()
                .take(turn.make.len())
                .map(|d| d.proposal.strategy)
                .collect();
            for ((container, migration), strategy) in
                turn.make.into_iter().zip(strategies.into_iter().rev())
            {
                if still_good(&self.objects, &container, &migration, self.now).is_err() {
                    continue;
                }
                *self
                    .account
                    .moves
                    .entry(format!("{strategy:?}"))
                    .or_default() += 1;
                self.ask(migration, &format!("{strategy:?}"));
            }
        }
    }

    fn ask(&mut self, mut migration: Migration, why: &str) {
        let uid = self.uid();
        let meta = migration.meta_mut();
        meta.uid = Some(uid);
        meta.creation_timestamp = Some(crate::world::time(self.now));
        let namespace = migration.namespace().unwrap_or_default();
        let to = migration.spec.target.host.clone().unwrap_or_default();
        self.say(format!(
            "moves {namespace}/{} to {to} ({why})",
            migration.spec.container
        ));
        self.objects.migrations.push(Arc::new(migration));
    }

    /// Migrations are accepted, as the controller does it, go on, end, and are forgotten.
    pub fn migrate(&mut self) {
        let now = self.now;
        for i in 0..self.objects.migrations.len() {
            let migration = self.objects.migrations[i].clone();
            let status = migration.status.clone().unwrap_or_default();
            let new = match status.phase {
                MigrationPhase::Pending => self.accept(&migration),
                phase if phase.is_finished() => continue,
                _ => self.go_on(&migration, status),
            };
            drop(migration);
            Arc::make_mut(&mut self.objects.migrations[i]).status = Some(new);
        }
        self.objects.migrations.retain(|m| {
            let ended = m.status.as_ref().and_then(|s| s.finished_at.as_ref());
            let kept = m.spec.ttl_after_finished.unwrap_or(Span(0));
            ended.is_none_or(|at| after(at.0, kept) > now)
        });
    }

    fn accept(&mut self, migration: &Migration) -> MigrationStatus {
        let namespace = migration.namespace().unwrap_or_default();
        let full = format!("{namespace}/{}", migration.spec.container);
        let there = self
            .objects
            .containers
            .iter()
            .find(|c| full_name(c) == full)
            .cloned();
        let snapshot = Snapshot::new(self.objects.clone(), self.now);
        let chosen = match &there {
            None => Err("it is gone".to_owned()),
            Some(container) => {
                let found = elsewhere(&snapshot, container, &migration.spec.target);
                found.map(|e| e.host).map_err(|no| no.message)
            }
        };
        let target = match chosen {
            Ok(target) => target,
            Err(why) => return self.gives_up(&full, &why),
        };
        let on = there.and_then(|c| c.status.clone()).unwrap_or_default();
        MigrationStatus {
            phase: MigrationPhase::Copying,
            source: on.host,
            epoch: Some(on.epoch),
            target: Some(target),
            started_at: Some(crate::world::time(self.now)),
            ..MigrationStatus::default()
        }
    }

    fn gives_up(&mut self, full: &str, why: &str) -> MigrationStatus {
        self.say(format!("{full} is not moved: {why}"));
        self.account.gave_up += 1;
        let no = json!([{"type": "Succeeded", "status": "False", "reason": "GivenUp", "message": why, "lastTransitionTime": self.now}]);
        MigrationStatus {
            phase: MigrationPhase::Failed,
            finished_at: Some(crate::world::time(self.now)),
            conditions: serde_json::from_value(no).unwrap_or_default(),
            ..MigrationStatus::default()
        }
    }

    fn go_on(&mut self, migration: &Migration, mut status: MigrationStatus) -> MigrationStatus {
        let namespace = migration.namespace().unwrap_or_default();
        let full = format!("{namespace}/{}", migration.spec.container);
        let live = self
            .lives
            .get(&full)
            .map(|l| self.scenario.workloads[l.workload].live);
        let there = self
            .objects
            .containers
            .iter()
            .find(|c| full_name(c) == full);
        let usage = there.and_then(|c| c.status.as_ref()?.usage.clone());
        let (Some(live), Some(target)) = (live, status.target.clone()) else {
            return self.gives_up(&full, "it is gone");
        };
        let gone = |host: &Option<String>| {
            let machine = host.as_ref().and_then(|h| self.machines.get(h));
            machine.is_none_or(|m| m.ended)
        };
        if gone(&status.source) || gone(&status.target) {
            return self.gives_up(&full, "one of its hosts is gone");
        }
        let usage = usage.unwrap_or_default();
        let disk = usage.disk.map_or(64 << 20, |d| d.0);
        let bytes = disk + if live { usage.memory.0 } else { 0 };
        let freeze = if live {
            300 + usage.memory.0 * 1000 / (500 << 20)
        } else {
            2_000
        };
        let takes = OVERHEAD + bytes.saturating_mul(1000) / self.scenario.bandwidth.0;
        let begun = status.started_at.as_ref().map_or(self.now, |t| t.0);
        if after(begun, Span(takes)) > self.now {
            return status;
        }
        self.account.bytes += bytes;
        self.account.frozen += freeze;
        self.arrived(migration, &status, &target, self.now);
        status.phase = MigrationPhase::Succeeded;
        status.freeze = Some(Span(freeze));
        status.finished_at = Some(crate::world::time(self.now));
        status
    }

    fn arrived(
        &mut self,
        migration: &Migration,
        status: &MigrationStatus,
        target: &str,
        now: Timestamp,
    ) {
        let namespace = migration.namespace().unwrap_or_default();
        let last = LastMigration {
            name: migration.name_any(),
            uid: migration.uid().unwrap_or_default(),
            from: status.source.clone().unwrap_or_default(),
            to: target.to_owned(),
            moved: true,
            at: Some(crate::world::time(now)),
        };
        self.account.moved.push(self.elapsed());
        if let Some(there) = self.container_mut(&namespace, &migration.spec.container)
            && let Some(status) = there.status.as_mut()
        {
            status.host = Some(target.to_owned());
            status.epoch += 1;
            status.last_migration = Some(last);
        }
    }
}
