//! What is simulated: clouds, hosts, pools, policies, what arrives, and what goes wrong.

use jiff::Timestamp;
use serde::Deserialize;
use skysail_schemas::duration::Span;
use skysail_schemas::host_pool::HostPoolSpec;
use skysail_schemas::instance_type::InstanceTypeSpec;
use skysail_schemas::machine_type::price;
use skysail_schemas::placement::PlacementRules;
use skysail_schemas::quantity::{Bytes, Cpu};
use skysail_schemas::rebalance_policy::RebalancePolicySpec;
use skysail_schemas::validate::{Errors, Validate};
use std::collections::BTreeMap;

/// A scenario, as users write it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// When it begins.
    #[serde(default = "new_year")]
    pub start: Timestamp,
    /// How long it lasts.
    pub duration: Span,
    /// How often everything looks at the world.
    #[serde(default = "five_seconds")]
    pub step: Span,
    /// What chance begins with.
    #[serde(default)]
    pub seed: u64,
    /// Bytes per second that a move sends.
    #[serde(default = "hundred_mebibytes")]
    pub bandwidth: Bytes,
    /// Where machines come from.
    pub clouds: Vec<CloudWish>,
    /// Machines that are there from the beginning.
    #[serde(default)]
    pub hosts: Vec<HostWish>,
    /// HostPools.
    #[serde(default)]
    pub pools: Vec<Named<HostPoolSpec>>,
    /// RebalancePolicies.
    #[serde(default)]
    pub policies: Vec<Named<RebalancePolicySpec>>,
    /// InstanceTypes, the same for all tenants.
    pub instance_types: Vec<Named<InstanceTypeSpec>>,
    /// What arrives.
    pub workloads: Vec<Workload>,
    /// What happens.
    #[serde(default)]
    pub events: Vec<Happening>,
}

fn new_year() -> Timestamp {
    // 2026-01-01, a Thursday.
    Timestamp::from_second(1_767_225_600).unwrap_or_default()
}
fn five_seconds() -> Span {
    Span(5_000)
}
fn hundred_mebibytes() -> Bytes {
    Bytes(100 << 20)
}

/// An object by its name and what it says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named<T> {
    /// Its name.
    pub name: String,
    /// As in its manifest.
    pub spec: T,
}

/// A cloud.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudWish {
    /// Its name.
    pub name: String,
    /// Its region.
    #[serde(default)]
    pub region: Option<String>,
    /// Its zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// From the order of a machine until it is ready.
    #[serde(default = "a_minute")]
    pub boot: Span,
    /// Machines at the most.
    #[serde(default)]
    pub quota: Option<usize>,
    /// What it sells.
    pub machine_types: Vec<MachineWish>,
}

fn a_minute() -> Span {
    Span(60_000)
}

/// A size of machine. Its MachineType is named `<cloud>-<name>`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineWish {
    /// Its name in its cloud.
    pub name: String,
    /// Cores.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    #[serde(default = "hundred_gibibytes")]
    pub disk: Bytes,
    /// Per hour.
    pub price: String,
}

fn hundred_gibibytes() -> Bytes {
    Bytes(100 << 30)
}

/// Machines that are there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostWish {
    /// The name, or with `count` what it begins with.
    pub name: String,
    /// How many.
    #[serde(default)]
    pub count: Option<u32>,
    /// Their cloud.
    pub cloud: String,
    /// Their size, by its name in the cloud.
    pub machine_type: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Containers of one kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// What their names begin with.
    pub name: String,
    /// Their tenant.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Their size.
    pub instance_type: String,
    /// How many come at `at`.
    #[serde(default = "one")]
    pub count: u32,
    /// When they come.
    #[serde(default)]
    pub at: Span,
    /// Then one comes after about this time, again and again.
    #[serde(default)]
    pub every: Option<Span>,
    /// When the last one may come.
    #[serde(default)]
    pub until: Option<Span>,
    /// How long one stays, about; for ever where absent.
    #[serde(default)]
    pub lifetime: Option<Span>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where they may be.
    #[serde(default)]
    pub placement: PlacementRules,
    /// Cores that one uses.
    #[serde(default)]
    pub cpu: Trace,
    /// Memory that one uses.
    #[serde(default)]
    pub memory: Trace,
    /// Whether they can be moved while they run.
    #[serde(default = "yes")]
    pub live: bool,
}

fn default_namespace() -> String {
    "default".into()
}
fn one() -> u32 {
    1
}
fn yes() -> bool {
    true
}

/// What a container uses over time, in percent of its size.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Trace {
    /// At the least.
    pub base: u32,
    /// At the most, half a period later; the same as the least where absent.
    pub peak: Option<u32>,
    /// From one peak to the next.
    pub period: Span,
    /// Each container has its peak at another time.
    pub scattered: bool,
    /// Up to this much more or less, by chance.
    pub noise: u32,
    /// Instead of all that: times after its start, and what it uses from then on. A recorded history.
    pub points: Vec<(Span, u32)>,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            base: 30,
            peak: None,
            period: Span(24 * 3_600_000),
            scattered: false,
            noise: 0,
            points: vec![],
        }
    }
}

/// Something that happens once: exactly one of the fields beside `at`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Happening {
    /// When.
    pub at: Span,
    /// This host gets nothing new.
    pub cordon: Option<String>,
    /// It does again.
    pub uncordon: Option<String>,
    /// This host ends, with what is on it.
    pub fail: Option<String>,
    /// The agent of this host says nothing any more.
    pub silence: Option<String>,
    /// This host is as it was before `fail` or `silence`.
    pub recover: Option<String>,
    /// The cloud takes this host back two minutes later.
    pub spot_notice: Option<String>,
    /// A machine type costs something else.
    pub price: Option<NewPrice>,
    /// A machine type cannot be had for a time.
    pub exhaust: Option<Exhaustion>,
    /// A workload uses something else from now on.
    pub load: Option<NewLoad>,
}

/// Another price.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewPrice {
    /// `<cloud>-<name>`.
    pub machine_type: String,
    /// Per hour.
    pub to: String,
}

/// No capacity.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exhaustion {
    /// `<cloud>-<name>`.
    pub machine_type: String,
    /// For how long.
    #[serde(rename = "for")]
    pub lasts: Span,
}

/// Another use.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewLoad {
    /// The workload's name.
    pub workload: String,
    /// Cores, in percent of its size.
    pub cpu: u32,
}

/// What is wrong with a scenario.
#[derive(Debug, thiserror::Error)]
pub enum Mistake {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// It says something that cannot be.
    #[error("{field}: {what}")]
    Wrong {
        /// Where.
        field: String,
        /// What, and the way out.
        what: String,
    },
}

fn wrong(field: impl Into<String>, what: impl Into<String>) -> Mistake {
    Mistake::Wrong {
        field: field.into(),
        what: what.into(),
    }
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// With the field that is wrong and the way out.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let scenario: Self =
            serde_saphyr::from_str(text).map_err(|e| Mistake::Unreadable(e.to_string()))?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), Mistake> {
        if self.step.0 == 0 || self.duration.0 / self.step.0 > 10_000_000 {
            return Err(wrong(
                "step",
                "must be at least a ten-millionth of duration",
            ));
        }
        if self.bandwidth.0 == 0 {
            return Err(wrong("bandwidth", "must be more than nothing"));
        }
        for (i, cloud) in self.clouds.iter().enumerate() {
            for (j, machine) in cloud.machine_types.iter().enumerate() {
                if price(&machine.price).is_none() {
                    let field = format!("clouds[{i}].machineTypes[{j}].price");
                    return Err(wrong(field, "must be a number that is not negative"));
                }
            }
        }
        for (i, host) in self.hosts.iter().enumerate() {
            if self.machine(&host.cloud, &host.machine_type).is_none() {
                let what = format!("cloud {} sells no {}", host.cloud, host.machine_type);
                return Err(wrong(format!("hosts[{i}].machineType"), what));
            }
        }
        for (i, workload) in self.workloads.iter().enumerate() {
            if !self
                .instance_types
                .iter()
                .any(|t| t.name == workload.instance_type)
            {
                let what = format!("instanceTypes has no {:?}", workload.instance_type);
                return Err(wrong(format!("workloads[{i}].instanceType"), what));
            }
        }
        self.specs()?;
        self.happenings()
    }

    fn specs(&self) -> Result<(), Mistake> {
        valid("pools", &self.pools)?;
        valid("policies", &self.policies)?;
        valid("instanceTypes", &self.instance_types)
    }

    fn happenings(&self) -> Result<(), Mistake> {
        for (i, event) in self.events.iter().enumerate() {
            let said = [
                event.cordon.is_some(),
                event.uncordon.is_some(),
                event.fail.is_some(),
                event.silence.is_some(),
                event.recover.is_some(),
                event.spot_notice.is_some(),
                event.price.is_some(),
                event.exhaust.is_some(),
                event.load.is_some(),
            ];
            if said.iter().filter(|s| **s).count() != 1 {
                let what = "needs exactly one thing that happens, for example cordon: east-0";
                return Err(wrong(format!("events[{i}]"), what));
            }
            if let Some(new) = &event.price
                && price(&new.to).is_none()
            {
                let field = format!("events[{i}].price.to");
                return Err(wrong(field, "must be a number that is not negative"));
            }
        }
        Ok(())
    }

    /// A size of machine.
    pub fn machine(&self, cloud: &str, name: &str) -> Option<&MachineWish> {
        let cloud = self.clouds.iter().find(|c| c.name == cloud)?;
        cloud.machine_types.iter().find(|m| m.name == name)
    }
}

fn valid<T: Validate>(list: &str, all: &[Named<T>]) -> Result<(), Mistake> {
    for (i, named) in all.iter().enumerate() {
        let mut errors = Errors::default();
        named.spec.validate(&named.name, None, &mut errors);
        if let Some(first) = errors.0.into_iter().next() {
            return Err(wrong(format!("{list}[{i}].{}", first.field), first.message));
        }
    }
    Ok(())
}
