//! SecurityPolicies, from what tenants write to what a switch holds.
//!
//! [`compile`] resolves the selectors of a tenant's policies against the ports of one network: what comes out
//! ([`Guard`]) knows only addresses. [`flows`] says the same in flows. Both are pure, and a law holds that a switch
//! with these flows lets through exactly what the policies' text allows.
//!
//! ```text
//!   spoof ─▶ policy 20 ── ct ──▶ connection 21 ─▶ opener 22 ─▶ target 23 ─▶ remember 24 ─▶ arp
//!                 └─ neither end is a selected container of this host ──────────────────────┘
//! ```
//!
//! Every packet of a selected container is looked up among its network's connections (a conntrack zone of its own), and
//! the *connection* is what rules are applied to: who opened it, to whom, to which service. The rules are looked at for
//! every packet, in both directions. So a reply passes because what it answers is allowed; a rule that goes cuts open
//! connections at once, both ways; one that stays, or comes back, does not touch them.
//!
//! A connection that is seen in its middle (a container that moved here live, a first policy) is taken on as if its
//! opener had been seen. Who that was is told from the ports where one is below 32768 and the other is not: the latter
//! is the opener's. Otherwise the sender of the first packet is taken for it. What is taken for an answer in this way
//! passes without being put on record, only as TCP that does not ask for a connection, and only inside the network.

mod flows;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use flows::flows;

use super::flow::Bits;
use ipnet::Ipv4Net;
use kube::core::{Selector, SelectorExt};
use serde::{Deserialize, Serialize};
use skysail_schemas::SecurityPolicySpec;
use skysail_schemas::security_policy::{
    Direction, IpBlock, Peer, PolicyPort, PolicyProtocol, ProgrammedPolicy,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A tenant's policy, as this host knows it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Policy {
    /// Generation of what follows.
    pub generation: i64,
    /// What the tenant wrote.
    pub spec: SecurityPolicySpec,
}

/// Policies of a tenant, by name.
pub type Policies = BTreeMap<String, Policy>;

/// A port, as policies see it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct End<'a> {
    /// The container's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Whether the container is on this host.
    pub here: bool,
}

/// What a network's packets must satisfy on this host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Guard {
    /// Containers of this host of which it is not known what applies to them: nothing passes.
    pub closed: BTreeSet<Ipv4Addr>,
    /// Containers of this host that some policy selects, by direction.
    pub selected: BTreeMap<Direction, BTreeSet<Ipv4Addr>>,
    /// What is allowed nevertheless.
    pub rules: Vec<Rule>,
    /// The policies that select a container of this host.
    pub in_force: BTreeSet<ProgrammedPolicy>,
}

/// Allows connections of some containers of this host.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The policy that it is of.
    pub policy: String,
    /// Which rule of the policy, in its direction.
    pub number: usize,
    /// Whether the containers are targets or openers.
    pub direction: Direction,
    /// The containers.
    pub subjects: BTreeSet<Ipv4Addr>,
    /// The other end; none is everybody.
    pub peers: Option<BTreeSet<Ipv4Net>>,
    /// What is connected to, in the words of the register; none is everything.
    pub services: Option<BTreeSet<Bits>>,
}

/// What the policies of a tenant mean for one of its networks on this host. `ends` are the network's ports.
pub fn compile(namespace: &str, policies: &Policies, ends: &BTreeMap<Ipv4Addr, End<'_>>) -> Guard {
    let mut guard = Guard::default();
    for (name, policy) in policies {
        let Ok(selector) = Selector::try_from(policy.spec.container_selector.clone()) else {
            continue;
        };
        let subjects: BTreeSet<Ipv4Addr> = ends
            .iter()
            .filter(|(_, e)| e.here && selector.matches(e.labels))
            .map(|(a, _)| *a)
            .collect();
        if subjects.is_empty() {
            continue;
        }
        guard.in_force.insert(ProgrammedPolicy {
            namespace: namespace.to_owned(),
            name: name.clone(),
            generation: policy.generation,
        });
        for direction in [Direction::Ingress, Direction::Egress] {
            if !policy.spec.closes(direction) {
                continue;
            }
            let selected = guard.selected.entry(direction).or_default();
            selected.extend(&subjects);
            let rules = policy.spec.rules(direction).into_iter().enumerate();
            let compiled = rules.filter_map(|(number, (peers, ports))| {
                Some(Rule {
                    policy: format!("{namespace}/{name}"),
                    number,
                    direction,
                    subjects: subjects.clone(),
                    peers: resolve(peers, ends)?,
                    services: services(ports),
                })
            });
            guard.rules.extend(compiled);
        }
    }
    guard
}

/// The addresses of a rule's peers: `Some(None)` for everybody, `None` for nobody.
fn resolve(
    peers: &[Peer],
    ends: &BTreeMap<Ipv4Addr, End<'_>>,
) -> Option<Option<BTreeSet<Ipv4Net>>> {
    if peers.is_empty() {
        return Some(None);
    }
    let mut all = BTreeSet::new();
    for peer in peers {
        let named = peer.container_selector.clone().map(Selector::try_from);
        if let Some(Ok(selector)) = named {
            let those = ends.iter().filter(|(_, e)| selector.matches(e.labels));
            all.extend(those.map(|(a, _)| Ipv4Net::from(*a)));
        }
        if let Some(block) = &peer.ip_block {
            all.extend(blocks(block));
        }
    }
    if all.iter().any(|n| n.prefix_len() == 0) {
        return Some(None);
    }
    (!all.is_empty()).then_some(Some(all))
}

/// A block without its exceptions, as blocks.
fn blocks(block: &IpBlock) -> Vec<Ipv4Net> {
    let parsed = |text: &String| text.parse::<Ipv4Net>().ok().map(|n| n.trunc());
    let except: Vec<Ipv4Net> = block.except.iter().filter_map(parsed).collect();
    parsed(&block.cidr)
        .map(|whole| without(whole, &except))
        .unwrap_or_default()
}

fn without(whole: Ipv4Net, except: &[Ipv4Net]) -> Vec<Ipv4Net> {
    if except.iter().any(|e| e.contains(&whole)) {
        return Vec::new();
    }
    if !except.iter().any(|e| whole.contains(e)) {
        return vec![whole];
    }
    let halves = whole.subnets(whole.prefix_len() + 1);
    halves
        .map(|h| h.flat_map(|half| without(half, except)).collect())
        .unwrap_or_default()
}

const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMP: u32 = 1;
/// The protocol's bits in the register of services.
const PROTOCOL: u32 = 0x00ff_0000;

/// Ports of a rule in the words of the register; none is everything.
fn services(ports: &[PolicyPort]) -> Option<BTreeSet<Bits>> {
    if ports.is_empty() {
        return None;
    }
    Some(ports.iter().flat_map(service).collect())
}

fn service(port: &PolicyPort) -> Vec<Bits> {
    let (number, below) = match port.protocol {
        PolicyProtocol::Tcp => (TCP, in_range(port.port, port.end_port)),
        PolicyProtocol::Udp => (UDP, in_range(port.port, port.end_port)),
        PolicyProtocol::Icmp => {
            let part = |n: Option<u8>| n.map_or((0, 0), |n| (u32::from(n), 0xff));
            let (kind, code) = (part(port.icmp_type), part(port.icmp_code));
            let bits = Bits {
                value: kind.0 << 8 | code.0,
                mask: kind.1 << 8 | code.1,
            };
            (ICMP, vec![bits])
        }
    };
    let with_protocol = |b: Bits| Bits {
        value: number << 16 | b.value,
        mask: PROTOCOL | b.mask,
    };
    below.into_iter().map(with_protocol).collect()
}

/// A range of ports as few masked values: each is as long as its beginning and the rest of the range allow.
fn in_range(first: Option<u16>, last: Option<u16>) -> Vec<Bits> {
    let Some(first) = first else {
        return vec![Bits { value: 0, mask: 0 }];
    };
    let (mut at, end) = (u32::from(first), u32::from(last.unwrap_or(first)) + 1);
    let mut all = Vec::new();
    while at < end {
        let mut size = 1 << at.trailing_zeros().min(16);
        while at + size > end {
            size /= 2;
        }
        let mask = 0xffff & !(size - 1);
        all.push(Bits { value: at, mask });
        at += size;
    }
    all
}
