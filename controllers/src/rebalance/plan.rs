//! What is to be moved. Pure.

use super::gate::{Gate, id, name};
use super::scene::{Move, Scene, host_of, is_finished, moved};
use super::signals::Signals;
use super::{hotspot, must, spare};
use crate::money;
use crate::placement::elsewhere::elsewhere;
use crate::placement::request::full_name;
use crate::placement::snapshot::{Objects, Snapshot};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, ResourceExt};
use skysail_reconcile::Note;
use skysail_schemas::condition::{self, Fact, READY};
use skysail_schemas::duration::Span;
use skysail_schemas::migration::{MigrationSpec, MigrationTarget};
use skysail_schemas::quantity::Bytes;
use skysail_schemas::rebalance_policy::{
    Decision, LISTED, POLICY_LABEL, Proposal, RebalanceMode, RebalancePolicy,
    RebalancePolicyStatus, RebalanceStrategy, Waits,
};
use skysail_schemas::{Container, HostPool, Migration};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long a finished Migration of ours is kept; one that was given up is not tried again before.
const KEPT: Span = Span(3_600_000);

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every policy.
    pub policies: Vec<Arc<RebalancePolicy>>,
    /// Every pool: which hosts are given back when they are empty.
    pub pools: Vec<Arc<HostPool>>,
    /// All that placement looks at.
    pub objects: Objects,
    /// What is in use.
    pub signals: Signals,
}

/// What is to be done. For each policy the status comes first: it is a compare-and-swap, so that of two rebalancers
/// that saw the same only one goes on.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// By policy.
    pub turns: Vec<Turn>,
}

/// What one policy does.
#[derive(Debug, PartialEq)]
pub struct Turn {
    /// The policy as it was seen.
    pub policy: Arc<RebalancePolicy>,
    /// What is said of it.
    pub status: RebalancePolicyStatus,
    /// Migrations to make once that is said, each with the Container as it was seen.
    pub make: Vec<(Arc<Container>, Migration)>,
    /// Events of the policy.
    pub notes: Vec<Note>,
}

/// Decides. The policies in the order of their names; what one proposes, the next leaves alone.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut policies: Vec<&Arc<RebalancePolicy>> = seen.policies.iter().collect();
    policies.retain(|p| p.meta().deletion_timestamp.is_none());
    policies.sort_by_cached_key(|p| p.name_any());
    let Some(first) = policies.first() else {
        return plan;
    };
    let snapshot = Snapshot::new(seen.objects.clone(), now);
    let mut scene = Scene::new(&snapshot, &seen.objects, &seen.signals, &first.spec, now);
    for policy in policies {
        scene.policy = &policy.spec;
        let turn = turn(&mut scene, policy, &seen.pools);
        if policy.status.as_ref() != Some(&turn.status) || !turn.make.is_empty() {
            plan.turns.push(turn);
        }
    }
    plan
}

fn turn(scene: &mut Scene<'_>, policy: &Arc<RebalancePolicy>, pools: &[Arc<HostPool>]) -> Turn {
    let old = policy.status.clone().unwrap_or_default();
    let mut status = RebalancePolicyStatus {
        observed_generation: policy.metadata.generation,
        unknown: unknown(scene),
        hot: hotspot::hot(scene, &old.hot),
        proposals: vec![],
        ..old.clone()
    };
    let (moves, spare) = moves(scene, pools, &status.hot, &old.spare);
    status.spare = spare;
    let mut gate = Gate::new(policy, scene.objects, scene.now);
    let mut make = vec![];
    let mut notes = vec![];
    let mut open = vec![];
    for planned in &moves {
        let (waits, message) = gate.admit(planned);
        let proposal = proposal(planned, waits, message);
        if waits == Waits::Nothing {
            make.push((planned.container.clone(), migration(policy, planned)));
            notes.push(Note::normal(
                format!("{:?}", planned.strategy),
                words(&proposal),
            ));
            let at = Some(Time(scene.now));
            status.decisions.insert(0, Decision { at, proposal });
            status.moved += 1;
        } else {
            open.push(proposal);
        }
    }
    status.decisions.truncate(LISTED);
    status.begun = gate.begun.iter().map(|t| Time(*t)).collect();
    status.open = count(open.len());
    status.moving = gate.moving();
    let fact = ready(policy, &status, &open);
    status.proposals = open
        .into_iter()
        .map(|p| settled(p, &old.proposals))
        .collect();
    status.proposals.truncate(LISTED);
    condition::merge(
        &mut status.conditions,
        &[fact],
        policy.metadata.generation,
        scene.now,
    );
    Turn {
        policy: policy.clone(),
        status,
        make,
        notes,
    }
}

/// What the strategies propose, in their order; a Container is proposed once.
fn moves(
    scene: &mut Scene<'_>,
    pools: &[Arc<HostPool>],
    hot: &BTreeMap<String, Time>,
    spare: &BTreeMap<String, Time>,
) -> (Vec<Move>, BTreeMap<String, Time>) {
    let mut all = vec![];
    let mut now_spare = BTreeMap::new();
    for strategy in scene.policy.strategies.clone() {
        let found = match strategy {
            RebalanceStrategy::Evacuate => must::evacuate(scene),
            RebalanceStrategy::RelieveHotspots => hotspot::relieve(scene, hot),
            RebalanceStrategy::RestoreRules => must::restore(scene),
            RebalanceStrategy::Consolidate | RebalanceStrategy::FollowPrice => {
                // One host at a time.
                if !now_spare.is_empty() {
                    continue;
                }
                let found = spare::find(scene, pools, strategy, spare);
                now_spare = found.spare;
                found.moves
            }
        };
        let names = found.iter().map(|m| full_name(&m.container));
        scene.taken.extend(names);
        all.extend(found);
    }
    (all, now_spare)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn unknown(scene: &Scene<'_>) -> BTreeMap<String, String> {
    let hosts = (0..scene.loads.len()).filter(|h| scene.is_in_scope(*h));
    let unknown = hosts.filter_map(|h| {
        let host = scene.host(h);
        // One that is not up yet, or not any more, is nothing that people must look at here.
        let why = scene.loads[h].as_ref().err()?;
        Some((host.name.clone(), why.clone()))
    });
    unknown.take(LISTED).collect()
}

fn proposal(planned: &Move, waits: Waits, message: String) -> Proposal {
    let container = &planned.container;
    Proposal {
        id: id(container),
        strategy: planned.strategy,
        container: full_name(container),
        from: planned.from.clone(),
        to: planned.to.clone().unwrap_or_default(),
        revision: container.status.as_ref().map_or(0, |s| s.epoch),
        saving_per_hour: planned.saving.map(|(saving, _)| money(saving)),
        cost: planned.saving.map(|(_, cost)| money(cost)),
        bytes: Bytes(planned.cost.bytes),
        freeze: Span(planned.cost.freeze),
        reason: planned.reason.clone(),
        waits,
        message,
    }
}

/// A proposal keeps the numbers with which it was first made: a status is not written for every breath of a host.
fn settled(mut new: Proposal, before: &[Proposal]) -> Proposal {
    let same = |old: &&Proposal| {
        old.id == new.id
            && old.strategy == new.strategy
            && old.to == new.to
            && old.waits == new.waits
    };
    if let Some(old) = before.iter().find(same) {
        new.reason.clone_from(&old.reason);
        (new.bytes, new.freeze) = (old.bytes, old.freeze);
        new.cost.clone_from(&old.cost);
        if matches!(new.waits, Waits::Room | Waits::Budget) {
            new.message.clone_from(&old.message);
        }
    }
    new
}

fn words(p: &Proposal) -> String {
    let saving = match (&p.saving_per_hour, &p.cost) {
        (Some(saving), Some(cost)) => {
            format!("; saves {saving} per hour for moves that cost {cost}")
        }
        _ => String::new(),
    };
    format!(
        "{} from {} to {}: {}{saving}; sends about {} MiB, stands still about {}",
        p.container,
        p.from,
        p.to,
        p.reason,
        p.bytes.0 >> 20,
        p.freeze
    )
}

fn ready(policy: &RebalancePolicy, status: &RebalancePolicyStatus, open: &[Proposal]) -> Fact {
    let moving = match status.moving {
        0 => String::new(),
        n => format!("{n} moving; "),
    };
    let unknown = match status.unknown.len() {
        0 => String::new(),
        n => format!("; nothing is known of {n} hosts"),
    };
    let Some(first) = open.first() else {
        let reason = if status.moving > 0 { "Moving" } else { "Calm" };
        return Fact::yes(
            READY,
            reason,
            format!("{moving}nothing else to move{unknown}"),
        );
    };
    let reason = match policy.spec.mode {
        RebalanceMode::Report => "Reporting",
        _ if status.moving > 0 => "Moving",
        _ => "Waiting",
    };
    let message = format!(
        "{moving}{} would be moved, {} first ({:?}: waits for {:?}){unknown}",
        open.len(),
        first.container,
        first.strategy,
        first.waits
    );
    Fact::yes(READY, reason, message)
}

fn migration(policy: &RebalancePolicy, planned: &Move) -> Migration {
    let container = &planned.container;
    let label = (POLICY_LABEL.to_owned(), policy.name_any());
    Migration {
        metadata: ObjectMeta {
            name: Some(name(container)),
            namespace: container.namespace(),
            labels: Some([label].into()),
            ..ObjectMeta::default()
        },
        spec: MigrationSpec {
            container: container.name_any(),
            target: MigrationTarget {
                host: planned.to.clone().ok(),
                cloud: None,
            },
            mode: policy.spec.migration,
            ttl_after_finished: Some(KEPT),
            ..MigrationSpec::default()
        },
        status: None,
    }
}

/// Looks again, at the newest that is known, before a move begins.
///
/// # Errors
/// What has changed, so that it must not.
pub fn still_good(
    objects: &Objects,
    planned: &Container,
    migration: &Migration,
    now: Timestamp,
) -> Result<(), String> {
    let name = full_name(planned);
    let there = objects
        .containers
        .iter()
        .find(|c| full_name(c) == name && c.uid() == planned.uid())
        .ok_or_else(|| format!("{name} is gone"))?;
    let at = |c: &Container| c.status.as_ref().map(|s| (s.host.clone(), s.epoch));
    if at(there) != at(planned) || there.meta().deletion_timestamp.is_some() {
        return Err(format!("{name} is no longer where it was"));
    }
    let mut others = objects.migrations.iter();
    if let Some(other) = others.find(|m| !is_finished(m) && moved(m) == name) {
        return Err(format!(
            "{name} has migrations/{} already",
            other.name_any()
        ));
    }
    let snapshot = Snapshot::new(objects.clone(), now);
    if host_of(&snapshot, there).is_none() {
        return Err(format!("the host of {name} is gone"));
    }
    let target = &migration.spec.target;
    elsewhere(&snapshot, there, target)
        .map(drop)
        .map_err(|no| no.message)
}
