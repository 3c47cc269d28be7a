//! HostPool: machines that are bought when containers need them and given back when not.

use crate::duration::Span;
use crate::host::Taint;
use crate::machine_type::price;
use crate::validate::{Errors, Validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Label of every Host of a pool: the pool's name.
pub const POOL_LABEL: &str = "skysail.dev/pool";

/// Hosts that come when containers fit nowhere, the cheapest that will do, and go when they are empty.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "HostPool",
    plural = "hostpools",
    singular = "hostpool",
    shortname = "hp",
    category = "skysail",
    status = "HostPoolStatus",
    derive = "PartialEq",
    printcolumn(name = "Min", type_ = "integer", json_path = ".spec.min"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.max"),
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.hosts"),
    printcolumn(name = "Cost/h", type_ = "string", json_path = ".status.spendPerHour"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
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
pub struct HostPoolSpec {
    /// Clouds that it may buy from; all where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clouds: Vec<String>,
    /// MachineTypes that it may buy; all of its clouds where absent. One without a price is bought only if named here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machine_types: Vec<String>,
    /// Hosts that it always has.
    #[serde(default)]
    pub min: u32,
    /// Hosts at the most.
    pub max: u32,
    /// What its hosts may cost together per hour, a decimal number; no limit where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_price_per_hour: Option<String>,
    /// How long a host is empty before it goes.
    #[serde(default = "ten_minutes")]
    pub return_after: Span,
    /// What its hosts are like.
    #[serde(default)]
    pub template: HostTemplate,
}

fn ten_minutes() -> Span {
    Span(600_000)
}

/// What the hosts of a pool have in common.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HostTemplate {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Containers that do not tolerate these stay away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Ask the cloud for a public address besides the private one.
    pub public_address: bool,
}

/// What is known of a pool.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HostPoolStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Hosts that it has.
    pub hosts: u32,
    /// What they cost together per hour, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spend_per_hour: Option<String>,
    /// Hosts without containers, since when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub empty: BTreeMap<String, Time>,
    /// MachineTypes that a cloud could not deliver, until when they are not asked for again.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exhausted: BTreeMap<String, Time>,
    /// `Satisfied`, and `Ready` derived from it.
    pub conditions: Vec<Condition>,
}

impl Validate for HostPoolSpec {
    fn validate(&self, name: &str, _old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        errors.check(
            name.len() <= 57,
            "metadata.name",
            "must have at most 57 characters: each host's name is it, '-' and a number",
        );
        errors.check(
            self.min <= self.max,
            "spec.min",
            format!("must not be greater than spec.max ({})", self.max),
        );
        errors.check(self.max <= 1000, "spec.max", "must be at most 1000");
        for (i, cloud) in self.clouds.iter().enumerate() {
            errors.dns_label(&format!("spec.clouds[{i}]"), cloud);
        }
        if let Some(text) = &self.max_price_per_hour {
            errors.check(
                price(text).is_some(),
                "spec.maxPricePerHour",
                format!("{text:?} must be a number that is not negative, for example \"0.50\""),
            );
        }
    }
}
