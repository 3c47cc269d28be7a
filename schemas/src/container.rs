//! Container: a system container with an init, addresses and a place.

use crate::host::Resources;
use crate::placement::PlacementRules;
use crate::quantity::{Bandwidth, Bytes, Cpu};
use crate::validate::{Cause, Errors, Validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Held while a host may still have something of the container. Added before it is bound; removed by the host's agent.
pub const AGENT_FINALIZER: &str = "skysail.dev/agent";
/// Held while the container has Ports.
pub const NETWORK_FINALIZER: &str = "skysail.dev/network";

/// A system container: an image, a size, networks, rules for its place.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "Container",
    plural = "containers",
    singular = "container",
    namespaced,
    shortname = "ct",
    category = "all",
    category = "skysail",
    status = "ContainerStatus",
    derive = "PartialEq",
    selectable = ".status.host",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host"),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.addresses[*].address"
    ),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.instanceType"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".spec.image",
        priority = 1
    ),
    printcolumn(
        name = "Epoch",
        type_ = "integer",
        json_path = ".status.epoch",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// The Image.
    pub image: String,
    /// The InstanceType, in the same namespace.
    pub instance_type: String,
    /// The Networks it is on, in the order of its interfaces eth0, eth1, …
    #[serde(default)]
    pub networks: Vec<Attachment>,
    /// Where it may run.
    #[serde(default)]
    pub placement: PlacementRules,
    /// Whether it should run. Its files and addresses stay when it is stopped.
    #[serde(default = "yes")]
    pub running: bool,
    /// What to do when its init ends.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// A shell script that is run once, at the first boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub user_data: Option<String>,
    /// Run without a user namespace of its own. Needs the label `skysail.dev/privileged: allowed` on the namespace.
    #[serde(default)]
    pub privileged: bool,
}

fn yes() -> bool {
    true
}

/// One network interface.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The Network, in the same namespace.
    pub name: String,
    /// A fixed address; the lowest free one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// What happens when a container's init ends.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Start it again, with a growing delay.
    #[default]
    Always,
    /// Leave it stopped.
    Never,
}

/// What is known of a container.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Where the container is in its life.
    pub phase: ContainerPhase,
    /// The one host that may run it. Written by placement, together with `epoch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Rises at every change of `host`. An agent runs the container only at the current epoch.
    pub epoch: u64,
    /// What it is sized as. Written by placement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// The image it runs, by digest. Written by placement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<RunImage>,
    /// Its addresses, in the order of `spec.networks`. Written by the container controller.
    pub addresses: Vec<Address>,
    /// Process id of its init on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// When its init was last started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// How often its init was started again.
    pub restarts: u32,
    /// What it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<ContainerUsage>,
    /// Its last Migration that came to the point of changing `host`. Written by the agent of its source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_migration: Option<LastMigration>,
    /// `Scheduled`, `Networked`, `Running`, and `Ready` derived from them; `DiskLimited`, `BandwidthLimited`, `ResizePending` and
    /// `Resized` beside them.
    pub conditions: Vec<Condition>,
}

/// The life of a container.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContainerPhase {
    /// No host yet.
    #[default]
    Pending,
    /// A host is chosen; it prepares the container.
    Starting,
    /// Its init runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// Stopped as asked, or its init ended and is not started again.
    Stopped,
    /// It cannot run without a change; the condition says which.
    Failed,
    /// It is being removed.
    Deleting,
}

/// The size that a container has been given. It follows its InstanceType where the host has room.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Allocation {
    /// Cores.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// Bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Processes and threads.
    pub pids: u32,
}

impl Allocation {
    /// The part that placement counts.
    pub fn resources(&self) -> Resources {
        Resources {
            cpu: self.cpu,
            memory: self.memory,
            disk: self.disk,
        }
    }
}

/// The image of a container, resolved.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RunImage {
    /// The Image's name, where the archive is fetched.
    pub name: String,
    /// `sha256:…` of the archive.
    pub digest: String,
    /// Process 1 and its arguments.
    pub init: Vec<String>,
}

/// An address on one network.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// The Network.
    pub network: String,
    /// The address.
    pub address: Ipv4Addr,
    /// The hardware address.
    pub mac: String,
}

/// The last Migration of a container.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct LastMigration {
    /// The Migration.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The host that had the container.
    pub from: String,
    /// The host that was to get it.
    pub to: String,
    /// Whether it got it.
    pub moved: bool,
    /// When that was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// Measured use of a container.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerUsage {
    /// Use over the last report interval.
    pub cpu: Cpu,
    /// Memory in use.
    pub memory: Bytes,
    /// Processes and threads.
    pub pids: u32,
    /// Disk of the private layer in use; absent where its disk has no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
}

impl Validate for ContainerSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        // The name is the host name inside (63) and a part of paths and cgroups.
        errors.dns_label("metadata.name", name);
        errors.dns_label("spec.image", &self.image);
        errors.dns_label("spec.instanceType", &self.instance_type);
        errors.check(
            self.networks.len() <= 8,
            "spec.networks",
            "at most 8 networks",
        );
        let mut seen = BTreeSet::new();
        for (i, attachment) in self.networks.iter().enumerate() {
            let field = format!("spec.networks[{i}].name");
            errors.dns_label(&field, &attachment.name);
            if !seen.insert(&attachment.name) {
                errors.push(
                    Cause::Duplicate,
                    field,
                    format!(
                        "{:?} stands twice; a container joins a network once",
                        attachment.name
                    ),
                );
            }
        }
        self.placement.validate("spec.placement", errors);
        if self.user_data.as_ref().is_some_and(|d| d.len() > 65536) {
            errors.push(
                Cause::TooLong,
                "spec.userData",
                "must have at most 65536 bytes",
            );
        }
        let way_out = "make another Container";
        errors.immutable(
            "spec.networks",
            &self.networks,
            old.map(|o| &o.networks),
            way_out,
        );
        errors.immutable("spec.image", &self.image, old.map(|o| &o.image), way_out);
        errors.immutable(
            "spec.privileged",
            &self.privileged,
            old.map(|o| &o.privileged),
            way_out,
        );
    }
}
