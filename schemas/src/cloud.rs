//! Cloud: where machines come from.

use crate::quantity::Bytes;
use crate::validate::{Cause, Errors, Validate};
use ipnet::Ipv4Net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A source of machines: a driver, its settings and its limits.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
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
    /// Settings of the qemu driver; required with `driver: qemu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<QemuSettings>,
    /// Settings of the ec2 driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ec2: Option<Ec2Settings>,
    /// Settings of the hetzner driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hetzner: Option<HetznerSettings>,
    /// What opens the cloud. Where absent, the ec2 driver takes the server's environment, else
    /// the role of the instance that the server runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsReference>,
    /// What may not be exceeded, whatever asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<CloudLimits>,
}

/// The drivers that this version has.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Hosts are Linux namespaces on this machine: no cloud needed.
    Sandbox,
    /// Hosts are machines that exist already and answer SSH.
    #[default]
    Ssh,
    /// Hosts are instances of Amazon EC2, or of a cloud that speaks its API.
    Ec2,
    /// Hosts are servers of Hetzner Cloud.
    Hetzner,
    /// Hosts are virtual machines on this machine, each with its own kernel: by KVM where
    /// that works, emulated where it does not.
    Qemu,
}

/// Where the credentials of a cloud are kept.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsReference {
    /// Name of a Secret. Its keys for driver ec2: `accessKeyId`, `secretAccessKey`, and `sessionToken` for temporary ones; for driver hetzner: `token`.
    pub secret: String,
    /// Namespace of the Secret.
    #[serde(default = "system_namespace")]
    pub namespace: String,
}

fn system_namespace() -> String {
    crate::SYSTEM_NAMESPACE.to_owned()
}

/// Settings of `driver: sandbox`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SandboxSettings {
    /// The cloud's private subnet, for example `10.1.0.0/24`. Two clouds may use the same one.
    #[schemars(with = "String")]
    pub subnet: Ipv4Net,
}

/// Settings of `driver: qemu`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QemuSettings {
    /// The cloud's private subnet, for example `10.2.0.0/24`. Two clouds may use the same one.
    #[schemars(with = "String")]
    pub subnet: Ipv4Net,
}

/// Settings of `driver: ec2`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Ec2Settings {
    /// URL of the API, for clouds that speak it but are not Amazon's; from the region where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Machine image (`ami-…`), Debian 12 or newer with cloud-init; the newest Debian 13 of the Debian project where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Login name on the image: root, or one that can `sudo -n`. The user data opens root's account.
    pub user: String,
    /// Subnet (`subnet-…`) of the instances; the default one of the zone where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Security groups (`sg-…`) of the instances; one that Skysail makes and keeps where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<String>,
    /// Who may reach SSH, in Skysail's own security group: where the server runs.
    #[schemars(with = "Vec<String>")]
    pub ssh_from: Vec<Ipv4Net>,
    /// Hosts of other clouds whose tunnels (VXLAN, UDP 4789) are let in, in Skysail's own security group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub overlay_from: Vec<Ipv4Net>,
    /// Which instance types become MachineTypes: names, in which `*` stands for anything.
    pub machine_types: Vec<String>,
    /// Size of the root volume.
    pub disk: Bytes,
    /// Prices on demand per hour by instance type, over what the price list says; `"0.0416"`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, String>,
}

impl Default for Ec2Settings {
    fn default() -> Self {
        let families = ["t3", "m6i", "c6i", "r6i", "m7i", "c7i", "r7i"];
        let sizes = ["medium", "large", "xlarge", "2xlarge", "4xlarge"];
        let types = families
            .iter()
            .flat_map(|family| sizes.iter().map(move |size| format!("{family}.{size}")));
        Self {
            endpoint: None,
            image: None,
            user: ssh_user(),
            subnet: None,
            security_groups: vec![],
            ssh_from: vec![Ipv4Net::default()],
            overlay_from: vec![],
            machine_types: types.collect(),
            disk: Bytes(32 << 30),
            prices: BTreeMap::new(),
        }
    }
}

/// Settings of `driver: hetzner`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct HetznerSettings {
    /// URL of the API.
    pub endpoint: String,
    /// Image of the servers: Debian 12 or newer.
    pub image: String,
    /// Which server types become MachineTypes: names, in which `*` stands for anything.
    pub machine_types: Vec<String>,
}

impl Default for HetznerSettings {
    fn default() -> Self {
        Self {
            endpoint: "https://api.hetzner.cloud".into(),
            image: "debian-13".into(),
            machine_types: vec!["cx*".into(), "cpx*".into(), "cax*".into()],
        }
    }
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
    /// `Reachable` (and `CredentialsValid`, where the driver needs some), and `Ready` derived from them.
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
        let subnet = |settings: &Self| settings.sandbox.as_ref().map(|s| s.subnet);
        subnet_of(
            errors,
            "sandbox",
            self.driver == Driver::Sandbox,
            subnet(self),
            old.and_then(subnet),
        );
        let subnet = |settings: &Self| settings.qemu.as_ref().map(|s| s.subnet);
        subnet_of(
            errors,
            "qemu",
            self.driver == Driver::Qemu,
            subnet(self),
            old.and_then(subnet),
        );
        self.check_ec2(old, errors);
        if self.driver != Driver::Ssh && self.ssh.is_some() {
            errors.push(Cause::Forbidden, "spec.ssh", "is for driver ssh only");
        }
        if self.driver != Driver::Hetzner && self.hetzner.is_some() {
            errors.push(
                Cause::Forbidden,
                "spec.hetzner",
                "is for driver hetzner only",
            );
        }
        if self.driver == Driver::Hetzner && self.region.is_none() {
            errors.push(
                Cause::Required,
                "spec.region",
                "driver hetzner needs a location, for example fsn1",
            );
        }
        if matches!(self.driver, Driver::Sandbox | Driver::Ssh) && self.credentials.is_some() {
            let message = format!("driver {:?} needs none", self.driver).to_lowercase();
            errors.push(Cause::Forbidden, "spec.credentials", &message);
        }
        if let Some(reference) = &self.credentials {
            errors.dns_label("spec.credentials.secret", &reference.secret);
            errors.dns_label("spec.credentials.namespace", &reference.namespace);
        }
    }
}

impl CloudSpec {
    fn check_ec2(&self, old: Option<&Self>, errors: &mut Errors) {
        if self.driver != Driver::Ec2 {
            if self.ec2.is_some() {
                errors.push(Cause::Forbidden, "spec.ec2", "is for driver ec2 only");
            }
            return;
        }
        if self.region.is_none() {
            errors.push(
                Cause::Required,
                "spec.region",
                "driver ec2 needs a region, for example eu-central-1",
            );
        }
        let place = |spec: &Self| {
            let endpoint = spec.ec2.as_ref().and_then(|e| e.endpoint.clone());
            (spec.region.clone(), spec.zone.clone(), endpoint)
        };
        let old = old.filter(|o| o.driver == Driver::Ec2).map(place);
        let (region, zone, endpoint) = place(self);
        let old = old.as_ref();
        let way = "make another Cloud";
        errors.immutable("spec.region", &region, old.map(|o| &o.0), way);
        errors.immutable("spec.zone", &zone, old.map(|o| &o.1), way);
        errors.immutable("spec.ec2.endpoint", &endpoint, old.map(|o| &o.2), way);
        if let Some(endpoint) = &endpoint {
            errors.check(
                endpoint.starts_with("https://") || endpoint.starts_with("http://"),
                "spec.ec2.endpoint",
                "must be a URL, for example https://ec2.example.org",
            );
        }
        for (name, text) in self.ec2.iter().flat_map(|e| &e.prices) {
            errors.check(
                crate::machine_type::price(text).is_some(),
                &format!("spec.ec2.prices[{name}]"),
                format!("{text:?} must be a number that is not negative, for example \"0.0416\""),
            );
        }
    }
}

/// Rules of the settings of a driver that makes its own subnet on this machine; `chosen` where it is the Cloud's driver.
fn subnet_of(
    errors: &mut Errors,
    driver: &str,
    chosen: bool,
    subnet: Option<Ipv4Net>,
    old: Option<Ipv4Net>,
) {
    let field = format!("spec.{driver}");
    match (chosen, subnet) {
        (true, None) => errors.push(
            Cause::Required,
            field,
            format!("driver {driver} needs a subnet, for example {{subnet: 10.1.0.0/24}}"),
        ),
        (false, Some(_)) => errors.push(
            Cause::Forbidden,
            field,
            format!("is for driver {driver} only"),
        ),
        (true, Some(subnet)) => {
            errors.check(
                (16..=28).contains(&subnet.prefix_len()),
                &format!("{field}.subnet"),
                "must be between /16 and /28",
            );
            errors.immutable(&field, &subnet, old.as_ref(), "make another Cloud");
        }
        (false, None) => {}
    }
}
