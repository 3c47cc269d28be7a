//! Migration: moves one container to another host, with its files, its addresses and its name.
//!
//! Made by people, by `skysail migrate`, and by whatever empties hosts. It is done once:
//! a finished Migration stays as a record until its `ttlAfterFinished` is over.

use crate::duration::Span;
use crate::quantity::{Bandwidth, Bytes};
use crate::validate::{Cause, Errors, Validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Keeps a Migration until neither host has anything left to do for it.
pub const MIGRATION_FINALIZER: &str = "skysail.dev/migration";
/// TCP port on which agents take containers from each other.
pub const STREAM_PORT: u16 = 6446;

/// A move of one container to another host.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "Migration",
    plural = "migrations",
    singular = "migration",
    namespaced,
    shortname = "mig",
    category = "skysail",
    status = "MigrationStatus",
    derive = "PartialEq",
    selectable = ".spec.container",
    selectable = ".status.source",
    selectable = ".status.target",
    printcolumn(name = "Container", type_ = "string", json_path = ".spec.container"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "From", type_ = "string", json_path = ".status.source"),
    printcolumn(name = "To", type_ = "string", json_path = ".status.target"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".status.mode"),
    printcolumn(name = "Freeze", type_ = "string", json_path = ".status.freeze"),
    printcolumn(name = "Bytes", type_ = "string", json_path = ".status.progress.bytes"),
    printcolumn(name = "Rate", type_ = "string", json_path = ".status.progress.rate"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].reason"
    ),
    printcolumn(
        name = "Total",
        type_ = "string",
        json_path = ".status.total",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Succeeded\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MigrationSpec {
    /// The Container, in the same namespace.
    pub container: String,
    /// Where to; wherever placement says where it is empty.
    #[serde(default)]
    pub target: MigrationTarget,
    /// Whether its processes go with it.
    #[serde(default)]
    pub mode: MigrationMode,
    /// The longest time that a live move may stop it. Where more is foreseen, the move is given up before the stop
    /// (or made cold, with `LiveElseCold`); where it has taken twice as long and is not committed, it is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_budget: Option<Span>,
    /// Wait while one of its two hosts has so many moves under way, of whoever made them; 4 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once_per_host: Option<u32>,
    /// What the copy may use of the network; no limit where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// How long a finished Migration is kept; for ever where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_after_finished: Option<Span>,
    /// Give it up, if it is not committed yet. Cannot be taken back.
    #[serde(default)]
    pub cancel: bool,
}

/// Where a container shall go: a host, or any host of a cloud, or (both absent) any other host.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationTarget {
    /// This Host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A Host of this Cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
}

/// Whether a container's processes go with it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MigrationMode {
    /// They go on where they were: memory, open files and connections come along.
    #[default]
    Live,
    /// They end on the source, and its init starts anew on the target; files come along.
    Cold,
    /// Live where that is possible, else cold.
    LiveElseCold,
}

/// Where a Migration is. The order is the order in which it goes on.
#[derive(
    Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum MigrationPhase {
    /// No target is chosen yet.
    #[default]
    Pending,
    /// A target is chosen and room is kept there; the two hosts find each other.
    Preparing,
    /// Files are copied; the container runs.
    Copying,
    /// The container stands still; what changed since is copied.
    Freezing,
    /// The target has all of it; the change of owner is being written.
    Committing,
    /// The target owns it and lets it run.
    Resuming,
    /// It runs on the target; the source removes what it had of it.
    CleaningUp,
    /// Done.
    Succeeded,
    /// Given up before the container was touched.
    Failed,
    /// Given up because that was asked for; the container is where it was.
    Cancelled,
    /// Given up after the container stood still; it went on where it was.
    RolledBack,
}

impl MigrationPhase {
    /// Whether nothing more will happen.
    pub fn is_finished(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::RolledBack
        )
    }
}

/// What is known of a Migration.
///
/// The controller writes what is said before the first step (`source` to `endpoint`); from then on the agents of
/// both hosts write, until it is finished.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Where it is.
    pub phase: MigrationPhase,
    /// Tells the container from a later one of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_uid: Option<String>,
    /// The host that has the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The host that gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The container's epoch on the source; on the target it is one more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// What is done: `Live` or `Cold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<MigrationMode>,
    /// Where the target's agent waits for the source's: address and TCP port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How far the copy is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<MigrationProgress>,
    /// How long the container stood still, by the source's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Span>,
    /// Where that time went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_parts: Option<FreezeParts>,
    /// From the choice of the target until the container ran there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<Span>,
    /// When the target was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// `Accepted`, `Committed`, `MemoryKept` and `Succeeded`.
    pub conditions: Vec<Condition>,
}

/// Where the time went in which a container stood still, by the source's clock.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct FreezeParts {
    /// Until it was dumped or, in a cold move, had stopped.
    pub dump: Span,
    /// Until the target had everything that was not there before.
    pub transfer: Span,
    /// Until the target had restored it up to its first instruction.
    pub restore: Span,
    /// Until the change of owner was written and nothing of it was left on the source.
    pub commit: Span,
    /// Until it ran on the target.
    pub resume: Span,
}

/// How far a copy is.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationProgress {
    /// Passes over the container's files that were begun; the last one is made while it stands still.
    pub round: u32,
    /// Bytes sent so far.
    pub bytes: Bytes,
    /// Bytes that this pass found to send.
    pub expected: Bytes,
    /// Bytes sent per second.
    pub rate: Bytes,
    /// How long this pass will still take at that rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Span>,
}

impl MigrationTarget {
    /// Every mistake in it, as `spec.target`.
    pub(crate) fn validate(&self, errors: &mut Errors) {
        for (field, value) in [
            ("spec.target.host", &self.host),
            ("spec.target.cloud", &self.cloud),
        ] {
            if let Some(value) = value {
                errors.dns_label(field, value);
            }
        }
        if self.host.is_some() && self.cloud.is_some() {
            errors.push(
                Cause::Forbidden,
                "spec.target.cloud",
                "cannot stand beside spec.target.host: a host is in one cloud",
            );
        }
    }
}

/// Every mistake in what a move may take.
pub(crate) fn limits(
    freeze_budget: Option<Span>,
    bandwidth: Option<Bandwidth>,
    errors: &mut Errors,
) {
    errors.check(
        bandwidth.is_none_or(|b| b.0 >= 1_000_000),
        "spec.bandwidth",
        "must be at least 1M (bits per second)",
    );
    errors.check(
        freeze_budget.is_none_or(|b| b.0 > 0),
        "spec.freezeBudget",
        "must be longer than nothing",
    );
}

impl Validate for MigrationSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        errors.dns_label("spec.container", &self.container);
        let target = &self.target;
        target.validate(errors);
        limits(self.freeze_budget, self.bandwidth, errors);
        errors.check(
            self.at_once_per_host.is_none_or(|n| (1..=100).contains(&n)),
            "spec.atOncePerHost",
            "must be 1 to 100",
        );
        let way_out = "cancel this Migration and make another";
        errors.immutable(
            "spec.container",
            &self.container,
            old.map(|o| &o.container),
            way_out,
        );
        errors.immutable("spec.target", target, old.map(|o| &o.target), way_out);
        errors.immutable("spec.mode", &self.mode, old.map(|o| &o.mode), way_out);
        if old.is_some_and(|o| o.cancel) && !self.cancel {
            errors.push(
                Cause::Forbidden,
                "spec.cancel",
                "cannot be taken back; make another Migration",
            );
        }
    }
}
