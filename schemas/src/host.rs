//! Host: one machine that runs an agent.

use crate::quantity::{Bytes, Cpu};
use crate::security_policy::ProgrammedPolicy;
use crate::validate::{Cause, Errors, Validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A machine: bought from a cloud (`cloud` and `machineType`) or one that exists (`ssh`).
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "Host",
    plural = "hosts",
    singular = "host",
    category = "skysail",
    status = "HostStatus",
    derive = "PartialEq",
    selectable = ".spec.cloud",
    printcolumn(name = "Cloud", type_ = "string", json_path = ".spec.cloud"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.addresses.internal"
    ),
    printcolumn(name = "CPU", type_ = "string", json_path = ".status.allocatable.cpu"),
    printcolumn(
        name = "Memory",
        type_ = "string",
        json_path = ".status.allocatable.memory"
    ),
    printcolumn(
        name = "Containers",
        type_ = "integer",
        json_path = ".status.containers"
    ),
    printcolumn(
        name = "External",
        type_ = "string",
        json_path = ".status.addresses.external",
        priority = 1
    ),
    printcolumn(
        name = "Datapath",
        type_ = "string",
        json_path = ".status.datapath",
        priority = 1
    ),
    printcolumn(
        name = "Agent",
        type_ = "string",
        json_path = ".status.agentVersion",
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
pub struct HostSpec {
    /// The Cloud that makes the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// The MachineType to ask the cloud for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_type: Option<String>,
    /// Where the machine is, if it exists already; instead of `cloud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshTarget>,
    /// Ask the cloud for a public address besides the private one.
    #[serde(default)]
    pub public_address: bool,
    /// Buy the machine on the spot market: cheaper, and the cloud may take it back at any time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spot: bool,
    /// No new containers here (cordoned).
    #[serde(default)]
    pub unschedulable: bool,
    /// Containers that do not tolerate these stay away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
}

/// How to log in to a machine that exists.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SshTarget {
    /// Address or DNS name.
    pub address: String,
    /// TCP port of sshd.
    #[serde(default = "crate::cloud::ssh_port")]
    pub port: u16,
    /// Login name; must be root or able to `sudo -n`.
    #[serde(default = "crate::cloud::ssh_user")]
    pub user: String,
    /// The Secret in `skysail-system` whose key `ssh-privatekey` opens the machine; Skysail's own key where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<String>,
}

/// A mark that keeps containers away.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// The mark.
    pub key: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What is known of a host.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HostStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Where the host is in its life.
    pub phase: HostPhase,
    /// The cloud's own name for the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// Where it can be reached.
    pub addresses: HostAddresses,
    /// What the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Resources>,
    /// What containers may take together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<Resources>,
    /// What is used right now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<HostUsage>,
    /// Containers that run here.
    pub containers: u32,
    /// Open vSwitch datapath: `system` (kernel) or `netdev` (userspace).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datapath: Option<String>,
    /// Kernel release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Version of the agent that last reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// SHA-256 of the program that the agent runs; it is the server's own, or soon will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_build: Option<String>,
    /// Digests of the images that are unpacked here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// SecurityPolicies that are in this host's switch: those that select one of its containers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<ProgrammedPolicy>,
    /// When usage was last reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report: Option<Time>,
    /// `Provisioned`, `Reachable`, `Bootstrapped`, `AgentAlive`, and `Ready` derived from them; `DiskLimits` and `AgentCurrent` beside them.
    pub conditions: Vec<Condition>,
}

/// The life of a host.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostPhase {
    /// Nothing done yet.
    #[default]
    Pending,
    /// The cloud is making the machine.
    Provisioning,
    /// The agent is being installed over SSH.
    Bootstrapping,
    /// The agent reports.
    Running,
    /// The agent has not reported for longer than its lease.
    Lost,
    /// Containers leave, then the machine is given back.
    Deleting,
    /// It cannot go on without a change.
    Failed,
}

/// Addresses of a host.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HostAddresses {
    /// Address inside its cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal: Option<IpAddr>,
    /// Address that other clouds can reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<IpAddr>,
}

/// An amount of every resource.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Cores.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
}

/// Measured use of a host.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HostUsage {
    /// Use over the last report interval.
    pub cpu: Cpu,
    /// Memory in use.
    pub memory: Bytes,
    /// Disk in use.
    pub disk: Bytes,
    /// Share of time in which some task waited for the cpu, in hundredths of a percent (PSI `some avg10`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pressure: Option<u32>,
    /// The same for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_pressure: Option<u32>,
    /// The same for input and output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_pressure: Option<u32>,
}

impl Validate for HostSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        match (&self.cloud, &self.ssh) {
            (None, None) => errors.push(
                Cause::Required,
                "spec",
                "needs either cloud (a machine is made) or ssh (the machine exists)",
            ),
            (Some(_), Some(_)) => errors.push(
                Cause::Forbidden,
                "spec.ssh",
                "cannot stand beside spec.cloud: a machine is either made or exists",
            ),
            (None, Some(_)) if self.machine_type.is_some() => errors.push(
                Cause::Forbidden,
                "spec.machineType",
                "is for hosts of a cloud only",
            ),
            _ => {}
        }
        errors.immutable(
            "spec.cloud",
            &self.cloud,
            old.map(|o| &o.cloud),
            "make another Host and delete this one",
        );
        if self.cloud.is_none() && self.spot {
            errors.push(
                Cause::Forbidden,
                "spec.spot",
                "is for hosts of a cloud only",
            );
        }
        errors.immutable(
            "spec.spot",
            &self.spot,
            old.map(|o| &o.spot),
            "make another Host and delete this one",
        );
        errors.immutable(
            "spec.machineType",
            &self.machine_type,
            old.map(|o| &o.machine_type),
            "make another Host and delete this one",
        );
        if let Some(ssh) = &self.ssh {
            errors.check(
                !ssh.address.is_empty(),
                "spec.ssh.address",
                "must not be empty",
            );
        }
    }
}
