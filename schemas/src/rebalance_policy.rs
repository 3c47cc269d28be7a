//! RebalancePolicy: when containers that run are moved to other hosts, and how many at once.

use crate::duration::Span;
use crate::machine_type::price;
use crate::migration::MigrationMode;
use crate::quantity::Bytes;
use crate::validate::{Cause, Errors, Validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Label of every Migration that a policy asked for: the policy's name.
pub const POLICY_LABEL: &str = "skysail.dev/rebalances";
/// Annotation of a policy in mode `Manual`: ids of proposals that shall be done, separated by spaces or commas, or
/// `all`.
pub const APPROVE: &str = "skysail.dev/approve";
/// Annotation of a Host whose cloud takes it back: when, in RFC 3339.
pub const SPOT_NOTICE: &str = "skysail.dev/spot-notice";
/// Proposals, and decisions, that a status lists at the most.
pub const LISTED: usize = 20;

/// Moves containers that run: away from hosts that go or are too busy, together on fewer hosts, to cheaper ones.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "RebalancePolicy",
    plural = "rebalancepolicies",
    singular = "rebalancepolicy",
    shortname = "rp",
    category = "skysail",
    status = "RebalancePolicyStatus",
    derive = "PartialEq",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Proposals", type_ = "integer", json_path = ".status.open"),
    printcolumn(name = "Moving", type_ = "integer", json_path = ".status.moving"),
    printcolumn(name = "Moved", type_ = "integer", json_path = ".status.moved"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RebalancePolicySpec {
    /// Whether what is proposed is done.
    #[serde(default)]
    pub mode: RebalanceMode,
    /// What is looked for; of two reasons to move a container, the one that stands first here counts.
    #[serde(default = "every_strategy")]
    pub strategies: Vec<RebalanceStrategy>,
    /// Only hosts of these clouds, as source and as target; all where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clouds: Vec<String>,
    /// Only containers of these namespaces; all where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// When a host is too busy.
    #[serde(default)]
    pub hotspot: Hotspot,
    /// When fewer, or cheaper, hosts are worth the moves.
    #[serde(default)]
    pub saving: Saving,
    /// How much is moved at once.
    #[serde(default)]
    pub budgets: Budgets,
    /// How long a container stays where it was moved to; what must leave its host does not wait.
    #[serde(default = "ten_minutes")]
    pub cooldown: Span,
    /// When moves may begin; at any time where absent. What must leave its host does not wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Whether processes go along.
    #[serde(default = "live_else_cold")]
    pub migration: MigrationMode,
}

fn every_strategy() -> Vec<RebalanceStrategy> {
    use RebalanceStrategy::{Consolidate, Evacuate, FollowPrice, RelieveHotspots, RestoreRules};
    vec![
        Evacuate,
        RelieveHotspots,
        RestoreRules,
        Consolidate,
        FollowPrice,
    ]
}
fn ten_minutes() -> Span {
    Span(600_000)
}
fn live_else_cold() -> MigrationMode {
    MigrationMode::LiveElseCold
}

/// Whether what is proposed is done.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RebalanceMode {
    /// It is only said, in the policy's status.
    #[default]
    Report,
    /// It is done once the policy's annotation `skysail.dev/approve` names it.
    Manual,
    /// It is done.
    Automatic,
}

/// A reason to move containers.
#[derive(
    Serialize,
    Deserialize,
    JsonSchema,
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Hash,
)]
pub enum RebalanceStrategy {
    /// Their host is cordoned, is being deleted, or its cloud takes it back.
    #[default]
    Evacuate,
    /// Their host uses more than it should for longer than it should.
    RelieveHotspots,
    /// Their own placement rules no longer hold where they are.
    RestoreRules,
    /// Their host can be emptied and given back.
    Consolidate,
    /// The same fits on a host that costs less.
    FollowPrice,
}

/// When a host is too busy. Shares are in percent of what the host can give.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Hotspot {
    /// Cores in use.
    pub cpu: u32,
    /// Memory in use.
    pub memory: u32,
    /// Share of time in which something waited for cores or memory (pressure-stall information), on a host that uses
    /// at least half of that resource itself.
    pub pressure: u32,
    /// For how long.
    pub hold: Span,
    /// A host that gets a container uses no more than this afterwards.
    pub target: u32,
}

impl Default for Hotspot {
    fn default() -> Self {
        Self {
            cpu: 85,
            memory: 90,
            pressure: 60,
            hold: Span(5_000),
            target: 70,
        }
    }
}

/// When fewer, or cheaper, hosts are worth the moves: what the host costs over the horizon must be more than what the
/// moves cost.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Saving {
    /// For how long it must have been possible.
    pub hold: Span,
    /// For how long the saving is expected to last.
    pub horizon: Span,
    /// What it costs to send a gibibyte, a decimal number in the currency of the machines' prices.
    pub price_per_gib: String,
    /// What a second costs in which a container stands still.
    pub price_per_frozen_second: String,
}

impl Default for Saving {
    fn default() -> Self {
        Self {
            hold: Span(300_000),
            horizon: Span(4 * 3_600_000),
            price_per_gib: "0.01".into(),
            price_per_frozen_second: "0.001".into(),
        }
    }
}

/// How much is moved at once.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Budgets {
    /// Moves at once.
    pub total: u32,
    /// Moves at once from or to one host.
    pub per_host: u32,
    /// Moves at once of one tenant's containers.
    pub per_tenant: u32,
    /// Moves that begin within an hour.
    pub per_hour: u32,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            total: 4,
            per_host: 2,
            per_tenant: 4,
            per_hour: 60,
        }
    }
}

/// A time of the week, in UTC.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Days on which it begins; every day where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// When it begins: `22:00`.
    pub from: String,
    /// When it ends, on the next day where that is not later than `from`: `06:00`.
    pub to: String,
}

/// A day of the week.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Window {
    /// Minutes of the day at which it begins and ends; `None` where they are no times of day.
    pub fn minutes(&self) -> Option<(u32, u32)> {
        Some((minutes(&self.from)?, minutes(&self.to)?))
    }
}

fn minutes(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |t: &str| (t.len() == 2).then(|| t.parse::<u32>().ok()).flatten();
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

/// What a policy saw and decided.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RebalancePolicyStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Proposals that are not under way.
    pub open: u32,
    /// Its Migrations that are not finished.
    pub moving: u32,
    /// Moves that it has begun since it was made.
    pub moved: u64,
    /// What it would do next, and why it does not yet; the first 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proposals: Vec<Proposal>,
    /// What it did, the newest first; the last 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
    /// Hosts that are too busy, since when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hot: BTreeMap<String, Time>,
    /// Hosts that could be emptied with a saving, since when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spare: BTreeMap<String, Time>,
    /// Hosts of which nothing is known, and why; they are neither source nor target. The first 20.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unknown: BTreeMap<String, String>,
    /// When the moves of the last hour began: what `perHour` counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub begun: Vec<Time>,
    /// `Ready`.
    pub conditions: Vec<Condition>,
}

/// A move that would be good.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Proposal {
    /// What approves it; the namespace and the name that its Migration gets.
    pub id: String,
    /// Why it was looked for.
    pub strategy: RebalanceStrategy,
    /// The Container: namespace and name.
    pub container: String,
    /// Its host.
    pub from: String,
    /// The host that it would get.
    pub to: String,
    /// The Container's epoch for which this is meant; at another one it is void.
    pub revision: u64,
    /// What it saves per hour, where it saves money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saving_per_hour: Option<String>,
    /// What the moves cost that this saving needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// Bytes to send, about.
    pub bytes: Bytes,
    /// How long it would stand still, about.
    pub freeze: Span,
    /// What was seen, with numbers.
    pub reason: String,
    /// Why it is not done yet.
    pub waits: Waits,
    /// The same in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Why a proposal is not done yet.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Waits {
    /// The policy only reports.
    #[default]
    Report,
    /// Nobody has approved it.
    Approval,
    /// As much as is allowed is moved already.
    Budget,
    /// No window is open.
    Window,
    /// The container was moved a short while ago.
    Cooldown,
    /// The same move was tried and given up.
    Failed,
    /// No other host will do.
    Room,
    /// Nothing: its Migration is being made.
    Nothing,
}

/// A move that was begun.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Decision {
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// The move as it was proposed, with its numbers.
    #[serde(flatten)]
    pub proposal: Proposal,
}

impl Validate for RebalancePolicySpec {
    fn validate(&self, name: &str, _old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        for (i, cloud) in self.clouds.iter().enumerate() {
            errors.dns_label(&format!("spec.clouds[{i}]"), cloud);
        }
        for (i, strategy) in self.strategies.iter().enumerate() {
            if self.strategies[..i].contains(strategy) {
                let field = format!("spec.strategies[{i}]");
                errors.push(
                    Cause::Duplicate,
                    field,
                    format!("{strategy:?} stands twice"),
                );
            }
        }
        self.hotspot(errors);
        for (field, text) in [
            ("spec.saving.pricePerGib", &self.saving.price_per_gib),
            (
                "spec.saving.pricePerFrozenSecond",
                &self.saving.price_per_frozen_second,
            ),
        ] {
            let good = price(text).is_some();
            errors.check(
                good,
                field,
                format!("{text:?} must be a number that is not negative"),
            );
        }
        for (field, value) in [
            ("spec.budgets.total", self.budgets.total),
            ("spec.budgets.perHost", self.budgets.per_host),
            ("spec.budgets.perTenant", self.budgets.per_tenant),
            ("spec.budgets.perHour", self.budgets.per_hour),
        ] {
            errors.check(value <= 1000, field, "must be at most 1000");
        }
        for (i, window) in self.windows.iter().enumerate() {
            errors.check(
                window.minutes().is_some(),
                &format!("spec.windows[{i}]"),
                "from and to must be times of day, for example 22:00 and 06:00",
            );
        }
    }
}

impl RebalancePolicySpec {
    fn hotspot(&self, errors: &mut Errors) {
        let hot = &self.hotspot;
        for (field, value) in [
            ("spec.hotspot.cpu", hot.cpu),
            ("spec.hotspot.memory", hot.memory),
            ("spec.hotspot.pressure", hot.pressure),
            ("spec.hotspot.target", hot.target),
        ] {
            errors.check(
                (1..=100).contains(&value),
                field,
                "must be between 1 and 100 (percent)",
            );
        }
        errors.check(
            hot.target.saturating_add(10) <= hot.cpu.min(hot.memory),
            "spec.hotspot.target",
            "must be at least 10 below cpu and memory, or containers would go back and forth",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mistakes(spec: serde_json::Value) -> Vec<String> {
        let spec: RebalancePolicySpec = serde_json::from_value(spec).unwrap();
        let mut errors = Errors::default();
        spec.validate("policy", None, &mut errors);
        errors.0.into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn a_policy_that_says_nothing_reports_and_is_valid() {
        assert_eq!(mistakes(json!({})), Vec::<String>::new());
        let spec: RebalancePolicySpec = serde_json::from_value(json!({})).unwrap();
        assert_eq!(spec.mode, RebalanceMode::Report);
        assert_eq!(spec.strategies.len(), 5);
    }

    #[test]
    fn what_would_make_containers_go_back_and_forth_or_means_nothing_is_refused() {
        let cases = [
            (json!({"hotspot": {"target": 80}}), "spec.hotspot.target"),
            (json!({"hotspot": {"cpu": 0}}), "spec.hotspot.cpu"),
            (
                json!({"saving": {"pricePerGib": "NaN"}}),
                "spec.saving.pricePerGib",
            ),
            (
                json!({"windows": [{"from": "25:00", "to": "06:00"}]}),
                "spec.windows[0]",
            ),
            (
                json!({"strategies": ["Evacuate", "Evacuate"]}),
                "spec.strategies[1]",
            ),
        ];
        for (spec, field) in cases {
            assert!(mistakes(spec.clone()).iter().any(|f| f == field), "{spec}");
        }
    }
}
