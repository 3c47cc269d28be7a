//! Port: one container's address on one network, and the host where it is.
//!
//! Made by Skysail, never by people. Its name is `<network>.<address>`, so creating
//! it *is* the allocation: the store lets only one win. It carries all that an agent
//! needs to program its switch, so an agent watches the ports of the networks that
//! it carries and nothing else of other hosts.

use crate::validate::{Errors, Validate};
use ipnet::Ipv4Net;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// An allocated address.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "Port",
    plural = "ports",
    singular = "port",
    namespaced,
    category = "skysail",
    derive = "PartialEq",
    selectable = ".spec.vni",
    selectable = ".spec.container",
    selectable = ".spec.location.host",
    printcolumn(name = "Container", type_ = "string", json_path = ".spec.container"),
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "MAC", type_ = "string", json_path = ".spec.mac"),
    printcolumn(name = "VNI", type_ = "integer", json_path = ".spec.vni"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.location.host"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct PortSpec {
    /// The tenant: the Port's own namespace, for those who keep no more of it than this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The Container, in the same namespace.
    pub container: String,
    /// The Network, in the same namespace.
    pub network: String,
    /// Which of the container's interfaces: 0 is eth0.
    pub interface: u32,
    /// VXLAN network identifier of the network.
    pub vni: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// The network's addresses.
    #[schemars(with = "String")]
    pub cidr: Ipv4Net,
    /// The network's gateway.
    pub gateway: Ipv4Addr,
    /// The hardware address; unique in the network because it is made from the address.
    pub mac: String,
    /// DNS domain of the network.
    pub dns_domain: String,
    /// Whether the network lets containers out.
    #[serde(default)]
    pub egress: bool,
    /// The container's labels, by which SecurityPolicies select it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where the container is; absent while it has no host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
}

/// Where a port is, and how other hosts reach it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// The Host.
    pub host: String,
    /// The container's epoch when it got there.
    pub epoch: u64,
    /// The host's Cloud; hosts of the same cloud use `internal`, others `external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// Tunnel address inside the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<IpAddr>,
    /// Tunnel address for hosts of other clouds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<IpAddr>,
}

/// The name of the Port that claims `address` on `network`.
pub fn name(network: &str, address: Ipv4Addr) -> String {
    format!("{network}.{address}")
}

/// A locally administered unicast MAC made from a VNI's low 8 bits and the address, so it never changes with the host.
pub fn mac(vni: u32, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:{:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}", vni & 0xff)
}

impl Validate for PortSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.check(
            name == self::name(&self.network, self.address),
            "metadata.name",
            "must be <network>.<address>",
        );
        errors.check(
            crate::network::is_usable(self.cidr, self.address),
            "spec.address",
            format!("{} is not usable in {}", self.address, self.cidr),
        );
        errors.check(
            (1..1 << 24).contains(&self.vni),
            "spec.vni",
            "must be between 1 and 16777215",
        );
        errors.immutable(
            "spec.container",
            &self.container,
            old.map(|o| &o.container),
            "delete the Port",
        );
        errors.immutable(
            "spec.vni",
            &self.vni,
            old.map(|o| &o.vni),
            "delete the Port",
        );
    }
}
