//! MigrationGroup: moves many containers, in waves, not too many at once.
//!
//! Done once, as a Migration is: which containers it moves is settled when it begins. It makes one Migration for
//! each, owned by the group, and sums up what became of them.

use crate::duration::Span;
use crate::migration::{MigrationMode, MigrationTarget};
use crate::quantity::Bandwidth;
use crate::validate::{Cause, Errors, Validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use kube::core::Selector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Annotation of a Container: the wave in which a group moves it, a whole number; 0 where absent. The lowest go first.
pub const WAVE: &str = "skysail.dev/wave";
/// Label of the Migrations that a group makes: its name.
pub const GROUP_LABEL: &str = "skysail.dev/migration-group";
/// Containers of a group at the most: its status names each.
pub const MOST: usize = 1000;

/// A move of the containers that a selector picks.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "MigrationGroup",
    plural = "migrationgroups",
    singular = "migrationgroup",
    namespaced,
    shortname = "mg",
    category = "skysail",
    status = "MigrationGroupStatus",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Containers",
        type_ = "integer",
        json_path = ".status.containers"
    ),
    printcolumn(name = "Moved", type_ = "integer", json_path = ".status.moved"),
    printcolumn(name = "Moving", type_ = "integer", json_path = ".status.moving"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting"),
    printcolumn(name = "Refused", type_ = "integer", json_path = ".status.refused"),
    printcolumn(name = "Cloud", type_ = "string", json_path = ".spec.target.cloud"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.target.host"),
    printcolumn(name = "Total", type_ = "string", json_path = ".status.total"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Complete\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MigrationGroupSpec {
    /// Which containers of the namespace; all where it is empty. Those that are there already stay.
    #[serde(default)]
    pub selector: LabelSelector,
    /// Where to; wherever placement says, for each, where it is empty.
    #[serde(default)]
    pub target: MigrationTarget,
    /// Whether processes go along.
    #[serde(default)]
    pub mode: MigrationMode,
    /// The longest time that a live move may stop a container; see `Migration.spec.freezeBudget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_budget: Option<Span>,
    /// What each copy may use of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Waves: what the first selector picks goes first, what none picks goes last. Where this is empty, the
    /// containers' annotation `skysail.dev/wave` says. A wave begins when nothing of the one before is on its way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<LabelSelector>,
    /// Containers that are on their way at once, at the most.
    #[serde(default = "at_once")]
    pub at_once: u32,
    /// The same for each host that they leave or come to, moves of others counted.
    #[serde(default = "at_once_per_host")]
    pub at_once_per_host: u32,
    /// Begin nothing more once one of them could not be moved.
    #[serde(default)]
    pub stop_on_refusal: bool,
    /// How long a finished group is kept, and its Migrations with it; for ever where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_after_finished: Option<Span>,
    /// Begin nothing more, and give up what is not committed yet. Cannot be taken back.
    #[serde(default)]
    pub cancel: bool,
}

fn at_once() -> u32 {
    4
}

fn at_once_per_host() -> u32 {
    2
}

/// How far a group is.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MigrationGroupPhase {
    /// It is not settled yet which containers it moves.
    #[default]
    Pending,
    /// Containers move, or wait to.
    Moving,
    /// All of them are where they should be.
    Succeeded,
    /// Over, and some are not where they should be.
    Incomplete,
    /// Over because that was asked for.
    Cancelled,
}

impl MigrationGroupPhase {
    /// Whether nothing more will happen.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Incomplete | Self::Cancelled)
    }
}

/// What is known of a group.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationGroupStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// How far it is.
    pub phase: MigrationGroupPhase,
    /// Containers that it is about.
    pub containers: u32,
    /// Those that are where they should be, also those that were before.
    pub moved: u32,
    /// Those on their way.
    pub moving: u32,
    /// Those whose turn has not come.
    pub waiting: u32,
    /// Those that stayed where they were: refused, rolled back or cancelled.
    pub refused: u32,
    /// When it was settled which containers it moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it was finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// From one to the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<Span>,
    /// Each container, in the order in which they go.
    pub members: Vec<Member>,
    /// `Complete`.
    pub conditions: Vec<Condition>,
}

/// A container of a group.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    /// Its name.
    pub container: String,
    /// Tells it from a later one of the same name.
    pub uid: String,
    /// Its wave.
    pub wave: i64,
    /// What became of it.
    pub state: MemberState,
    /// Its Migration, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
    /// Why it stays or waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What became of a container of a group.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemberState {
    /// Its turn has not come.
    #[default]
    Waiting,
    /// It is on its way.
    Moving,
    /// It is where it should be.
    Moved,
    /// It was there before.
    There,
    /// It stays, for the reason in `message`.
    Refused,
    /// It stays, because that was asked for.
    Cancelled,
    /// It was deleted.
    Gone,
}

impl MemberState {
    /// Whether nothing more will happen to it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Moving)
    }
}

impl Validate for MigrationGroupSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        errors.check(
            name.len() <= 58,
            "metadata.name",
            "must have at most 58 characters: its Migrations are called like it, with a number",
        );
        self.target.validate(errors);
        let order = self.order.iter().enumerate();
        let order = order.map(|(i, s)| (format!("spec.order[{i}]"), s));
        for (field, selector) in order.chain([("spec.selector".to_owned(), &self.selector)]) {
            if let Err(e) = Selector::try_from(selector.clone()) {
                errors.push(Cause::Invalid, field, e.to_string());
            }
        }
        for (field, at_once) in [
            ("spec.atOnce", self.at_once),
            ("spec.atOncePerHost", self.at_once_per_host),
        ] {
            errors.check((1..=100).contains(&at_once), field, "must be 1 to 100");
        }
        crate::migration::limits(self.freeze_budget, self.bandwidth, errors);
        let way_out = "cancel this MigrationGroup and make another";
        let fixed = |s: &Self| {
            (
                s.selector.clone(),
                s.order.clone(),
                s.target.clone(),
                s.mode,
            )
        };
        let (now, before) = (fixed(self), old.map(fixed));
        errors.immutable(
            "spec.selector",
            &now.0,
            before.as_ref().map(|b| &b.0),
            way_out,
        );
        errors.immutable("spec.order", &now.1, before.as_ref().map(|b| &b.1), way_out);
        errors.immutable(
            "spec.target",
            &now.2,
            before.as_ref().map(|b| &b.2),
            way_out,
        );
        errors.immutable("spec.mode", &now.3, before.as_ref().map(|b| &b.3), way_out);
        if old.is_some_and(|o| o.cancel) && !self.cancel {
            errors.push(
                Cause::Forbidden,
                "spec.cancel",
                "cannot be taken back; make another MigrationGroup",
            );
        }
    }
}
