//! What a Host needs. Pure.

use super::{probe::Probe, ssh::Trouble};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use skysail_clouds::{Machine, Order, State};
use skysail_reconcile::{Error, Next, Note, Outcome};
use skysail_schemas::{
    Host, HostStatus,
    condition::{self, Fact},
    host::{HostPhase, Resources},
};
use std::{collections::BTreeMap, time::Duration};

/// The conditions that `Ready` is derived from, in the order in which they explain.
const PARTS: [&str; 4] = ["Provisioned", "Reachable", "Bootstrapped", "AgentAlive"];
/// How often a machine that runs is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long an agent that was just started may take to its first heartbeat before
/// the machine is looked at again.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the cloud says of the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// There certainly is none.
    Absent,
    /// There is this one.
    Present(Machine),
    /// The cloud could not be asked, or not understood.
    Unknown(Error),
}

/// When the agent was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// It never was.
    Never,
    /// Its lease holds for so long.
    Alive(Duration),
    /// Its lease ended so long ago.
    Silent(Duration),
}

/// What was seen.
#[derive(Debug)]
pub struct Observed {
    /// What to ask the cloud for, or why that cannot be said.
    pub order: Result<Order, Error>,
    /// The machine.
    pub machine: Seen,
    /// The agent's lease.
    pub heartbeat: Heartbeat,
    /// What SSH shows; `None` where nobody looked, as nothing depends on it.
    pub probe: Option<Result<Probe, Trouble>>,
    /// SHA-256 of the program that runs here.
    pub binary: String,
    /// Labels that the Host shall carry.
    pub labels: BTreeMap<String, String>,
    /// What its machine type has.
    pub resources: Option<Resources>,
    /// Containers bound to it (asked only when it is being deleted).
    pub containers: Vec<String>,
}

/// One thing to do.
#[derive(Clone, PartialEq)]
pub enum Step {
    /// Set the labels.
    Label(BTreeMap<String, String>),
    /// Order the machine, or have it started again. `anew`: there was none, so what was known of the last is void.
    Create {
        /// What to ask for.
        order: Box<Order>,
        /// Whether no machine was there.
        anew: bool,
    },
    /// Install packages.
    Packages(Vec<String>),
    /// Copy the program.
    Binary(String),
    /// Give the agent a fresh credential.
    Credential,
    /// Start the agent; with systemd or with the plain supervisor.
    Start {
        /// Whether systemd is there.
        systemd: bool,
    },
    /// Give the machine back.
    Delete(String),
    /// Forget what is known of the machine here and in the API.
    Forget,
}

/// As in the log: what, not with what.
impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title())
    }
}

impl Step {
    /// For people.
    pub fn title(&self) -> String {
        match self {
            Self::Label(_) => "set labels".into(),
            Self::Create { anew: true, .. } => "order the machine".into(),
            Self::Create { anew: false, .. } => "start the machine again".into(),
            Self::Packages(names) => format!("install {}", names.join(", ")),
            Self::Binary(_) => "copy the skysail binary".into(),
            Self::Credential => "issue the agent's credential".into(),
            Self::Start { .. } => "start the agent".into(),
            Self::Delete(_) => "give the machine back".into(),
            Self::Forget => "forget the machine's keys and lease".into(),
        }
    }

    fn event(&self) -> &'static str {
        match self {
            Self::Label(_) => "Labelled",
            Self::Create { anew: true, .. } => "MachineOrdered",
            Self::Create { anew: false, .. } => "MachineRestarted",
            Self::Packages(_) => "PackagesInstalled",
            Self::Binary(_) => "BinaryCopied",
            Self::Credential => "CredentialIssued",
            Self::Start { .. } => "AgentStarted",
            Self::Delete(_) => "MachineDeleted",
            Self::Forget => "MachineForgotten",
        }
    }

    fn is_bootstrap(&self) -> bool {
        matches!(
            self,
            Self::Packages(_) | Self::Binary(_) | Self::Credential | Self::Start { .. }
        )
    }
}

/// What is to be done, in order; a step that fails ends the turn, as the later ones rest on it.
pub type Plan = Vec<Step>;

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Steps that were done.
    pub done: Vec<Step>,
    /// The step that failed, and why.
    pub failed: Option<(Step, Error)>,
    /// The machine as it was made.
    pub machine: Option<Machine>,
}

/// Decides.
pub fn plan(host: &Host, observed: &Observed) -> Plan {
    if host.meta().deletion_timestamp.is_some() {
        return removal(observed);
    }
    let mut steps = vec![];
    if observed
        .labels
        .iter()
        .any(|(key, value)| host.labels().get(key) != Some(value))
    {
        steps.push(Step::Label(observed.labels.clone()));
    }
    // Making a machine takes its time: the Host says that it is at it before it is.
    let said = host
        .status
        .as_ref()
        .is_some_and(|s| s.phase != HostPhase::Pending);
    let order = observed.order.as_ref().ok().filter(|_| said);
    match (&observed.machine, order) {
        (Seen::Absent, Some(order)) => steps.push(Step::Create {
            order: Box::new(order.clone()),
            anew: true,
        }),
        (Seen::Present(machine), Some(order)) if machine.state == State::Stopped => {
            steps.push(Step::Create {
                order: Box::new(order.clone()),
                anew: false,
            })
        }
        (Seen::Present(_), _) => {
            if let Some(Ok(probe)) = &observed.probe {
                steps.extend(bootstrap(probe, &observed.binary).unwrap_or_default());
            }
        }
        _ => {}
    }
    steps
}

fn removal(observed: &Observed) -> Plan {
    let agent_works = matches!(observed.heartbeat, Heartbeat::Alive(_))
        && matches!(&observed.machine, Seen::Present(m) if m.state == State::Running);
    match &observed.machine {
        // A living agent takes its containers down in order; a dead one's go with the machine.
        Seen::Present(_) if agent_works && !observed.containers.is_empty() => vec![],
        Seen::Present(machine) => vec![Step::Delete(machine.id.clone()), Step::Forget],
        Seen::Absent => vec![Step::Forget],
        Seen::Unknown(_) => vec![],
    }
}

/// The steps that `probe` shows to be needed, or why the machine cannot be used.
pub fn bootstrap(probe: &Probe, binary: &str) -> Result<Plan, Error> {
    usable(probe)?;
    let mut steps = vec![];
    if !probe.missing.is_empty() {
        steps.push(Step::Packages(probe.missing.clone()));
    }
    if probe.binary.as_deref() != Some(binary) {
        steps.push(Step::Binary(binary.to_owned()));
    }
    // An agent that is silent may hold a credential of another time; a fresh one costs nothing.
    if probe
        .credential_age
        .is_none_or(|age| age > PATIENCE.as_secs())
    {
        steps.push(Step::Credential);
    }
    steps.push(Step::Start {
        systemd: probe.systemd,
    });
    Ok(steps)
}

fn usable(probe: &Probe) -> Result<(), Error> {
    let debian = probe.os.iter().any(|o| o == "debian");
    let old =
        probe.os.first().is_some_and(|o| o == "debian") && probe.os_version.is_some_and(|v| v < 12);
    if !debian || old {
        let message = format!(
            "the machine runs {}; hosts need Debian 12 or newer (or a distribution made from it): install that, or name another machine",
            probe.os_name
        );
        return Err(Error::refused("WrongOperatingSystem", message));
    }
    if !probe.root {
        let message = "the login is neither root nor able to `sudo -n`; log in as root, or allow sudo without a password";
        return Err(Error::refused("NoRoot", message));
    }
    Ok(())
}

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
    condition::merge(&mut status.conditions, &facts, generation, now);
    let ready = if deleting {
        leaving(observed, report)
    } else {
        condition::ready(&status.conditions, &PARTS)
    };
    condition::merge(&mut status.conditions, &[ready], generation, now);
    Outcome {
        status,
        next: next(observed, report, deleting),
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

fn facts(observed: &Observed, report: &Report, machine: bool, before: HostPhase) -> Vec<Fact> {
    let alive = matches!(observed.heartbeat, Heartbeat::Alive(_));
    let failure = |pick: fn(&Step) -> bool| {
        report
            .failed
            .as_ref()
            .filter(|(step, _)| pick(step))
            .map(|(step, e)| (e.reason().to_owned(), format!("{}: {e}", step.title())))
    };
    let provisioned = match (&observed.order, &observed.machine) {
        _ if failure(|s| matches!(s, Step::Create { .. })).is_some() => {
            let (reason, message) =
                failure(|s| matches!(s, Step::Create { .. })).unwrap_or_default();
            Fact::no("Provisioned", reason, message)
        }
        (Err(e), Seen::Absent) => Fact::no("Provisioned", e.reason(), e.to_string()),
        (_, Seen::Unknown(e)) => Fact::unknown("Provisioned", e.reason(), e.to_string()),
        (_, Seen::Present(m)) if m.state == State::Stopped && report.machine.is_none() => {
            Fact::no("Provisioned", "Stopped", "the machine does not run")
        }
        (_, Seen::Present(m)) if m.state == State::Starting => {
            Fact::no("Provisioned", "Starting", "the machine is booting")
        }
        _ if machine => Fact::yes("Provisioned", "Running", "the machine runs"),
        _ => Fact::no("Provisioned", "Ordering", "the machine is being ordered"),
    };
    let up = provisioned.status == Some(true);
    let mut facts = vec![provisioned];
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
    facts.extend(reachable);
    let refusal = observed
        .probe
        .as_ref()
        .and_then(|p| p.as_ref().ok())
        .and_then(|p| usable(p).err());
    let finished = report.done.iter().any(|s| matches!(s, Step::Start { .. }));
    if let Some((reason, message)) = failure(Step::is_bootstrap) {
        facts.push(Fact::no("Bootstrapped", reason, message));
    } else if let Some(e) = refusal {
        facts.push(Fact::no("Bootstrapped", e.reason(), e.to_string()));
    } else if finished || alive {
        facts.push(Fact::yes(
            "Bootstrapped",
            "Installed",
            "the agent is installed and started",
        ));
    }
    facts.push(match observed.heartbeat {
        Heartbeat::Alive(_) => Fact::yes("AgentAlive", "Heartbeat", "the agent renews its lease"),
        Heartbeat::Silent(for_) => Fact::unknown(
            "AgentAlive",
            "HeartbeatLost",
            format!(
                "the agent's lease ended {} s ago{}",
                for_.as_secs() / 10 * 10,
                log(observed)
            ),
        ),
        Heartbeat::Never if before == HostPhase::Pending => {
            Fact::no("AgentAlive", "Pending", "the agent was not started yet")
        }
        Heartbeat::Never => Fact::no(
            "AgentAlive",
            "AwaitingHeartbeat",
            format!("the agent has not reported yet{}", log(observed)),
        ),
    });
    facts
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

fn unreachable(trouble: &Trouble) -> Fact {
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
        || report.failed.as_ref().is_some_and(|(_, e)| refused(e))
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

fn next(observed: &Observed, report: &Report, deleting: bool) -> Next {
    if let Some((_, e)) = &report.failed {
        return patient(e);
    }
    if let Seen::Unknown(e) = &observed.machine {
        return patient(e);
    }
    if deleting {
        return Next::After(Duration::from_secs(2));
    }
    if let Err(e) = &observed.order
        && observed.machine == Seen::Absent
    {
        return patient(e);
    }
    match (&observed.probe, observed.heartbeat) {
        (Some(Err(Trouble::Unreachable(_) | Trouble::Failed(_))), _) => Next::Retry,
        (Some(Err(_)), _) => Next::After(Duration::from_secs(30)),
        (Some(Ok(probe)), _) if usable(probe).is_err() => Next::After(Duration::from_secs(60)),
        (_, Heartbeat::Alive(left)) => {
            Next::After(left.saturating_add(Duration::from_millis(100)).min(LOOK))
        }
        // A machine that was just made, or an agent that was just started: the answer is near.
        _ => Next::After(Duration::from_millis(200)),
    }
}

/// A refusal too is asked again now and then: what it waits for may not be an object.
fn patient(e: &Error) -> Next {
    match e.next() {
        Next::OnChange => Next::After(Duration::from_secs(60)),
        other => other,
    }
}
