//! What is said of a Host: its conditions, phase and events, and when to look again. Pure.

use super::{
    plan::{Heartbeat, Observed, Report, Seen, Step, pending, usable},
    ssh::Trouble,
    upgrade::{self, Upgrade},
};
use jiff::Timestamp;
use kube::Resource;
use skysail_clouds::State;
use skysail_reconcile::{Error, Next, Note, Outcome};
use skysail_schemas::{
    Host, HostStatus,
    condition::{self, Fact},
    host::HostPhase,
};
use std::time::Duration;

/// The conditions that `Ready` is derived from, in the order in which they explain.
const PARTS: [&str; 4] = ["Provisioned", "Reachable", "Bootstrapped", "AgentAlive"];
/// How often a machine that runs is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often a machine that cannot be used is looked at: only its owner can mend it, and nothing tells us when.
const MENDED: Duration = Duration::from_secs(5);
/// How often a machine that boots is knocked at; longer and longer pauses would waste what its cloud was fast at.
const BOOTS: Duration = Duration::from_secs(1);
/// How long a first boot is believed in, in seconds.
const YOUTH: i64 = 600;

/// Says what is known.
pub fn status(
    host: &Host,
    observed: &Observed,
    report: &Report,
    now: Timestamp,
) -> Outcome<HostStatus> {
    let mut status = host.status.clone().unwrap_or_default();
    let deleting = host.meta().deletion_timestamp.is_some();
    let notes = notes(report);
    if deleting && report.failed.is_none() && report.done.contains(&Step::Forget) {
        return Outcome {
            status,
            next: Next::Finished,
            notes,
        };
    }
    let generation = host.metadata.generation;
    status.observed_generation = generation;
    let machine = report.machine.as_ref().or(match &observed.machine {
        Seen::Present(machine) => Some(machine),
        _ => None,
    });
    if let Some(machine) = machine {
        status.machine_id = Some(machine.id.clone());
        status.addresses.internal = machine.internal.or(status.addresses.internal);
        status.addresses.external = machine.external;
    }
    // The agent measures; until it has, the machine type is the best that is known.
    if status.capacity.is_none() {
        status.capacity = observed.resources;
        status.allocatable = observed.resources;
    }
    let mut facts = facts(observed, report, machine.is_some(), status.phase);
    if let Some(alive) = facts.last_mut() {
        keep_log(alive, host, observed);
    }
    status.phase = phase(observed, report, deleting, &facts, status.phase);
    facts.extend(upgrade::fact(observed, report));
    condition::merge(&mut status.conditions, &facts, generation, now);
    let ready = if deleting {
        leaving(observed, report)
    } else {
        condition::ready(&status.conditions, &PARTS)
    };
    condition::merge(&mut status.conditions, &[ready], generation, now);
    Outcome {
        status,
        next: next(host, observed, report, now),
        notes,
    }
}

fn notes(report: &Report) -> Vec<Note> {
    let done = report
        .done
        .iter()
        .filter(|s| !matches!(s, Step::Label(_)))
        .map(|s| Note::normal(s.event(), s.title()));
    let failed = report
        .failed
        .iter()
        .map(|(step, e)| Note::warning(e.reason(), format!("{}: {e}", step.title())));
    done.chain(failed).collect()
}

/// What is known, in the order of [`PARTS`]; what was not looked at is left out.
fn facts(observed: &Observed, report: &Report, machine: bool, before: HostPhase) -> Vec<Fact> {
    let alive = matches!(observed.heartbeat, Heartbeat::Alive(_));
    let provisioned = provisioned(observed, report, machine, alive);
    let up = provisioned.status == Some(true);
    let reachable = match &observed.probe {
        _ if alive && up => Some(Fact::yes("Reachable", "AgentAlive", "the agent reports")),
        Some(Ok(_)) => Some(Fact::yes("Reachable", "Connected", "SSH works")),
        Some(Err(trouble)) => Some(unreachable(trouble)),
        None if up => None,
        None => Some(Fact::unknown(
            "Reachable",
            "Pending",
            "waits for the machine",
        )),
    };
    let mut facts = vec![provisioned];
    facts.extend(reachable);
    facts.extend(bootstrapped(observed, report, alive));
    facts.push(agent_alive(observed, before));
    facts
}

fn provisioned(observed: &Observed, report: &Report, machine: bool, alive: bool) -> Fact {
    let kind = "Provisioned";
    if let Some((step @ Step::Create { .. }, e)) = &report.failed {
        return Fact::no(kind, e.reason(), format!("{}: {e}", step.title()));
    }
    match (&observed.order, &observed.machine) {
        (Err(e), Seen::Absent) => Fact::no(kind, e.reason(), e.to_string()),
        // An agent that reports runs on a machine, whatever its cloud fails to say.
        (_, Seen::Unknown(e)) if alive => {
            let message = format!("the agent reports; the cloud cannot be asked: {e}");
            Fact::yes(kind, "AgentAlive", message)
        }
        (_, Seen::Unknown(e)) => Fact::unknown(kind, e.reason(), e.to_string()),
        (_, Seen::Present(m)) if m.state == State::Stopped && report.machine.is_none() => {
            Fact::no(kind, "Stopped", "the machine does not run")
        }
        (_, Seen::Present(m)) if m.state == State::Starting => {
            Fact::no(kind, "Starting", "the machine is booting")
        }
        _ if machine => Fact::yes(kind, "Running", "the machine runs"),
        _ => Fact::no(kind, "Ordering", "the machine is being ordered"),
    }
}

fn bootstrapped(observed: &Observed, report: &Report, alive: bool) -> Option<Fact> {
    let kind = "Bootstrapped";
    // One that lives is installed; what comes of replacing it is told apart.
    if observed.upgrade != Upgrade::Now
        && let Some((step, e)) = &report.failed
        && let Some([_, failed]) = step.doing()
    {
        let reason = match e {
            Error::Refused { reason, .. } => reason,
            _ => failed,
        };
        return Some(Fact::no(kind, reason, format!("{}: {e}", step.title())));
    }
    if !alive && let Some(Ok(Err(e))) = observed.probe.as_ref().map(|p| p.as_ref().map(usable)) {
        return Some(Fact::no(kind, e.reason(), e.to_string()));
    }
    let started = report.done.iter().any(|s| matches!(s, Step::Start { .. }));
    if started || alive {
        let message = "the agent is installed and started";
        return Some(Fact::yes(kind, "Installed", message));
    }
    let (step, [doing, _]) = left(observed, report)
        .into_iter()
        .find_map(|step| step.doing().map(|reasons| (step, reasons)))?;
    Some(Fact::no(kind, doing, step.title()))
}

/// What of bootstrap is left after this turn.
pub fn left(observed: &Observed, report: &Report) -> Vec<Step> {
    let mut steps = pending(observed);
    steps.retain(|step| !report.done.contains(step));
    steps
}

fn agent_alive(observed: &Observed, before: HostPhase) -> Fact {
    let kind = "AgentAlive";
    match observed.heartbeat {
        Heartbeat::Alive(_) => Fact::yes(kind, "Heartbeat", "the agent renews its lease"),
        Heartbeat::Silent(for_) => {
            let message = format!(
                "the agent's lease ended {} s ago{}",
                for_.as_secs() / 10 * 10,
                log(observed)
            );
            Fact::unknown(kind, "HeartbeatLost", message)
        }
        Heartbeat::Never if before == HostPhase::Pending => {
            Fact::no(kind, "Pending", "the agent was not started yet")
        }
        Heartbeat::Never => {
            let message = format!("the agent has not reported yet{}", log(observed));
            Fact::no(kind, "AwaitingHeartbeat", message)
        }
    }
}

fn log(observed: &Observed) -> String {
    match &observed.probe {
        Some(Ok(probe)) if !probe.log.is_empty() => format!("{LOG_ENDS}{}", probe.log),
        _ => String::new(),
    }
}

/// What the log said when it was last looked at stays until it is looked at again.
fn keep_log(fact: &mut Fact, host: &Host, observed: &Observed) {
    let status = host.status.as_ref();
    let before = status.and_then(|s| s.conditions.iter().find(|c| c.type_ == fact.kind));
    let Some(before) = before.filter(|c| c.reason == fact.reason && observed.probe.is_none())
    else {
        return;
    };
    if let Some((_, log)) = before.message.split_once(LOG_ENDS) {
        fact.message = format!("{}{LOG_ENDS}{log}", fact.message);
    }
}

const LOG_ENDS: &str = "; its log ends: ";

pub fn unreachable(trouble: &Trouble) -> Fact {
    match trouble {
        Trouble::Unreachable(said) => Fact::no(
            "Reachable",
            "Unreachable",
            format!("no SSH to {said}; is the machine up and the address right?"),
        ),
        Trouble::KeyRefused(said) => Fact::no(
            "Reachable",
            "KeyRefused",
            format!(
                "{said}; add Skysail's public key (ssh/id_ed25519.pub in the data directory) to authorized_keys there, or name a Secret in keySecret"
            ),
        ),
        Trouble::HostKeyChanged(at) => Fact::no(
            "Reachable",
            "HostKeyChanged",
            format!(
                "{at} shows another host key than before; if the machine was reinstalled, delete this Host and create it again"
            ),
        ),
        Trouble::Failed(said) => Fact::no("Reachable", "SessionFailed", said.clone()),
    }
}

fn phase(
    observed: &Observed,
    report: &Report,
    deleting: bool,
    facts: &[Fact],
    before: HostPhase,
) -> HostPhase {
    let refused = |e: &Error| matches!(e, Error::Refused { .. });
    let stuck = facts.iter().any(|f| {
        [
            "WrongOperatingSystem",
            "WrongArchitecture",
            "NoRoot",
            "KeyRefused",
            "HostKeyChanged",
        ]
        .contains(&f.reason.as_str())
    });
    let up = facts.first().is_some_and(|f| f.status == Some(true));
    if deleting {
        HostPhase::Deleting
    } else if stuck
        || (observed.upgrade != Upgrade::Now
            && report.failed.as_ref().is_some_and(|(_, e)| refused(e)))
        || (!up && observed.order.as_ref().is_err_and(refused))
    {
        HostPhase::Failed
    } else if !up {
        HostPhase::Provisioning
    } else {
        match observed.heartbeat {
            Heartbeat::Alive(_) => HostPhase::Running,
            Heartbeat::Silent(_) if matches!(before, HostPhase::Running | HostPhase::Lost) => {
                HostPhase::Lost
            }
            _ => HostPhase::Bootstrapping,
        }
    }
}

fn leaving(observed: &Observed, report: &Report) -> Fact {
    let ready = condition::READY;
    if let Some((step, e)) = &report.failed {
        return Fact::no(ready, "DeletionFailed", format!("{}: {e}", step.title()));
    }
    if let Seen::Unknown(e) = &observed.machine {
        return Fact::unknown(
            ready,
            e.reason(),
            format!("the machine cannot be given back: {e}"),
        );
    }
    let mut names = observed.containers.clone();
    let more = names.len().saturating_sub(5);
    names.truncate(5);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Fact::no(
        ready,
        "ContainersLeft",
        format!(
            "deletion waits for containers that are here: {}{more}; delete them",
            names.join(", ")
        ),
    )
}

fn next(host: &Host, observed: &Observed, report: &Report, now: Timestamp) -> Next {
    if let Some((_, e)) = &report.failed {
        return patient(e);
    }
    if let Seen::Unknown(e) = &observed.machine {
        return patient(e);
    }
    if host.meta().deletion_timestamp.is_some() {
        return Next::After(Duration::from_secs(2));
    }
    if let Err(e) = &observed.order
        && observed.machine == Seen::Absent
    {
        return patient(e);
    }
    match (&observed.probe, observed.heartbeat) {
        (Some(Err(Trouble::Unreachable(_))), Heartbeat::Never) if young(host, now) => {
            Next::After(BOOTS)
        }
        (Some(Err(Trouble::Unreachable(_) | Trouble::Failed(_))), _) => Next::Retry,
        (Some(Err(_)), _) => Next::After(MENDED),
        (Some(Ok(probe)), _) if usable(probe).is_err() => Next::After(MENDED),
        _ if !left(observed, report).is_empty() => Next::After(Duration::ZERO),
        (_, Heartbeat::Alive(left)) => {
            Next::After(left.saturating_add(Duration::from_millis(100)).min(LOOK))
        }
        // A machine that was just made, or an agent that was just started: the answer is near.
        _ => Next::After(Duration::from_millis(200)),
    }
}

/// Whether the machine may still be booting for the first time.
fn young(host: &Host, now: Timestamp) -> bool {
    let created = host.meta().creation_timestamp.as_ref().map(|t| t.0);
    created.is_some_and(|at| now.duration_since(at).as_secs() < YOUTH)
}

/// A refusal too is asked again now and then: what it waits for may not be an object.
fn patient(e: &Error) -> Next {
    match e.next() {
        Next::OnChange => Next::After(Duration::from_secs(60)),
        other => other,
    }
}
