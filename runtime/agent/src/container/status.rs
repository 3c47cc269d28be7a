//! What the API is told of a container: a pure function.

use super::apply::Report;
use super::plan::{self, Plan, Seen, Step};
use super::record::{Desired, Record};
use super::resize;
use super::site::pause;
use crate::checkpoint;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skysail_reconcile::{Next, Note, Outcome};
use skysail_schemas::condition::{Fact, merge, ready};
use skysail_schemas::container::{Container, ContainerPhase, ContainerStatus, ContainerUsage};
use skysail_schemas::quantity::Bytes;
use std::time::Duration;

/// The condition that the agent owns.
const RUNNING: &str = "Running";
/// What must hold for a container to be ready, in the order in which it comes about.
const PARTS: [&str; 3] = ["Scheduled", "Networked", RUNNING];

/// How long nothing is said of a container that was just bound and has no address yet. That takes milliseconds, and
/// a status that says so would be one write more for every start, which everybody who follows containers sees.
const NETWORKED_SOON: SignedDuration = SignedDuration::from_secs(2);

fn is_being_networked(status: &ContainerStatus, plan: &Plan, now: Timestamp) -> bool {
    let waits = plan.blocked.as_ref();
    let waits = waits.is_some_and(|b| b.reason == plan::NETWORK_PENDING);
    let mut conditions = status.conditions.iter();
    let bound = conditions.find(|c| c.type_ == "Scheduled" && c.status == "True");
    waits && bound.is_some_and(|c| now.duration_since(c.last_transition_time.0) < NETWORKED_SOON)
}

/// What is known now, and what to wait for.
pub fn status(
    container: &Container,
    desired: &Desired,
    seen: &Seen,
    usage: Option<&ContainerUsage>,
    plan: &Plan,
    report: &Report,
    now: Timestamp,
) -> Outcome<ContainerStatus> {
    let mut status = container.status.clone().unwrap_or_default();
    let record = report.record.as_ref().unwrap_or(&seen.record);
    let failure = report.steps.first_failure();
    let foreign = !seen.record.desired.uid.is_empty() && seen.record.desired.uid != desired.uid;
    if desired.removed && failure.is_none() && !foreign {
        return Outcome::new(status, Next::Finished);
    }
    if failure.is_none() && is_being_networked(&status, plan, now) {
        return Outcome::new(status, Next::After(NETWORKED_SOON.unsigned_abs()));
    }
    let (phase, fact) = told(desired, record, seen, plan, report);
    status.phase = phase;
    status.pid = record.init.map(|i| i.pid);
    status.started_at = record
        .started_at
        .filter(|_| record.init.is_some())
        .map(Time);
    status.restarts = record.restarts;
    status.usage = match (record.init, usage) {
        (None, _) => None,
        (Some(_), Some(new)) => Some(notable(status.usage.take(), new)),
        (Some(_), None) => status.usage.take(),
    };
    status.observed_generation = container.metadata.generation;
    let generation = container.metadata.generation;
    let mut facts = vec![fact];
    let layer = record.layer.as_ref();
    facts.extend(layer.map(|l| l.fact(desired.allocation.disk)));
    facts.extend(bandwidth(desired, record, seen));
    facts.extend(resize::fact(&status, record, plan));
    let obstacles = seen.obstacles.as_ref().filter(|_| record.init.is_some());
    facts.extend(obstacles.map(|all| checkpoint::fact(all)));
    merge(&mut status.conditions, &facts, generation, now);
    let ready = ready(&status.conditions, &PARTS);
    merge(&mut status.conditions, &[ready], generation, now);
    let mut outcome = Outcome::new(status, report.steps.next(next(plan, seen, foreign, now)));
    outcome.notes = notes(plan, report);
    outcome
}

/// Whether its bandwidth limit is kept; none where it has none, or nothing to limit yet.
fn bandwidth(desired: &Desired, record: &Record, seen: &Seen) -> Option<Fact> {
    const CONDITION: &str = "BandwidthLimited";
    let limit = desired.allocation.bandwidth?;
    if !seen.limits_bandwidth {
        let message = format!(
            "{limit} is not kept: this host's Open vSwitch datapath has no meters; use another host, or a newer kernel here"
        );
        return Some(Fact::no(CONDITION, "NotSupported", message));
    }
    let kept = !record.attached.is_empty() && record.bandwidth == Some(limit);
    kept.then(|| Fact::yes(CONDITION, "Enforced", format!("{limit} in each direction")))
}

fn next(plan: &Plan, seen: &Seen, foreign: bool, now: Timestamp) -> Next {
    if foreign {
        return Next::After(Duration::from_millis(50));
    }
    match (pause(plan.blocked.as_ref(), now), &plan.blocked) {
        (Some(pause), _) => Next::After(pause),
        (None, Some(b)) if b.reason == "FetchingImage" => Next::After(Duration::from_secs(2)),
        // That it is over comes without an event.
        _ if seen.trouble.is_some() => Next::After(Duration::from_secs(2)),
        _ => Next::OnChange,
    }
}

fn told(
    desired: &Desired,
    record: &Record,
    seen: &Seen,
    plan: &Plan,
    report: &Report,
) -> (ContainerPhase, Fact) {
    let failure = report.steps.first_failure();
    if desired.removed {
        let message = failure.map_or_else(String::new, |(step, e)| format!("{step}: {e}"));
        return (
            ContainerPhase::Deleting,
            Fact::no(RUNNING, "Deleting", message),
        );
    }
    if let Some((step, e)) = failure {
        let phase = match (record.init, desired.runs()) {
            (Some(_), true) => ContainerPhase::Running,
            (None, true) => ContainerPhase::Starting,
            (_, false) => ContainerPhase::Stopping,
        };
        return (
            phase,
            Fact::no(RUNNING, reason(step, e.reason()), e.to_string()),
        );
    }
    if record.init.is_some() {
        if let Some(trouble) = &seen.trouble {
            let fact = Fact::no(RUNNING, "NetworkFailed", trouble.clone());
            return (ContainerPhase::Running, fact);
        }
        return (ContainerPhase::Running, Fact::yes(RUNNING, "Started", ""));
    }
    match &plan.blocked {
        Some(b) if b.reason == "Exited" => (
            ContainerPhase::Stopped,
            Fact::no(RUNNING, "Exited", b.message.clone()),
        ),
        Some(b) => (
            ContainerPhase::Starting,
            Fact::no(RUNNING, b.reason.clone(), b.message.clone()),
        ),
        None if desired.runs() => (
            ContainerPhase::Starting,
            Fact::no(RUNNING, "Starting", "its host prepares it"),
        ),
        None => (
            ContainerPhase::Stopped,
            Fact::no(RUNNING, "Stopped", "spec.running is false"),
        ),
    }
}

/// A word for what failed, more telling than "Error" where the step tells it.
fn reason(step: &str, reason: &str) -> String {
    let word = match step.split([' ', '{', '(']).next().unwrap_or_default() {
        _ if reason != "Error" => reason,
        "Start" => "StartFailed",
        "Ports" | "DetachPorts" => "NetworkFailed",
        "Root" | "Unmount" => "MountFailed",
        "Namespaces" | "DropNamespaces" => "NamespaceFailed",
        "Stop" | "Kill" => "StopFailed",
        _ => reason,
    };
    word.to_owned()
}

/// `new` where it tells more than noise, else what was reported: a status that hums is a load on everybody who watches it.
fn notable(old: Option<ContainerUsage>, new: &ContainerUsage) -> ContainerUsage {
    let far = |a: u64, b: u64, least: u64| a.abs_diff(b) > least.max(a / 5);
    let size = |disk: Option<Bytes>| disk.map_or(0, |b| b.0);
    match old {
        Some(old)
            if !far(old.cpu.0, new.cpu.0, 50)
                && !far(old.memory.0, new.memory.0, 16 << 20)
                && !far(old.pids.into(), new.pids.into(), 8)
                && old.disk.is_some() == new.disk.is_some()
                && !far(size(old.disk), size(new.disk), 4 << 20) =>
        {
            old
        }
        _ => new.clone(),
    }
}

fn notes(plan: &Plan, report: &Report) -> Vec<Note> {
    if let Some((step, e)) = report.steps.first_failure() {
        return vec![Note::warning(reason(step, e.reason()), e.to_string())];
    }
    let note = |step: &Step| match step {
        Step::Start { again: false } => Some(Note::normal("Started", "its init runs")),
        Step::Start { again: true } => Some(Note::normal(
            "Restarted",
            "its init had ended and was started again",
        )),
        Step::Stop => Some(Note::normal("Stopped", "its init was ended")),
        _ => None,
    };
    plan.steps.iter().filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skysail_schemas::quantity::Cpu;

    #[test]
    fn noise_in_the_use_is_not_reported_and_a_change_is() {
        let old = ContainerUsage {
            cpu: Cpu(500),
            memory: Bytes(100 << 20),
            pids: 10,
            disk: None,
        };
        let noise = ContainerUsage {
            cpu: Cpu(540),
            memory: Bytes(110 << 20),
            pids: 12,
            disk: None,
        };
        let change = ContainerUsage {
            cpu: Cpu(900),
            ..noise.clone()
        };
        assert_eq!(notable(Some(old.clone()), &noise), old);
        assert_eq!(notable(Some(old), &change), change);
        assert_eq!(notable(None, &noise), noise);
    }

    #[test]
    fn a_failed_step_names_itself_in_the_reason() {
        assert_eq!(reason("Start { again: false }", "Error"), "StartFailed");
        assert_eq!(reason("Root", "DiskFull"), "DiskFull");
    }
}
