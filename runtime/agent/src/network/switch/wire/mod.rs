//! Flows and meters as OpenFlow 1.4 has them on the wire; only what [`crate::network::flow`] can say, plus enough of
//! foreign flows to delete exactly them. Pure.

mod read;

use crate::network::flow::{Action, Flow, Match, Meter, Protocol, Strict};
use ipnet::Ipv4Net;
pub use read::{meters, seen};
use std::net::IpAddr;

/// Any port, any group, any meter; no buffer.
const ANY: u32 = 0xffff_ffff;
/// Back out of the port that it came in by.
const IN_PORT: u32 = 0xffff_fff8;

/// A field: class, number and bytes of its value.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Field(u16, u8, u8);

impl Field {
    const IN_PORT: Self = Self(0x8000, 0, 4);
    const ETH_DST: Self = Self(0x8000, 3, 6);
    const ETH_SRC: Self = Self(0x8000, 4, 6);
    const ETH_TYPE: Self = Self(0x8000, 5, 2);
    const IP_PROTOCOL: Self = Self(0x8000, 10, 1);
    const IP_SRC: Self = Self(0x8000, 11, 4);
    const IP_DST: Self = Self(0x8000, 12, 4);
    const TCP_DST: Self = Self(0x8000, 14, 2);
    const UDP_DST: Self = Self(0x8000, 16, 2);
    const ICMP_TYPE: Self = Self(0x8000, 19, 1);
    const ICMP_CODE: Self = Self(0x8000, 20, 1);
    const ARP_OP: Self = Self(0x8000, 21, 2);
    const ARP_SENDER: Self = Self(0x8000, 22, 4);
    const ARP_TARGET: Self = Self(0x8000, 23, 4);
    const ARP_SENDER_MAC: Self = Self(0x8000, 24, 6);
    const TUNNEL_KEY: Self = Self(0x8000, 38, 8);
    const VNI: Self = Self(1, 0, 4);
    const ORIGIN: Self = Self(1, 1, 4);
    const OPENER: Self = Self(1, 2, 4);
    const TARGET: Self = Self(1, 3, 4);
    const SERVICE: Self = Self(1, 4, 4);
    const GUESSED: Self = Self(1, 5, 4);
    const TCP_SRC: Self = Self(0x8000, 13, 2);
    const TTL: Self = Self(1, 29, 1);
    const TCP_FLAGS: Self = Self(1, 34, 2);
    /// The same as the switch prints it: of a class with a number of its own before the value.
    const TCP_FLAGS_ONF: Self = Self(0xffff, 42, 2);
    const RULE: Self = Self(1, 37, 4);
    const CT_STATE: Self = Self(1, 105, 4);
    const CT_PROTOCOL: Self = Self(1, 119, 1);
    const CT_SRC: Self = Self(1, 120, 4);
    const CT_DST: Self = Self(1, 121, 4);
    const CT_SRC_PORT: Self = Self(1, 124, 2);
    const CT_DST_PORT: Self = Self(1, 125, 2);
    const TUNNEL_TO: Self = Self(1, 32, 4);
    const TUNNEL_TO_V6: Self = Self(1, 110, 16);
    // As a move names them.
    const MOVE_ETH_DST: Self = Self(0, 1, 6);
    const MOVE_ETH_SRC: Self = Self(0, 2, 6);
    const MOVE_IP_SRC: Self = Self(0, 7, 4);
    const MOVE_IP_DST: Self = Self(0, 8, 4);
    const MOVE_ARP_SENDER: Self = Self(0, 16, 4);
    const MOVE_ARP_TARGET: Self = Self(0, 17, 4);
    const MOVE_ARP_SENDER_MAC: Self = Self(1, 17, 6);
    const MOVE_ARP_TARGET_MAC: Self = Self(1, 18, 6);

    fn header(self) -> [u8; 4] {
        let [high, low] = self.0.to_be_bytes();
        [high, low, self.1 << 1, self.2]
    }
}

/// Some bits of a field: the first, and how many.
type Part = (Field, u16, u16);

/// Moves: from where to where.
const MOVES: [(Action, Part, Part); 13] = [
    whole(
        Action::EthSrcToDst,
        Field::MOVE_ETH_SRC,
        Field::MOVE_ETH_DST,
    ),
    whole(Action::IpSrcToDst, Field::MOVE_IP_SRC, Field::MOVE_IP_DST),
    whole(
        Action::ArpSenderToTarget,
        Field::MOVE_ARP_SENDER,
        Field::MOVE_ARP_TARGET,
    ),
    whole(
        Action::ArpSenderMacToTarget,
        Field::MOVE_ARP_SENDER_MAC,
        Field::MOVE_ARP_TARGET_MAC,
    ),
    whole(Action::OpenerFromSource, Field::CT_SRC, Field::OPENER),
    whole(Action::OpenerFromDestination, Field::CT_DST, Field::OPENER),
    whole(Action::TargetFromSource, Field::CT_SRC, Field::TARGET),
    whole(Action::TargetFromDestination, Field::CT_DST, Field::TARGET),
    (
        Action::ServiceProtocol,
        (Field::CT_PROTOCOL, 0, 8),
        (Field::SERVICE, 16, 8),
    ),
    (
        Action::ServiceFromDstPort,
        (Field::CT_DST_PORT, 0, 16),
        (Field::SERVICE, 0, 16),
    ),
    (
        Action::ServiceFromSrcPort,
        (Field::CT_SRC_PORT, 0, 16),
        (Field::SERVICE, 0, 16),
    ),
    (
        Action::ServiceIcmpType,
        (Field::CT_SRC_PORT, 0, 8),
        (Field::SERVICE, 8, 8),
    ),
    (
        Action::ServiceIcmpCode,
        (Field::CT_DST_PORT, 0, 8),
        (Field::SERVICE, 0, 8),
    ),
];

const fn whole(action: Action, from: Field, to: Field) -> (Action, Part, Part) {
    let bits = from.2 as u16 * 8;
    (action, (from, 0, bits), (to, 0, bits))
}

/// States of a connection, as bits: it is new; it makes no sense; it was looked up.
const CT_NEW: u32 = 1;
const CT_INVALID: u32 = 0x10;
const CT_TRACKED: u32 = 0x20;
const TCP_SYN: u16 = 2;
/// The first of the ports that openers get.
const OPENERS_PORT: u16 = 0x8000;

/// Actions of Nicira: the vendor, and its numbers.
const NICIRA: u32 = 0x2320;
const MOVE: u16 = 6;
const CONJUNCTION: u16 = 34;
const CONNTRACK: u16 = 35;
/// No table follows.
const NO_TABLE: u8 = 0xff;

/// EtherType and IP protocol.
const PROTOCOLS: [(Protocol, u16, Option<u8>); 5] = [
    (Protocol::Arp, 0x0806, None),
    (Protocol::Ip, 0x0800, None),
    (Protocol::Icmp, 0x0800, Some(1)),
    (Protocol::Tcp, 0x0800, Some(6)),
    (Protocol::Udp, 0x0800, Some(17)),
];

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn field(out: &mut Vec<u8>, field: Field, value: &[u8]) {
    out.extend(field.header());
    out.extend(value);
}

fn masked(out: &mut Vec<u8>, field: Field, value: &[u8], mask: &[u8]) {
    let [a, b, c, d] = field.header();
    out.extend([a, b, c | 1, d * 2]);
    out.extend(value);
    out.extend(mask);
}

/// A block of addresses; one address alone has no mask.
fn block(out: &mut Vec<u8>, to: Field, net: &Ipv4Net) {
    let (value, mask) = (net.network().octets(), net.netmask().octets());
    match net.prefix_len() {
        32 => field(out, to, &value),
        _ => masked(out, to, &value, &mask),
    }
}

/// The conditions of a flow, one field after another, without their header.
fn conditions(matches: &[Match]) -> Vec<u8> {
    let mut out = Vec::new();
    let protocol = matches.iter().find_map(|m| match m {
        Match::Is(p) => Some(*p),
        _ => None,
    });
    let known = protocol.and_then(|p| PROTOCOLS.into_iter().find(|(q, ..)| *q == p));
    // A field's prerequisites come before it.
    if let Some((_, ethernet, ip)) = known {
        field(&mut out, Field::ETH_TYPE, &ethernet.to_be_bytes());
        if let Some(ip) = ip {
            field(&mut out, Field::IP_PROTOCOL, &[ip]);
        }
    }
    for m in matches {
        let put = &mut out;
        match m {
            Match::Is(_) => {}
            Match::InPort(n) => field(put, Field::IN_PORT, &n.to_be_bytes()),
            Match::TunnelKey(n) => field(put, Field::TUNNEL_KEY, &u64::from(*n).to_be_bytes()),
            Match::Vni(n) => field(put, Field::VNI, &n.to_be_bytes()),
            Match::From(o) => field(put, Field::ORIGIN, &(*o as u32).to_be_bytes()),
            Match::EthSrc(a) => field(put, Field::ETH_SRC, &a.0),
            Match::EthDst(a) => field(put, Field::ETH_DST, &a.0),
            Match::IpSrc(a) => field(put, Field::IP_SRC, &a.octets()),
            Match::IpDst(a) => field(put, Field::IP_DST, &a.octets()),
            Match::IpDstIn(n) => masked(
                put,
                Field::IP_DST,
                &n.network().octets(),
                &n.netmask().octets(),
            ),
            Match::ArpRequest => field(put, Field::ARP_OP, &[0, 1]),
            Match::ArpSenderMac(a) => field(put, Field::ARP_SENDER_MAC, &a.0),
            Match::ArpSender(a) => field(put, Field::ARP_SENDER, &a.octets()),
            Match::ArpTarget(a) => field(put, Field::ARP_TARGET, &a.octets()),
            Match::IcmpType(n) => field(put, Field::ICMP_TYPE, &[*n]),
            Match::IcmpCode(n) => field(put, Field::ICMP_CODE, &[*n]),
            Match::DstPort(n) => {
                let port = if protocol == Some(Protocol::Tcp) {
                    Field::TCP_DST
                } else {
                    Field::UDP_DST
                };
                field(put, port, &n.to_be_bytes());
            }
            of_connection => tracked(put, of_connection),
        }
    }
    out
}

/// Conditions on a packet's connection, which a policy looks at.
fn tracked(put: &mut Vec<u8>, condition: &Match) {
    let state = |put: &mut Vec<u8>, value: u32, mask: u32| {
        masked(
            put,
            Field::CT_STATE,
            &value.to_be_bytes(),
            &mask.to_be_bytes(),
        );
    };
    let port = |put: &mut Vec<u8>, of: Field, value: u16| {
        masked(put, of, &value.to_be_bytes(), &OPENERS_PORT.to_be_bytes());
    };
    match condition {
        Match::Sensible => state(put, CT_TRACKED, CT_TRACKED | CT_INVALID),
        Match::New => state(put, CT_TRACKED | CT_NEW, CT_TRACKED | CT_NEW),
        Match::ConnectionProtocol(n) => field(put, Field::CT_PROTOCOL, &[*n]),
        Match::NoSyn => masked(put, Field::TCP_FLAGS, &[0, 0], &TCP_SYN.to_be_bytes()),
        Match::FromServicePort => port(put, Field::TCP_SRC, 0),
        Match::ToOpenersPort => port(put, Field::TCP_DST, OPENERS_PORT),
        Match::Opener(n) => block(put, Field::OPENER, n),
        Match::Target(n) => block(put, Field::TARGET, n),
        Match::Service(b) if b.mask == u32::MAX => {
            field(put, Field::SERVICE, &b.value.to_be_bytes());
        }
        Match::Service(b) => masked(
            put,
            Field::SERVICE,
            &b.value.to_be_bytes(),
            &b.mask.to_be_bytes(),
        ),
        Match::Guessed(yes) => field(put, Field::GUESSED, &u32::from(*yes).to_be_bytes()),
        Match::Rule(n) => field(put, Field::RULE, &n.to_be_bytes()),
        _ => {}
    }
}

fn set(out: &mut Vec<u8>, to: Field, value: &[u8]) {
    let mut action = vec![0, 25, 0, 0];
    field(&mut action, to, value);
    pad(&mut action);
    // A field and its value are far below 256 bytes.
    action[3] = action.len() as u8;
    out.extend(action);
}

fn output(out: &mut Vec<u8>, port: u32) {
    out.extend([0, 0, 0, 16]);
    out.extend(port.to_be_bytes());
    out.extend([0; 8]);
}

fn action(out: &mut Vec<u8>, action: &Action) {
    match action {
        Action::Drop | Action::Goto(_) | Action::Meter(_) => {}
        Action::Output(port) => output(out, *port),
        Action::Back => output(out, IN_PORT),
        Action::SetVni(n) => set(out, Field::VNI, &n.to_be_bytes()),
        Action::SetOrigin(o) => set(out, Field::ORIGIN, &(*o as u32).to_be_bytes()),
        Action::SetEthSrc(a) => set(out, Field::ETH_SRC, &a.0),
        Action::SetArpReply => set(out, Field::ARP_OP, &[0, 2]),
        Action::SetArpSenderMac(a) => set(out, Field::ARP_SENDER_MAC, &a.0),
        Action::SetArpSender(a) => set(out, Field::ARP_SENDER, &a.octets()),
        Action::SetIpSrc(a) => set(out, Field::IP_SRC, &a.octets()),
        Action::SetEchoReply => set(out, Field::ICMP_TYPE, &[0]),
        Action::SetTtl(n) => set(out, Field::TTL, &[*n]),
        Action::SetTunnelKey(n) => set(out, Field::TUNNEL_KEY, &u64::from(*n).to_be_bytes()),
        Action::SetTunnelTo(IpAddr::V4(a)) => set(out, Field::TUNNEL_TO, &a.octets()),
        Action::SetTunnelTo(IpAddr::V6(a)) => set(out, Field::TUNNEL_TO_V6, &a.octets()),
        Action::SetGuessed => set(out, Field::GUESSED, &1_u32.to_be_bytes()),
        Action::Track { zone, next } => conntrack(out, false, *zone, *next as u8),
        Action::Remember(zone) => conntrack(out, true, *zone, NO_TABLE),
        Action::Part { rule, part, of } => {
            nicira(out, 16, CONJUNCTION);
            out.extend([part.saturating_sub(1), *of]);
            out.extend(rule.to_be_bytes());
        }
        moved => {
            if let Some((_, from, to)) = MOVES.iter().find(|(a, ..)| a == moved) {
                nicira(out, 24, MOVE);
                for number in [from.2, from.1, to.1] {
                    out.extend(number.to_be_bytes());
                }
                out.extend(from.0.header());
                out.extend(to.0.header());
            }
        }
    }
}

/// The head of one of Nicira's actions.
fn nicira(out: &mut Vec<u8>, length: u16, subtype: u16) {
    out.extend([0xff, 0xff]);
    out.extend(length.to_be_bytes());
    out.extend(NICIRA.to_be_bytes());
    out.extend(subtype.to_be_bytes());
}

fn conntrack(out: &mut Vec<u8>, commit: bool, zone: u16, next: u8) {
    nicira(out, 24, CONNTRACK);
    out.extend(u16::from(commit).to_be_bytes());
    // The zone is a number, not a field; no helper of a protocol.
    out.extend([0; 4]);
    out.extend(zone.to_be_bytes());
    out.extend([next, 0, 0, 0, 0, 0]);
}

fn instructions(actions: &[Action]) -> Vec<u8> {
    let (mut out, mut list) = (Vec::new(), Vec::new());
    for a in actions {
        if let Action::Meter(id) = a {
            out.extend([0, 6, 0, 8]);
            out.extend(id.to_be_bytes());
        }
        action(&mut list, a);
    }
    if !list.is_empty() {
        let length = (list.len() + 8) as u16;
        out.extend([0, 4]);
        out.extend(length.to_be_bytes());
        out.extend([0; 4]);
        out.extend(list);
    }
    for a in actions {
        if let Action::Goto(table) = a {
            out.extend([0, 1, 0, 8, *table as u8, 0, 0, 0]);
        }
    }
    out
}

/// The body of a message that adds a flow, or deletes exactly one.
fn modification(delete: bool, at: &Strict, cookie: u64, instructions: &[u8]) -> Vec<u8> {
    let (add, delete_strict) = (0, 4);
    let mut out = cookie.to_be_bytes().to_vec();
    out.extend([0; 8]);
    out.extend([at.table, if delete { delete_strict } else { add }]);
    out.extend([0; 4]);
    out.extend(at.priority.to_be_bytes());
    for _ in 0..3 {
        out.extend(ANY.to_be_bytes());
    }
    out.extend([0; 4]);
    let start = out.len();
    out.extend([0, 1]);
    out.extend(((at.conditions.len() + 4) as u16).to_be_bytes());
    out.extend(&at.conditions);
    let length = (out.len() - start).next_multiple_of(8);
    out.resize(start + length, 0);
    out.extend(instructions);
    out
}

/// Where a flow is, as the wire says it.
pub fn strict(flow: &Flow) -> Strict {
    Strict {
        table: flow.table as u8,
        priority: flow.priority,
        conditions: conditions(&flow.matches),
    }
}

/// The body of a message that adds `flow`.
pub fn add(flow: &Flow) -> Vec<u8> {
    modification(
        false,
        &strict(flow),
        flow.cookie,
        &instructions(&flow.actions),
    )
}

/// The body of a message that deletes exactly the flow `at`.
pub fn delete(at: &Strict) -> Vec<u8> {
    modification(true, at, 0, &[])
}

/// The body of a request for every flow.
pub fn every_flow() -> Vec<u8> {
    let mut out = vec![0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0];
    out.extend(ANY.to_be_bytes());
    out.extend(ANY.to_be_bytes());
    out.extend([0; 20]);
    out.extend([0, 1, 0, 4, 0, 0, 0, 0]);
    out
}

/// What to do to a meter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Metering {
    /// Make it.
    Add = 0,
    /// Change it.
    Modify = 1,
    /// Delete it, and every flow that uses it.
    Delete = 2,
}

/// The body of a message about a meter.
pub fn meter(what: Metering, id: u32, meter: Meter) -> Vec<u8> {
    let (kilobits, with_burst, drop) = (1_u16, 4_u16, [0, 1, 0, 16]);
    let mut out = vec![0, what as u8];
    out.extend((kilobits | with_burst).to_be_bytes());
    out.extend(id.to_be_bytes());
    if what != Metering::Delete {
        out.extend(drop);
        out.extend(meter.rate.to_be_bytes());
        out.extend(meter.burst.to_be_bytes());
        out.extend([0; 4]);
    }
    out
}

/// The body of a request for every meter.
pub fn every_meter() -> Vec<u8> {
    let mut out = vec![0, 10, 0, 0, 0, 0, 0, 0];
    out.extend(ANY.to_be_bytes());
    out.extend([0; 4]);
    out
}

/// The body of a request for what meters there can be.
pub const METER_FEATURES: [u8; 8] = [0, 11, 0, 0, 0, 0, 0, 0];

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What the switch answers once these flows are in it.
    pub fn dumped(flows: &[Flow]) -> Vec<u8> {
        flows.iter().flat_map(entry).collect()
    }

    /// One flow of an answer, made of a flow's modification.
    fn entry(flow: &Flow) -> Vec<u8> {
        let added = add(flow);
        let mut out = vec![0, 0, flow.table as u8, 0];
        out.extend([0; 8]);
        out.extend(flow.priority.to_be_bytes());
        out.extend([0; 10]);
        out.extend(flow.cookie.to_be_bytes());
        out.extend([0; 16]);
        out.extend(&added[40..]);
        let length = (out.len() as u16).to_be_bytes();
        out[..2].copy_from_slice(&length);
        out
    }

    #[test]
    fn a_meter_is_read_back_as_it_was_made() {
        let made = Meter {
            rate: 100_000,
            burst: 10_000,
        };
        let body = meter(Metering::Add, 14, made);
        let (head, bands) = body.split_at(8);
        let mut answer = vec![0, 24];
        answer.extend(&head[2..]);
        answer.extend(bands);
        assert_eq!(meters(&answer), Some(vec![(14, made)]));
    }

    #[test]
    fn what_breaks_off_is_no_flow() {
        assert_eq!(seen(&[0, 60, 1]), None);
        assert_eq!(seen(&[0; 4]), None);
    }
}
