//! What is to be done for a container: a pure function of what should be and what was seen.

use super::record::{Desired, Init, Record};
use crate::checkpoint::Obstacle;
use crate::image::ImageState;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// Why a container waits whose ports are not all here.
pub const NETWORK_PENDING: &str = "NetworkPending";
/// How long an init is given to end by itself.
pub const GRACE: Duration = Duration::from_secs(10);
/// An init that ran this long was no failed start.
const SETTLED: SignedDuration = SignedDuration::from_secs(10);
/// How often it is looked whether a failed fetch is worth another try: room on the disk comes without an event.
const FETCH_LOOK: SignedDuration = SignedDuration::from_secs(2);
/// How long the layer of a container that left without a farewell is kept.
pub const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// What was seen of a container on this host.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What is on record; the default if nothing is.
    pub record: Record,
    /// Its init, if it runs.
    pub process: Option<Init>,
    /// Its image.
    pub image: ImageState,
    /// Whether its namespaces are held.
    pub namespaces: bool,
    /// Whether its root is mounted.
    pub root: bool,
    /// Whether this agent process gave its ports to the switch; an earlier one's word is not relied on.
    pub connected: bool,
    /// What is wrong with its network since it was connected.
    pub trouble: Option<String>,
    /// Whether the switch can keep a bandwidth limit.
    pub limits_bandwidth: bool,
    /// Whether anything of it is left here.
    pub anything: bool,
    /// What stands against moving it live; none if it does not run or was not looked at.
    pub obstacles: Option<Vec<Obstacle>>,
    /// Whether a migration has it in its hands.
    pub held: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Put on record what should be.
    Remember,
    /// Put on record that its init ended by itself; `failures` in a row so far.
    NoteEnd {
        /// See [`Record::failures`].
        failures: u32,
    },
    /// Put on record which process is its init.
    Adopt(Init),
    /// Begin to fetch the image.
    FetchImage,
    /// Give it ids of its own.
    TakeIds,
    /// Make its namespaces.
    Namespaces,
    /// Mount its root.
    Root,
    /// Connect its ports.
    Ports,
    /// Give what runs the size that it should have.
    Resize,
    /// Write the files that tell it its name and addresses, then start its init.
    Start {
        /// It ran before and ended by itself.
        again: bool,
    },
    /// Ask its init to end, and kill it after a time.
    Stop,
    /// Kill it.
    Kill,
    /// Take its ports off the switch.
    DetachPorts,
    /// Unmount its root.
    Unmount,
    /// Let its namespaces go.
    DropNamespaces,
    /// Remove its layer, logs and record; its ids are free again.
    Forget,
}

/// Why it does not run although it should.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocked {
    /// CamelCase word for the condition.
    pub reason: String,
    /// What it waits for.
    pub message: String,
    /// When it goes on by itself; none where something must change.
    pub until: Option<Timestamp>,
}

/// What is to be done, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Steps; several that do not depend on each other may run at once.
    pub steps: Vec<Step>,
    /// What the container waits for.
    pub blocked: Option<Blocked>,
}

impl Plan {
    fn wait(mut self, reason: &str, message: impl Into<String>, until: Option<Timestamp>) -> Self {
        self.blocked = Some(Blocked {
            reason: reason.to_owned(),
            message: message.into(),
            until,
        });
        self
    }
}

/// How long to wait before the next start after `failures` in a row: at once after the first end, then doubling up to five minutes.
pub fn delay(failures: u32) -> SignedDuration {
    match failures {
        0 => SignedDuration::ZERO,
        n => SignedDuration::from_millis(200_i64 << (n - 1).min(11))
            .min(SignedDuration::from_mins(5)),
    }
}

/// What is to be done so that what was `seen` becomes as `desired`.
pub fn plan(desired: &Desired, seen: &Seen, now: Timestamp) -> Plan {
    let (old, mut plan) = (&seen.record.desired, Plan::default());
    if seen.held {
        let message =
            "it stands still while it moves to another host; its Migration says how far that is";
        return plan.wait("Migrating", message, None);
    }
    if !old.uid.is_empty() && old.uid != desired.uid {
        // What is here belongs to an earlier container of the same name.
        plan.steps = removal(seen, true);
        return plan;
    }
    if desired.epoch < old.epoch {
        return plan.wait(
            "StaleEpoch",
            format!(
                "epoch {} was seen here already; waits for news of it",
                old.epoch
            ),
            None,
        );
    }
    if desired.removed {
        // On record first: an agent that is killed now must not start it again while the API is away.
        if seen.record.id.is_some() && old != desired {
            plan.steps.push(Step::Remember);
        }
        plan.steps.extend(removal(seen, true));
        return plan;
    }
    if old != desired || seen.record.left_at.is_some() {
        plan.steps.push(Step::Remember);
    }
    match seen.process {
        Some(init) if desired.runs() => {
            if seen.record.init != Some(init) {
                plan.steps.push(Step::Adopt(init));
            }
            if seen.namespaces && is_complete(desired) && !is_connected(desired, seen) {
                plan.steps.push(Step::Ports);
            }
            // One that was started again behind our back has the size of its last start.
            let has = seen.record.sized.as_ref().filter(|(of, _)| *of == init);
            if has.map(|(_, size)| size) != Some(&desired.allocation) {
                plan.steps.push(Step::Resize);
            }
            plan
        }
        Some(_) => {
            plan.steps.push(Step::Stop);
            plan.steps.extend(release(seen));
            plan
        }
        None => start(desired, seen, now, plan),
    }
}

/// What is to be done for a container that the control plane does not list here any more: it stops at once, its
/// layer is kept for a while.
pub fn leave(seen: &Seen, now: Timestamp) -> Plan {
    let gone = seen
        .record
        .left_at
        .is_some_and(|since| now.duration_since(since) >= KEPT);
    Plan {
        steps: removal(seen, gone),
        blocked: None,
    }
}

fn start(desired: &Desired, seen: &Seen, now: Timestamp, mut plan: Plan) -> Plan {
    let record = &seen.record;
    let (mut failures, mut ended_at) = (record.failures, record.ended_at);
    if record.launched && !desired.runs() {
        plan.steps.push(Step::Stop);
    } else if record.launched {
        let settled = record
            .started_at
            .is_some_and(|at| now.duration_since(at) >= SETTLED);
        failures = if settled { 0 } else { failures + 1 };
        ended_at = Some(now);
        plan.steps.push(Step::NoteEnd { failures });
    }
    if !desired.runs() {
        plan.steps.extend(release(seen));
        return plan;
    }
    if ended_at.is_some() && !desired.restarts() {
        plan.steps.extend(release(seen));
        return plan.wait(
            "Exited",
            "its init ended and spec.restartPolicy is Never",
            None,
        );
    }
    let Some(image) = &desired.image else {
        return plan.wait(
            "ImagePending",
            "placement has not resolved its image yet",
            None,
        );
    };
    match &seen.image {
        ImageState::Present => {}
        ImageState::Absent => {
            plan.steps.push(Step::FetchImage);
            return plan.wait(
                "FetchingImage",
                format!("fetches image {}", image.name),
                None,
            );
        }
        ImageState::Fetching(bytes) => {
            return plan.wait(
                "FetchingImage",
                format!("fetches image {}: {} MiB so far", image.name, bytes >> 20),
                None,
            );
        }
        ImageState::Failed {
            again,
            reason,
            message,
        } => {
            if now >= *again {
                plan.steps.push(Step::FetchImage);
            }
            let look = (*again).clamp(now, now + FETCH_LOOK);
            return plan.wait(reason, message.clone(), Some(look));
        }
    }
    if !is_complete(desired) {
        // What needs no address is made meanwhile.
        plan.steps.extend(ground(seen, desired));
        let (have, need) = (desired.ports.len(), desired.spec.networks.len());
        return plan.wait(
            NETWORK_PENDING,
            format!("{have} of {need} ports are here; the container controller makes them"),
            None,
        );
    }
    if let Some(until) = ended_at
        .map(|at| at + delay(failures))
        .filter(|until| *until > now)
    {
        return plan.wait("BackOff", format!("its init ended soon or did not start {failures} times in a row; starts again after a pause"), Some(until));
    }
    plan.steps.extend(ground(seen, desired));
    if !seen.namespaces || !is_connected(desired, seen) {
        plan.steps.push(Step::Ports);
    }
    plan.steps.push(Step::Start {
        again: ended_at.is_some(),
    });
    plan
}

/// What a start stands on: ids, namespaces, a root.
fn ground(seen: &Seen, desired: &Desired) -> Vec<Step> {
    let ids = seen.record.ids.is_none() && !desired.spec.privileged;
    let all = [
        (ids, Step::TakeIds),
        (!seen.namespaces, Step::Namespaces),
        (!seen.root, Step::Root),
    ];
    all.into_iter()
        .filter(|(missing, _)| *missing)
        .map(|(_, step)| step)
        .collect()
}

fn is_complete(desired: &Desired) -> bool {
    desired.ports.len() == desired.spec.networks.len()
}

fn is_connected(desired: &Desired, seen: &Seen) -> bool {
    seen.connected
        && seen.record.attached == desired.ports
        && seen.record.bandwidth == desired.allocation.bandwidth
}

/// Gives back what only a running container needs; without its namespace nobody answers at its addresses.
fn release(seen: &Seen) -> Vec<Step> {
    let mut steps = Vec::new();
    if !seen.record.attached.is_empty() {
        steps.push(Step::DetachPorts);
    }
    if seen.root {
        steps.push(Step::Unmount);
    }
    if seen.namespaces {
        steps.push(Step::DropNamespaces);
    }
    steps
}

fn removal(seen: &Seen, forget: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if seen.process.is_some() || seen.record.launched {
        steps.push(Step::Kill);
    }
    steps.extend(release(seen));
    if forget && seen.anything {
        steps.push(Step::Forget);
    }
    steps
}
