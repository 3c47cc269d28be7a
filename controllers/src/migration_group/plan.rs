//! Which containers of a group move next. Pure.

use crate::migration::plan::{busy, is_finished as is_over};
use crate::owner::is_owned_by;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};
use skysail_reconcile::{Next, Note, Outcome, Steps};
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::migration::{MigrationPhase, MigrationSpec};
use skysail_schemas::migration_group::{
    GROUP_LABEL, MOST, Member, MemberState, MigrationGroupPhase, MigrationGroupStatus, WAVE,
};
use skysail_schemas::{Container, Migration, MigrationGroup};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// Containers of its namespace.
    pub containers: Vec<Arc<Container>>,
    /// Migrations of all namespaces.
    pub migrations: Vec<Arc<Migration>>,
    /// By Host, its Cloud.
    pub clouds: BTreeMap<String, String>,
}

/// What is to be done, and what is known by then.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Every container of the group, as it is now; absent where nothing is to be said.
    pub members: Option<Vec<Member>>,
    /// Migrations to make.
    pub make: Vec<Migration>,
    /// Migrations to cancel.
    pub cancel: Vec<Arc<Migration>>,
    /// Delete the object: it was kept for long enough.
    pub expire: bool,
}

/// Whether nothing more will happen.
pub fn is_finished(group: &MigrationGroup) -> bool {
    let status = group.status.as_ref();
    status.is_some_and(|s| s.phase.is_finished())
}

/// Decides.
pub fn plan(group: &MigrationGroup, observed: &Observed, now: Timestamp) -> Plan {
    let going = group.meta().deletion_timestamp.is_some();
    if is_finished(group) {
        let expire = !going && expiry(group).is_some_and(|at| at <= now);
        return Plan {
            expire,
            ..Plan::default()
        };
    }
    let status = group.status.clone().unwrap_or_default();
    if status.started_at.is_none() {
        // Written down before anything is made.
        return Plan {
            members: Some(pick(group, observed)),
            ..Plan::default()
        };
    }
    let (mut members, mut plan) = (status.members, Plan::default());
    for (index, member) in members.iter_mut().enumerate() {
        look(group, index, member, observed);
    }
    let refused = members.iter().any(|m| m.state == MemberState::Refused);
    if group.spec.cancel || going {
        stop(&mut members, "before its turn came, as spec.cancel asks");
        plan.cancel = running(group, observed);
    } else if group.spec.stop_on_refusal && refused {
        stop(
            &mut members,
            "before its turn came, as another was refused (spec.stopOnRefusal)",
        );
    } else {
        plan.make = begin(group, &mut members, observed);
    }
    plan.members = Some(members);
    plan
}

/// The containers that it moves, in order.
fn pick(group: &MigrationGroup, observed: &Observed) -> Vec<Member> {
    let meant = |c: &&Arc<Container>| {
        c.meta().deletion_timestamp.is_none() && picks(&group.spec.selector, c)
    };
    let member = |c: &Arc<Container>| Member {
        container: c.name_any(),
        uid: c.uid().unwrap_or_default(),
        wave: wave(group, c),
        ..Member::default()
    };
    let mut members: Vec<_> = observed
        .containers
        .iter()
        .filter(meant)
        .map(member)
        .collect();
    members.sort_by(|a, b| (a.wave, &a.container).cmp(&(b.wave, &b.container)));
    members
}

fn picks(selector: &LabelSelector, container: &Container) -> bool {
    let selector = Selector::try_from(selector.clone());
    selector.is_ok_and(|s| s.matches(container.labels()))
}

fn wave(group: &MigrationGroup, container: &Container) -> i64 {
    let order = &group.spec.order;
    if order.is_empty() {
        let text = container.annotations().get(WAVE);
        return text.and_then(|t| t.parse().ok()).unwrap_or(0);
    }
    let first = order.iter().position(|s| picks(s, container));
    i64::try_from(first.unwrap_or(order.len())).unwrap_or(i64::MAX)
}

/// The name of the Migration of member `index`.
pub fn name(group: &MigrationGroup, index: usize) -> String {
    format!("{}-{index}", group.name_any())
}

fn there<'a>(member: &Member, observed: &'a Observed) -> Option<&'a Arc<Container>> {
    let same = |c: &&Arc<Container>| {
        c.name_any() == member.container && c.uid().as_deref() == Some(&member.uid)
    };
    observed.containers.iter().find(same)
}

/// What became of a container by now.
fn look(group: &MigrationGroup, index: usize, member: &mut Member, observed: &Observed) {
    if member.state.is_final() {
        return;
    }
    let name = name(group, index);
    let namespace = group.namespace();
    let own = observed
        .migrations
        .iter()
        .find(|m| m.name_any() == name && m.namespace() == namespace);
    let container = there(member, observed);
    let at_goal = container.is_some_and(|c| is_at_goal(group, c, observed));
    (member.state, member.message) = match (own, container) {
        (Some(own), _) if !is_owned_by(&**own, &group.uid().unwrap_or_default()) => {
            let message = format!(
                "there is another Migration {name:?}; delete it, or call the group otherwise"
            );
            (MemberState::Refused, Some(message))
        }
        (Some(own), _) => {
            member.migration = Some(name);
            outcome(own)
        }
        (None, None) => (MemberState::Gone, Some("it was deleted".to_owned())),
        (None, Some(_)) if member.migration.is_some() && at_goal => (MemberState::Moved, None),
        (None, Some(_)) if member.migration.is_some() => (
            MemberState::Cancelled,
            Some("its Migration was deleted".to_owned()),
        ),
        (None, Some(_)) if at_goal => (MemberState::There, None),
        (None, Some(_)) => (MemberState::Waiting, None),
    };
}

/// What a Migration says of its container.
fn outcome(migration: &Migration) -> (MemberState, Option<String>) {
    let status = migration.status.clone().unwrap_or_default();
    let condition = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind);
    let told = condition("Succeeded").or_else(|| condition("Accepted"));
    let why = told.map(|c| format!("{}: {}", c.reason, c.message));
    match status.phase {
        MigrationPhase::Succeeded => {
            let lost =
                condition("MemoryKept").filter(|c| c.status == "False" && c.reason != "Cold");
            let lost = lost.map(|c| format!("without its memory: {}: {}", c.reason, c.message));
            (MemberState::Moved, lost)
        }
        MigrationPhase::Cancelled => (MemberState::Cancelled, why),
        MigrationPhase::Failed | MigrationPhase::RolledBack => (MemberState::Refused, why),
        MigrationPhase::Pending => (MemberState::Moving, why),
        _ => (MemberState::Moving, None),
    }
}

fn is_at_goal(group: &MigrationGroup, container: &Container, observed: &Observed) -> bool {
    let Some(host) = container.status.as_ref().and_then(|s| s.host.as_ref()) else {
        return false;
    };
    let target = &group.spec.target;
    match (&target.host, &target.cloud) {
        (Some(wanted), _) => host == wanted,
        (None, Some(cloud)) => observed.clouds.get(host) == Some(cloud),
        (None, None) => false,
    }
}

/// Nothing more begins.
fn stop(members: &mut [Member], why: &str) {
    for member in members.iter_mut() {
        if member.state == MemberState::Waiting {
            (member.state, member.message) = (MemberState::Cancelled, Some(why.to_owned()));
        }
    }
}

/// Its own Migrations that are not finished and not cancelled.
fn running(group: &MigrationGroup, observed: &Observed) -> Vec<Arc<Migration>> {
    let uid = group.uid().unwrap_or_default();
    let open = |m: &&Arc<Migration>| is_owned_by(&***m, &uid) && !is_over(m) && !m.spec.cancel;
    observed.migrations.iter().filter(open).cloned().collect()
}

/// The Migrations whose turn has come; those that wait say for what.
fn begin(group: &MigrationGroup, members: &mut [Member], observed: &Observed) -> Vec<Migration> {
    let spec = &group.spec;
    let open = members.iter().filter(|m| !m.state.is_final());
    let Some(wave) = open.map(|m| m.wave).min() else {
        return vec![];
    };
    let namespace = group.namespace();
    let mut busy = busy(&observed.migrations);
    let moving = members.iter().filter(|m| m.state == MemberState::Moving);
    let mut free = (spec.at_once as usize).saturating_sub(moving.count());
    let mut make = vec![];
    for (index, member) in members.iter_mut().enumerate() {
        if member.state != MemberState::Waiting {
            continue;
        }
        let container = there(member, observed);
        let source = container.and_then(|c| c.status.as_ref()?.host.clone());
        let other = observed.migrations.iter().find(|m| {
            m.namespace() == namespace && m.spec.container == member.container && !is_over(m)
        });
        let ends: Vec<_> = source.iter().chain(&spec.target.host).collect();
        let full = ends.iter().find(|host| {
            busy.get(host.as_str())
                .is_some_and(|n| *n >= spec.at_once_per_host)
        });
        member.message = if member.wave != wave {
            Some(format!("wave {wave} goes before wave {}", member.wave))
        } else if let Some(other) = other {
            Some(format!("it has Migration {:?} already", other.name_any()))
        } else if free == 0 {
            Some(format!("{} are on their way (spec.atOnce)", spec.at_once))
        } else if let Some(host) = full {
            Some(format!(
                "host {host} has {} moves under way (spec.atOncePerHost)",
                spec.at_once_per_host
            ))
        } else {
            for host in ends {
                *busy.entry(host.clone()).or_default() += 1;
            }
            free -= 1;
            make.push(migration(group, index, &member.container));
            None
        };
    }
    make
}

fn migration(group: &MigrationGroup, index: usize, container: &str) -> Migration {
    let spec = MigrationSpec {
        container: container.to_owned(),
        target: group.spec.target.clone(),
        mode: group.spec.mode,
        freeze_budget: group.spec.freeze_budget,
        bandwidth: group.spec.bandwidth,
        at_once_per_host: Some(group.spec.at_once_per_host),
        ..MigrationSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(name(group, index)),
        namespace: group.namespace(),
        labels: Some([(GROUP_LABEL.to_owned(), group.name_any())].into()),
        owner_references: Some(group.controller_owner_ref(&()).into_iter().collect()),
        ..ObjectMeta::default()
    };
    Migration {
        metadata,
        spec,
        status: None,
    }
}

/// When a finished one is deleted.
fn expiry(group: &MigrationGroup) -> Option<Timestamp> {
    let finished = group.status.as_ref()?.finished_at.as_ref()?.0;
    let kept = i64::try_from(group.spec.ttl_after_finished?.0).ok()?;
    finished.checked_add(SignedDuration::from_millis(kept)).ok()
}

/// Says what is known.
pub fn status(
    group: &MigrationGroup,
    plan: &Plan,
    report: &Steps,
    now: Timestamp,
) -> Outcome<MigrationGroupStatus> {
    let before = group.status.clone().unwrap_or_default();
    let Some(members) = plan.members.clone() else {
        let left = expiry(group).map(|at| at.duration_since(now));
        let next = left.map_or(Next::OnChange, |left| {
            Next::After(Duration::try_from(left).unwrap_or_default())
        });
        return Outcome::new(before, report.next(next));
    };
    let mut status = before.clone();
    status.observed_generation = group.metadata.generation;
    let mut notes = news(&before.members, &members);
    if status.started_at.is_none() {
        status.started_at = Some(Time(now));
        notes.push(Note::normal(
            "Begun",
            format!("{} containers", members.len()),
        ));
    }
    let many = members.len();
    count(&mut status, if many > MOST { vec![] } else { members });
    // What was just picked is not looked at before it is written down.
    let over = status.waiting + status.moving == 0;
    let fact = if over {
        end(group, &mut status, many, now)
    } else {
        status.phase = MigrationGroupPhase::Moving;
        progress(&status, report)
    };
    if over {
        notes.push(match status.phase {
            MigrationGroupPhase::Succeeded => Note::normal(&fact.reason, &fact.message),
            _ => Note::warning(&fact.reason, &fact.message),
        });
    }
    condition::merge(
        &mut status.conditions,
        &[fact],
        group.metadata.generation,
        now,
    );
    Outcome {
        next: report.next(Next::OnChange),
        status,
        notes,
    }
}

/// What is to be said of containers that stay.
fn news(before: &[Member], after: &[Member]) -> Vec<Note> {
    let known = |m: &Member| before.iter().any(|b| b.uid == m.uid && b.state == m.state);
    let stays = after
        .iter()
        .filter(|m| m.state == MemberState::Refused && !known(m));
    stays
        .map(|m| {
            let why = m.message.clone().unwrap_or_default();
            Note::warning("Refused", format!("{}: {why}", m.container))
        })
        .collect()
}

fn count(status: &mut MigrationGroupStatus, members: Vec<Member>) {
    use MemberState as S;
    let of = |states: &[S]| {
        let found = members.iter().filter(|m| states.contains(&m.state));
        u32::try_from(found.count()).unwrap_or(u32::MAX)
    };
    status.moved = of(&[S::Moved, S::There]);
    status.moving = of(&[S::Moving]);
    status.waiting = of(&[S::Waiting]);
    status.refused = of(&[S::Refused, S::Cancelled]);
    status.containers = u32::try_from(members.len()).unwrap_or(u32::MAX);
    status.members = members;
}

fn progress(status: &MigrationGroupStatus, report: &Steps) -> Fact {
    let message = format!(
        "{} of {} moved, {} moving, {} waiting, {} not moved",
        status.moved, status.containers, status.moving, status.waiting, status.refused
    );
    match report.first_failure() {
        Some((step, e)) => Fact::no(COMPLETE, e.reason(), format!("{step}: {e}")),
        None => Fact::unknown(COMPLETE, "Moving", message),
    }
}

fn end(
    group: &MigrationGroup,
    status: &mut MigrationGroupStatus,
    many: usize,
    now: Timestamp,
) -> Fact {
    status.finished_at = Some(Time(now));
    if let Some(begun) = &status.started_at {
        let took = Duration::try_from(now.duration_since(begun.0)).unwrap_or_default();
        status.total = Some(took.into());
    }
    let (moved, all) = (status.moved, status.containers);
    if all == 0 {
        status.phase = MigrationGroupPhase::Incomplete;
        let (reason, message) = match many {
            0 => (
                "NothingPicked",
                "picks no Container of the namespace".to_owned(),
            ),
            _ => (
                "TooMany",
                format!("picks {many} Containers; {MOST} at the most, make several groups"),
            ),
        };
        return Fact::no(COMPLETE, reason, format!("spec.selector: {message}"));
    }
    let stays = status
        .members
        .iter()
        .find(|m| matches!(m.state, MemberState::Refused | MemberState::Cancelled));
    let Some(stays) = stays else {
        status.phase = MigrationGroupPhase::Succeeded;
        return Fact::yes(COMPLETE, "Moved", format!("{moved} of {all} moved"));
    };
    let why = stays.message.clone().unwrap_or_default();
    let message = format!(
        "{moved} of {all} moved, {} not: {}: {why}",
        status.refused, stays.container
    );
    let (phase, reason) = match group.spec.cancel {
        true => (MigrationGroupPhase::Cancelled, "Cancelled"),
        false => (MigrationGroupPhase::Incomplete, "NotAllMoved"),
    };
    status.phase = phase;
    Fact::no(COMPLETE, reason, message)
}

const COMPLETE: &str = "Complete";
