//! Network: a tenant's private network.

use crate::validate::{Errors, Validate};
use ipnet::Ipv4Net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// A private network that spans every host and cloud. Other tenants may use the same addresses.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "Network",
    plural = "networks",
    singular = "network",
    namespaced,
    shortname = "net",
    category = "skysail",
    status = "NetworkStatus",
    derive = "PartialEq",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "VNI", type_ = "integer", json_path = ".status.vni"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.addressesInUse"),
    printcolumn(name = "Egress", type_ = "boolean", json_path = ".spec.egress"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// The addresses, for example `10.0.0.0/24`: private (RFC 1918) or shared (RFC 6598).
    #[schemars(with = "String")]
    pub cidr: Ipv4Net,
    /// Whether containers may open connections to the world, by NAT of their host.
    #[serde(default)]
    pub egress: bool,
    /// Containers find one another as `<container>.<domain>`, and as `<container>`.
    #[serde(default = "default_domain")]
    pub dns_domain: String,
}

fn default_domain() -> String {
    "internal".into()
}

/// What is known of a network.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// VXLAN network identifier (RFC 7348), unique over all tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The gateway's address: DNS, and the way out where `egress` is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Addresses taken by containers.
    pub addresses_in_use: u32,
    /// Addresses that containers can take.
    pub addresses: u32,
    /// `Allocated`, and `Ready` derived from it.
    pub conditions: Vec<Condition>,
}

/// The gateway of a network: its first address after the network's own.
pub fn gateway(cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()).saturating_add(1))
}

/// The addresses that containers can take: all but the network's own, the gateway and the broadcast.
pub fn usable(cidr: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let first = u64::from(u32::from(cidr.network())) + 2;
    let last = u64::from(u32::from(cidr.broadcast()));
    (first..last).map(|a| Ipv4Addr::from(a as u32))
}

/// How many addresses [`usable`] yields.
pub fn usable_count(cidr: Ipv4Net) -> u32 {
    u32::from(cidr.broadcast())
        .saturating_sub(u32::from(cidr.network()))
        .saturating_sub(2)
}

/// Whether containers can take `address`.
pub fn is_usable(cidr: Ipv4Net, address: Ipv4Addr) -> bool {
    cidr.contains(&address)
        && address != cidr.network()
        && address != cidr.broadcast()
        && address != gateway(cidr)
}

impl Validate for NetworkSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        let private: [Ipv4Net; 4] = [
            Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
            Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
            Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
            Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
        ];
        errors.check(
            self.cidr.addr() == self.cidr.network(),
            "spec.cidr",
            format!(
                "{} has host bits set; write {}",
                self.cidr,
                self.cidr.trunc()
            ),
        );
        errors.check(
            private.iter().any(|p| p.contains(&self.cidr)),
            "spec.cidr",
            format!("{} is not private: choose from 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10", self.cidr),
        );
        errors.check(
            (8..=29).contains(&self.cidr.prefix_len()),
            "spec.cidr",
            format!("/{} must be between /8 and /29", self.cidr.prefix_len()),
        );
        errors.immutable(
            "spec.cidr",
            &self.cidr,
            old.map(|o| &o.cidr),
            "make another Network",
        );
        for label in self.dns_domain.split('.') {
            errors.dns_label("spec.dnsDomain", label);
        }
        errors.check(
            self.dns_domain.len() <= 190,
            "spec.dnsDomain",
            "must have at most 190 characters",
        );
    }
}
