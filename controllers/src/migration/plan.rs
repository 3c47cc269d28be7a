//! What becomes of a Migration outside of the agents' hands. Pure.

use crate::placement::elsewhere::elsewhere;
use crate::placement::snapshot::Snapshot;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};
use skysail_reconcile::{Next, Note, Outcome, Steps};
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::migration::{MigrationMode, MigrationPhase, MigrationStatus, STREAM_PORT};
use skysail_schemas::{Container, Host, Migration};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// The Container that it names.
    pub container: Option<Arc<Container>>,
    /// Other Migrations of the same Container.
    pub others: Vec<Arc<Migration>>,
    /// The Host that has the Container, where it exists.
    pub source: Option<Arc<Host>>,
    /// The Host that was chosen, where it exists.
    pub target: Option<Arc<Host>>,
    /// Every Host; only while none is chosen.
    pub hosts: Vec<Arc<Host>>,
    /// The view for the choice; only while none is made.
    pub snapshot: Option<Snapshot>,
    /// By Host: accepted Migrations from or to it that are not finished.
    pub busy: BTreeMap<String, u32>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Plan {
    /// Nothing.
    #[default]
    Nothing,
    /// Let the agents begin.
    Accept(Accepted),
    /// Its turn has not come; why.
    Wait(String),
    /// Ask the agents to give it up, if it is not committed yet; why.
    Cancel(String),
    /// Finish it here.
    End {
        /// How it ends.
        phase: MigrationPhase,
        /// CamelCase word.
        reason: &'static str,
        /// Why, and the way out.
        message: String,
    },
    /// Delete the object: it was kept for long enough.
    Expire,
}

/// All that the agents must know.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    container_uid: String,
    source: String,
    target: String,
    epoch: u64,
    mode: MigrationMode,
    endpoint: String,
    message: String,
}

/// Whether nothing more will happen.
pub fn is_finished(migration: &Migration) -> bool {
    let status = migration.status.as_ref();
    status.is_some_and(|s| s.phase.is_finished())
}

/// By Host: accepted Migrations from or to it that are not finished.
pub fn busy(migrations: &[Arc<Migration>]) -> BTreeMap<String, u32> {
    let mut busy = BTreeMap::new();
    for migration in migrations.iter().filter(|m| !is_finished(m)) {
        let status = migration.status.as_ref();
        let ends = status
            .into_iter()
            .flat_map(|s| s.source.iter().chain(&s.target));
        for host in ends {
            *busy.entry(host.clone()).or_default() += 1;
        }
    }
    busy
}

/// Decides.
pub fn plan(migration: &Migration, observed: &Observed, now: Timestamp) -> Plan {
    let status = migration.status.clone().unwrap_or_default();
    if status.phase.is_finished() {
        let over = expiry(migration).is_some_and(|at| at <= now);
        return if over && migration.meta().deletion_timestamp.is_none() {
            Plan::Expire
        } else {
            Plan::Nothing
        };
    }
    if status.source.is_some() {
        return match leaves(migration, &status, observed) {
            Some(why) => Plan::Cancel(why),
            None => orphaned(&status, observed),
        };
    }
    if migration.spec.cancel || migration.meta().deletion_timestamp.is_some() {
        return end(
            MigrationPhase::Cancelled,
            "Cancelled",
            "before a target was chosen",
        );
    }
    match accept(migration, observed) {
        Ok(accepted) => match full(migration, &accepted, observed) {
            Some(why) => Plan::Wait(why),
            None => Plan::Accept(accepted),
        },
        Err((reason, message)) => end(MigrationPhase::Failed, reason, message),
    }
}

fn end(phase: MigrationPhase, reason: &'static str, message: impl Into<String>) -> Plan {
    Plan::End {
        phase,
        reason,
        message: message.into(),
    }
}

/// Whether its target is going away, and it can still be kept from going there.
fn leaves(migration: &Migration, status: &MigrationStatus, observed: &Observed) -> Option<String> {
    let target = observed.target.as_ref()?;
    let going = target.meta().deletion_timestamp.is_some();
    let early = status.phase < MigrationPhase::Resuming && !migration.spec.cancel;
    (going && early).then(|| format!("its target, Host {}, is being deleted", target.name_any()))
}

/// Finishes what an agent should finish whose Host does not exist any more. A Host goes only after its machine.
fn orphaned(status: &MigrationStatus, observed: &Observed) -> Plan {
    if observed.source.is_some() {
        return Plan::Nothing;
    }
    let source = status.source.as_deref().unwrap_or_default();
    let container = observed.container.as_ref().and_then(|c| c.status.as_ref());
    let moved = container.is_some_and(|c| c.host == status.target && Some(c.epoch) > status.epoch);
    if moved && status.phase < MigrationPhase::CleaningUp && observed.target.is_some() {
        // The target's agent says when it runs.
        return Plan::Nothing;
    }
    if moved {
        let message = format!("Host {source} is gone, so nothing is left to remove there");
        return end(MigrationPhase::Succeeded, "Moved", message);
    }
    let message = format!("spec.container: its Host {source} was removed during the move");
    end(MigrationPhase::Failed, "SourceGone", message)
}

type Refusal = (&'static str, String);

fn accept(migration: &Migration, observed: &Observed) -> Result<Accepted, Refusal> {
    let name = &migration.spec.container;
    let namespace = migration.namespace().unwrap_or_default();
    let Some(container) = &observed.container else {
        let message =
            format!("spec.container: there is no Container {name:?} in namespace {namespace}");
        return Err(("ContainerNotFound", message));
    };
    if container.meta().deletion_timestamp.is_some() {
        let message = format!("spec.container: {name} is being deleted");
        return Err(("ContainerDeleting", message));
    }
    if let Some(other) = observed.others.iter().find(|o| is_ahead(o, migration)) {
        let message = format!(
            "spec.container: {name} has Migration {:?} already; wait for it, or cancel it",
            other.name_any()
        );
        return Err(("AnotherMigration", message));
    }
    let status = container.status.clone().unwrap_or_default();
    let Some(source) = &status.host else {
        let message = format!("spec.container: {name} has no host yet; placement chooses one");
        return Err(("NotPlaced", message));
    };
    let ready = |h: &Arc<Host>| {
        let status = h.status.as_ref();
        status.is_some_and(|s| condition::is_true(&s.conditions, condition::READY))
    };
    let Some(from) = observed.source.as_ref().filter(|h| ready(h)) else {
        let message = format!("spec.container: its Host {source} is not ready; wait until it is");
        return Err(("SourceNotReady", message));
    };
    let mode = mode(migration.spec.mode)?;
    let snapshot = observed.snapshot.as_ref();
    let chosen = snapshot.map(|s| elsewhere(s, container, &migration.spec.target));
    let chosen = match chosen {
        Some(Ok(chosen)) => chosen,
        Some(Err(refused)) => return Err((refused.reason, refused.message)),
        None => return Err(("NoHostFits", "there are no hosts; create a Host".to_owned())),
    };
    let to = observed.hosts.iter().find(|h| h.name_any() == chosen.host);
    let Some(address) = to.and_then(|to| reached(from, to)) else {
        let message = format!(
            "spec.target: {source} does not reach {}: hosts of different clouds need Host.spec.publicAddress",
            chosen.host
        );
        return Err(("NoPath", message));
    };
    Ok(Accepted {
        container_uid: container.uid().unwrap_or_default(),
        source: source.clone(),
        target: chosen.host,
        epoch: status.epoch,
        mode,
        endpoint: SocketAddr::new(address, STREAM_PORT).to_string(),
        message: chosen.message,
    })
}

/// Moves that one host has under way at once, where a Migration does not say otherwise.
const PER_HOST: u32 = 4;

/// Why it must wait, where one of the two hosts has enough to do.
fn full(migration: &Migration, accepted: &Accepted, observed: &Observed) -> Option<String> {
    let most = migration.spec.at_once_per_host.unwrap_or(PER_HOST);
    let ends = [&accepted.source, &accepted.target];
    let under_way = |host: &String| observed.busy.get(host).copied().unwrap_or(0);
    let host = ends.into_iter().find(|host| under_way(host) >= most)?;
    Some(format!(
        "host {host} has {} moves under way, {most} are allowed (spec.atOncePerHost)",
        under_way(host)
    ))
}

/// Whether agents move containers live.
const LIVE: bool = true;

/// What is tried for what is asked; the source's agent finds out whether it is possible.
fn mode(asked: MigrationMode) -> Result<MigrationMode, Refusal> {
    match asked {
        MigrationMode::Cold => Ok(MigrationMode::Cold),
        MigrationMode::LiveElseCold if !LIVE => Ok(MigrationMode::Cold),
        MigrationMode::LiveElseCold | MigrationMode::Live if LIVE => Ok(MigrationMode::Live),
        _ => {
            let message = "spec.mode: live moves are not supported by this version; use Cold, or LiveElseCold, which stops the container for the last of the copy";
            Err(("LiveNotSupported", message.to_owned()))
        }
    }
}

/// Whether `other` goes first: it was accepted, or is older.
fn is_ahead(other: &Migration, migration: &Migration) -> bool {
    let age = |m: &Migration| (m.creation_timestamp().map(|t| t.0), m.name_any());
    let accepted = other.status.as_ref().is_some_and(|s| s.source.is_some());
    !is_finished(other) && (accepted || age(other) < age(migration))
}

/// The address at which `from` reaches `to`: the rule by which their tunnels find each other.
fn reached(from: &Host, to: &Host) -> Option<IpAddr> {
    let addresses = to.status.as_ref()?.addresses.clone();
    if from.spec.cloud == to.spec.cloud {
        addresses.internal.or(addresses.external)
    } else {
        addresses.external.or(addresses.internal)
    }
}

/// When a finished one is deleted.
fn expiry(migration: &Migration) -> Option<Timestamp> {
    let finished = migration.status.as_ref()?.finished_at.as_ref()?.0;
    let kept = i64::try_from(migration.spec.ttl_after_finished?.0).ok()?;
    finished.checked_add(SignedDuration::from_millis(kept)).ok()
}

/// Says what is known.
pub fn status(
    migration: &Migration,
    plan: &Plan,
    report: &Steps,
    now: Timestamp,
) -> Outcome<MigrationStatus> {
    let mut status = migration.status.clone().unwrap_or_default();
    let generation = migration.metadata.generation;
    let mut notes = vec![];
    match plan {
        Plan::Nothing | Plan::Expire => {}
        Plan::Cancel(why) => notes.push(Note::warning("TargetLeaves", why)),
        Plan::Wait(why) => {
            status.observed_generation = generation;
            let facts = [
                Fact::unknown("Accepted", "HostBusy", why),
                Fact::unknown("Succeeded", "HostBusy", why),
            ];
            condition::merge(&mut status.conditions, &facts, generation, now);
        }
        Plan::Accept(accepted) => {
            status.observed_generation = generation;
            accept_status(&mut status, accepted, generation, now);
            notes.push(Note::normal("Accepted", &accepted.message));
        }
        Plan::End {
            phase,
            reason,
            message,
        } => {
            status.observed_generation = generation;
            status.phase = *phase;
            status.finished_at = Some(Time(now));
            let moved = *phase == MigrationPhase::Succeeded;
            let mut facts = vec![Fact {
                kind: "Succeeded",
                status: Some(moved),
                reason: (*reason).to_owned(),
                message: message.clone(),
            }];
            if status.source.is_none() {
                facts.push(Fact::no("Accepted", *reason, message));
            }
            condition::merge(&mut status.conditions, &facts, generation, now);
            notes.push(match moved {
                true => Note::normal(*reason, message),
                false => Note::warning(*reason, message),
            });
        }
    }
    let next = if status.phase.is_finished() && migration.meta().deletion_timestamp.is_some() {
        Next::Finished
    } else {
        let left = expiry(migration).map(|at| at.duration_since(now));
        left.map_or(Next::OnChange, |left| {
            Next::After(Duration::try_from(left).unwrap_or_default())
        })
    };
    Outcome {
        status,
        next: report.next(next),
        notes,
    }
}

fn accept_status(
    status: &mut MigrationStatus,
    accepted: &Accepted,
    generation: Option<i64>,
    now: Timestamp,
) {
    status.phase = MigrationPhase::Preparing;
    status.container_uid = Some(accepted.container_uid.clone());
    status.source = Some(accepted.source.clone());
    status.target = Some(accepted.target.clone());
    status.epoch = Some(accepted.epoch);
    status.mode = Some(accepted.mode);
    status.endpoint = Some(accepted.endpoint.clone());
    status.started_at = Some(Time(now));
    let facts = [
        Fact::yes("Accepted", "TargetChosen", &accepted.message),
        Fact::unknown("Succeeded", "Preparing", "the two hosts find each other"),
    ];
    condition::merge(&mut status.conditions, &facts, generation, now);
}
