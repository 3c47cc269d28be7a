//! What policies say of one connection, read straight from their text. The switches' flows are compiled otherwise;
//! a test holds that both agree.

use super::{Direction, IpBlock, Peer, PolicyPort, PolicyProtocol, SecurityPolicySpec};
use ipnet::Ipv4Net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct End<'a> {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its labels, where it is a container of the tenant.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// What a connection is opened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// An ICMP request: type and code.
    Icmp(u8, u8),
    /// Another IP protocol.
    Other(u8),
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "TCP {port}"),
            Self::Udp(port) => write!(f, "UDP {port}"),
            Self::Icmp(kind, code) => write!(f, "ICMP {kind}/{code}"),
            Self::Other(protocol) => write!(f, "IP protocol {protocol}"),
        }
    }
}

/// What the policies say of a connection in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// No policy selects the container.
    Unrestricted,
    /// A rule of this policy allows it.
    Allowed(&'a str),
    /// These policies select the container, and no rule of theirs allows it.
    Denied(Vec<&'a str>),
}

impl Verdict<'_> {
    /// Whether the connection passes.
    pub fn passes(&self) -> bool {
        !matches!(self, Self::Denied(_))
    }
}

/// Whether labels match. A selector that cannot be understood matches nothing; validation refuses it.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|s| s.matches(labels))
}

/// What `policies` (of one namespace, by name) say of a connection to `service`: of its opener (`subject`) for
/// egress, of the other end (`subject`) for ingress. `peer` is the respective other.
pub fn decide<'a>(
    policies: impl IntoIterator<Item = (&'a str, &'a SecurityPolicySpec)>,
    direction: Direction,
    subject: End<'_>,
    peer: End<'_>,
    service: Service,
) -> Verdict<'a> {
    let Some(labels) = subject.labels else {
        return Verdict::Unrestricted;
    };
    let mut closed = Vec::new();
    for (name, spec) in policies {
        if !spec.closes(direction) || !selects(&spec.container_selector, labels) {
            continue;
        }
        let allows = |(peers, ports): &(&[Peer], &[PolicyPort])| {
            (peers.is_empty() || peers.iter().any(|p| p.matches(peer)))
                && (ports.is_empty() || ports.iter().any(|p| p.matches(service)))
        };
        if spec.rules(direction).iter().any(allows) {
            return Verdict::Allowed(name);
        }
        closed.push(name);
    }
    if closed.is_empty() {
        Verdict::Unrestricted
    } else {
        Verdict::Denied(closed)
    }
}

impl Peer {
    /// Whether it means this end.
    pub fn matches(&self, end: End<'_>) -> bool {
        let block = self.ip_block.as_ref();
        let named = self.container_selector.as_ref();
        block.is_some_and(|b| b.contains(end.address))
            || named.is_some_and(|s| end.labels.is_some_and(|labels| selects(s, labels)))
    }
}

impl IpBlock {
    /// Whether the address is in the block, and in none of its exceptions.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let within = |cidr: &String| cidr.parse().is_ok_and(|n: Ipv4Net| n.contains(&address));
        within(&self.cidr) && !self.except.iter().any(within)
    }
}

impl PolicyPort {
    /// Whether it means this service.
    pub fn matches(&self, service: Service) -> bool {
        let in_range = |port: u16| match (self.port, self.end_port) {
            (None, _) => true,
            (Some(first), last) => (first..=last.unwrap_or(first)).contains(&port),
        };
        match (self.protocol, service) {
            (PolicyProtocol::Tcp, Service::Tcp(port))
            | (PolicyProtocol::Udp, Service::Udp(port)) => in_range(port),
            (PolicyProtocol::Icmp, Service::Icmp(kind, code)) => {
                self.icmp_type.is_none_or(|t| t == kind) && self.icmp_code.is_none_or(|c| c == code)
            }
            _ => false,
        }
    }
}
