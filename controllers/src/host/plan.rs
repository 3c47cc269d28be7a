//! What a Host needs. Pure.

use super::{
    probe::Probe,
    ssh::Trouble,
    upgrade::{self, Upgrade},
};
use kube::{Resource, ResourceExt};
use skysail_clouds::{Machine, Order, State};
use skysail_reconcile::Error;
use skysail_schemas::{
    Host,
    host::{HostPhase, Resources},
};
use std::{collections::BTreeMap, time::Duration};

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
    /// Whether the agent, which lives, is of another build.
    pub upgrade: Upgrade,
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

    /// Reason of the condition `Bootstrapped` while this is under way, and after it failed.
    pub fn doing(&self) -> Option<[&'static str; 2]> {
        match self {
            Self::Packages(_) => Some(["InstallingPackages", "PackagesFailed"]),
            Self::Binary(_) => Some(["CopyingBinary", "BinaryFailed"]),
            Self::Credential => Some(["IssuingCredential", "CredentialFailed"]),
            Self::Start { .. } => Some(["StartingAgent", "StartFailed"]),
            _ => None,
        }
    }

    /// Reason of the event after it was done.
    pub fn event(&self) -> &'static str {
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
            order: Box::new(Order {
                // The machine that was written down is gone: this order is not the one that bought it.
                instead_of: host.status.as_ref().and_then(|s| s.machine_id.clone()),
                ..order.clone()
            }),
            anew: true,
        }),
        (Seen::Present(machine), Some(order)) if machine.state == State::Stopped => {
            steps.push(Step::Create {
                order: Box::new(order.clone()),
                anew: false,
            })
        }
        (Seen::Present(_), _) => {
            // One a turn, and announced: whoever looks, sees what is being done now.
            let step = pending(observed).into_iter().next();
            steps.extend(step.filter(|step| announced(host, step)));
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

/// The steps of bootstrap that are left, as far as can be seen.
pub fn pending(observed: &Observed) -> Plan {
    match &observed.probe {
        Some(Ok(probe)) => bootstrap(probe, &observed.binary).unwrap_or_default(),
        _ => vec![],
    }
}

/// Whether the Host says already that `step` is under way, or failed when it was tried.
fn announced(host: &Host, step: &Step) -> bool {
    let conditions = host.status.iter().flat_map(|s| &s.conditions);
    let said = conditions
        .filter(|c| ["Bootstrapped", upgrade::CONDITION].contains(&c.type_.as_str()))
        .filter(|c| c.status == "False")
        .map(|c| c.reason.as_str());
    let reasons = step.doing().unwrap_or_default();
    said.into_iter().any(|reason| reasons.contains(&reason))
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

/// Whether a host can be made of the machine, or why not.
pub fn usable(probe: &Probe) -> Result<(), Error> {
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
    let own = std::env::consts::ARCH;
    if let Some(theirs) = probe.architecture.as_deref().filter(|a| *a != own) {
        let message = format!(
            "the machine is {theirs} and this skysail is built for {own}; name a machine of {own}, or run a skysail built for {theirs}"
        );
        return Err(Error::refused("WrongArchitecture", message));
    }
    if !probe.root {
        let message = "the login is neither root nor able to `sudo -n`; log in as root, or allow sudo without a password";
        return Err(Error::refused("NoRoot", message));
    }
    Ok(())
}
