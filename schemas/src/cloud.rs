//! Cloud: where machines come from.

use crate::validate::{Cause, Errors, Validate};
use ipnet::Ipv4Net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A source of machines: a driver, its settings and its limits.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "Cloud",
    plural = "clouds",
    singular = "cloud",
    category = "skysail",
    status = "CloudStatus",
    derive = "PartialEq",
    printcolumn(name = "Driver", type_ = "string", json_path = ".spec.driver"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.hosts"),
    printcolumn(name = "Cost/h", type_ = "string", json_path = ".status.spendPerHour"),
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
pub struct CloudSpec {
    /// Which driver makes the machines.
    pub driver: Driver,
    /// Where the cloud is; hosts carry it, placement rules can name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The part of the region that fails on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Settings of the sandbox driver; required with `driver: sandbox`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxSettings>,
    /// Settings of the ssh driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshSettings>,
    /// What may not be exceeded, whatever asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<CloudLimits>,
}

/// The drivers that this version has.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Hosts are Linux namespaces on this machine: no cloud needed.
    Sandbox,
    /// Hosts are machines that exist already and answer SSH.
    Ssh,
}

/// Settings of `driver: sandbox`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SandboxSettings {
    /// The cloud's private subnet, for example `10.1.0.0/24`. Two clouds may use the same one.
    #[schemars(with = "String")]
    pub subnet: Ipv4Net,
}

/// Settings of `driver: ssh`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SshSettings {
    /// The machines; each Host of this cloud gets one that no other Host has.
    #[serde(default)]
    pub machines: Vec<SshMachine>,
    /// The Secret in `skysail-system` whose key `ssh-privatekey` opens these machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<String>,
}

/// One machine that exists.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SshMachine {
    /// Address or DNS name.
    pub address: String,
    /// TCP port of sshd.
    #[serde(default = "ssh_port")]
    pub port: u16,
    /// Login name; must be root or able to `sudo -n`.
    #[serde(default = "ssh_user")]
    pub user: String,
}

pub(crate) fn ssh_port() -> u16 {
    22
}
pub(crate) fn ssh_user() -> String {
    "root".into()
}

/// Upper bounds on what is bought here.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CloudLimits {
    /// Hosts at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<u32>,
}

/// What is known of a cloud.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Machines that it runs for us.
    pub hosts: u32,
    /// Machine types that it offers.
    pub offers: u32,
    /// What its machines cost, in the currency of their prices, per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spend_per_hour: Option<String>,
    /// `Reachable`, and `Ready` derived from it.
    pub conditions: Vec<Condition>,
}

impl Validate for CloudSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        errors.immutable(
            "spec.driver",
            &self.driver,
            old.map(|o| &o.driver),
            "make another Cloud",
        );
        match (self.driver, &self.sandbox) {
            (Driver::Sandbox, None) => errors.push(
                Cause::Required,
                "spec.sandbox",
                "driver sandbox needs a subnet, for example {subnet: 10.1.0.0/24}",
            ),
            (Driver::Ssh, Some(_)) => errors.push(
                Cause::Forbidden,
                "spec.sandbox",
                "is for driver sandbox only",
            ),
            (Driver::Sandbox, Some(s)) => {
                errors.check(
                    (16..=28).contains(&s.subnet.prefix_len()),
                    "spec.sandbox.subnet",
                    "must be between /16 and /28",
                );
                errors.immutable(
                    "spec.sandbox",
                    s,
                    old.and_then(|o| o.sandbox.as_ref()),
                    "make another Cloud",
                );
            }
            (Driver::Ssh, None) => {}
        }
        if self.driver != Driver::Ssh && self.ssh.is_some() {
            errors.push(Cause::Forbidden, "spec.ssh", "is for driver ssh only");
        }
    }
}
