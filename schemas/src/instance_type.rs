//! InstanceType: the tenant's own size of container.

use crate::quantity::{Bandwidth, Bytes, Cpu};
use crate::validate::{Errors, Validate};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A size of container.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "InstanceType",
    plural = "instancetypes",
    singular = "instancetype",
    namespaced,
    shortname = "it",
    category = "skysail",
    derive = "PartialEq",
    printcolumn(name = "CPU", type_ = "string", json_path = ".spec.cpu"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory"),
    printcolumn(name = "Disk", type_ = "string", json_path = ".spec.disk"),
    printcolumn(name = "Bandwidth", type_ = "string", json_path = ".spec.bandwidth"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct InstanceTypeSpec {
    /// Cores; enforced as a ceiling.
    pub cpu: Cpu,
    /// Memory; enforced as a ceiling.
    pub memory: Bytes,
    /// Disk of the private layer; enforced as a ceiling (see the condition `DiskLimited` of a Container).
    #[serde(default = "default_disk")]
    pub disk: Bytes,
    /// Bandwidth of its network ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Processes and threads at the most.
    #[serde(default = "default_pids")]
    pub pids: u32,
    /// What the workload mostly uses; placement keeps the same apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

fn default_disk() -> Bytes {
    Bytes(1 << 30)
}
fn default_pids() -> u32 {
    4096
}

/// The resource that a workload mostly uses.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Computes.
    Cpu,
    /// Fills caches and memory bandwidth.
    Memory,
    /// Reads and writes disks.
    Io,
    /// Sends and receives.
    Network,
}

impl Validate for InstanceTypeSpec {
    fn validate(&self, name: &str, _old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        errors.check(
            (10..=1_024_000).contains(&self.cpu.0),
            "spec.cpu",
            format!("{} must be between 10m and 1024", self.cpu),
        );
        errors.check(
            ((16 << 20)..=(64u64 << 40)).contains(&self.memory.0),
            "spec.memory",
            format!("{} must be between 16Mi and 64Ti", self.memory),
        );
        errors.check(
            ((1 << 20)..=(1024u64 << 40)).contains(&self.disk.0),
            "spec.disk",
            format!("{} must be between 1Mi and 1024Ti", self.disk),
        );
        errors.check(
            (8..=4_194_304).contains(&self.pids),
            "spec.pids",
            "must be between 8 and 4194304",
        );
        if let Some(bandwidth) = self.bandwidth {
            errors.check(
                bandwidth.0 >= 100_000,
                "spec.bandwidth",
                format!("{bandwidth} must be at least 100k"),
            );
        }
    }
}
