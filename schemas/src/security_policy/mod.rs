//! SecurityPolicy: who of a tenant's containers may open connections to whom.
//!
//! The rules of Kubernetes' NetworkPolicy hold:
//!
//! - A container that no policy selects for a direction is open in that direction.
//! - A container that some policy selects for a direction is closed in it, but for what a rule of *any* such policy
//!   allows. There are no rules that forbid, so policies add up and their order does not matter.
//! - A connection passes where both ends allow it: the opener's egress and the other end's ingress. Replies pass, and
//!   so do ICMP errors that belong to a connection; who opened it is what counts.
//! - The gateway is no exception: where egress is closed, DNS (UDP and TCP 53 at the gateway's address) has to be
//!   allowed like everything else.
//!
//! Two things are said more strictly than there. A rule that no longer allows an open connection cuts it, in both
//! directions; one that still does leaves it alone. And an `ipBlock` matches every address, containers' too.
//!
//! Tenants never meet, whatever a policy says.

mod decide;
mod validate;

pub use decide::{End, Service, Verdict, decide, selects};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may open connections to, and from, the selected containers of this namespace. A container that is selected
/// for a direction is closed in it, but for what the rules of all such policies together allow; replies always pass.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "SecurityPolicy",
    plural = "securitypolicies",
    singular = "securitypolicy",
    namespaced,
    shortname = "secpol",
    category = "skysail",
    status = "SecurityPolicyStatus",
    derive = "PartialEq",
    printcolumn(name = "Types", type_ = "string", json_path = ".status.policyTypes"),
    printcolumn(
        name = "Containers",
        type_ = "integer",
        json_path = ".status.containers"
    ),
    printcolumn(name = "Hosts", type_ = "string", json_path = ".status.programmed"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
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
pub struct SecurityPolicySpec {
    /// The containers that it is about, by their labels; `{}` is every container of the namespace.
    pub container_selector: LabelSelector,
    /// The directions that it closes: `Ingress` (connections to the containers), `Egress` (connections that they open).
    /// Where absent: `Ingress`, and `Egress` too where there are egress rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_types: Option<Vec<Direction>>,
    /// What may be opened to the containers; nothing where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<IngressRule>,
    /// What the containers may open; nothing where empty and `policyTypes` names `Egress`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressRule>,
}

/// Which end of a connection a rule protects.
#[derive(
    Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
pub enum Direction {
    /// Connections that others open to the container.
    Ingress,
    /// Connections that the container opens.
    Egress,
}

/// Allows connections from any of `from` to any of `ports`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressRule {
    /// Who may; everybody where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Peer>,
    /// Where to; every protocol and port where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPort>,
}

/// Allows connections to any of `ports` of any of `to`.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressRule {
    /// To whom; everybody where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Peer>,
    /// Where to; every protocol and port where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PolicyPort>,
}

/// The other end of a connection: containers, or addresses.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    /// Containers of this namespace, by their labels; `{}` is every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_selector: Option<LabelSelector>,
    /// Addresses, instead of `containerSelector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// A block of addresses, but for some within it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct IpBlock {
    /// The block, for example `10.0.0.0/24`; `0.0.0.0/0` is every address.
    pub cidr: String,
    /// Blocks within it that are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// A protocol, and ports of it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyPort {
    /// The protocol.
    pub protocol: PolicyProtocol,
    /// The port that is connected to; every port where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The last port, where it is a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<u16>,
    /// Type of an ICMP message, for example 8 (echo request); every type where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Code of an ICMP message; every code where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
}

/// A protocol that a rule can name.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum PolicyProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
}

/// Where a policy is in force.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SecurityPolicyStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// The directions that it closes.
    pub policy_types: String,
    /// How many containers it selects now.
    pub containers: u32,
    /// The hosts of these containers, and the generation that each of them has programmed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<PolicyHost>,
    /// How many of these hosts have programmed the current generation, for example `2/3`.
    pub programmed: String,
    /// `Programmed`, and `Ready` derived from it.
    pub conditions: Vec<Condition>,
}

/// What a host has of a policy.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyHost {
    /// The Host.
    pub host: String,
    /// The generation that is in its switch; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// A policy that is in a host's switch, as the host says.
#[derive(
    Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase")]
pub struct ProgrammedPolicy {
    /// The tenant.
    pub namespace: String,
    /// The policy.
    pub name: String,
    /// Its generation.
    pub generation: i64,
}

impl SecurityPolicySpec {
    /// Whether it closes `direction`.
    pub fn closes(&self, direction: Direction) -> bool {
        match (&self.policy_types, direction) {
            (Some(types), _) => types.contains(&direction),
            (None, Direction::Ingress) => true,
            (None, Direction::Egress) => !self.egress.is_empty(),
        }
    }

    /// The directions that it closes, for people.
    pub fn types(&self) -> String {
        let closed = [Direction::Ingress, Direction::Egress].into_iter();
        let names = closed.filter(|d| self.closes(*d)).map(|d| format!("{d:?}"));
        names.collect::<Vec<_>>().join(",")
    }

    /// The rules of a direction: peers and ports of each; empty lists are everybody, and everything.
    pub fn rules(&self, direction: Direction) -> Vec<(&[Peer], &[PolicyPort])> {
        match direction {
            Direction::Ingress => self.ingress.iter().map(|r| (&*r.from, &*r.ports)).collect(),
            Direction::Egress => self.egress.iter().map(|r| (&*r.to, &*r.ports)).collect(),
        }
    }
}
