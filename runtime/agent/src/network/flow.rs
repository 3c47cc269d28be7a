//! One flow: typed here, and as text in the switch's own notation, for people and goldens.
//! [`super::switch::wire`] puts it on the wire and reads it back.

use super::registers::{GUESSED, OPENER, ORIGIN, Origin, SERVICE, TARGET, VNI};
use super::tables::Table;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// The first byte of every cookie of ours; what does not begin with it is not touched.
const MARK: u64 = 0x5c;

/// The layout of the pipeline. Raise it when tables or registers change their meaning, so that flows
/// of an older agent are recognised and replaced.
const ROUND: u64 = 1;

/// Owner of a flow: mark, round, feature (the table) and a hash of the object that it is for.
pub fn cookie(table: Table, object: &str) -> u64 {
    // FNV-1a: stable between builds, which the hasher of the standard library is not.
    let hash = object.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    MARK << 56 | ROUND << 48 | (table as u64) << 40 | (hash ^ hash >> 40) & 0xff_ffff_ffff
}

/// Whether a flow with this cookie was made by Skysail, by this agent or an older one.
pub fn is_ours(cookie: u64) -> bool {
    cookie >> 56 == MARK
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let parts: Vec<u8> = text
            .split(':')
            .map(|p| u8::from_str_radix(p, 16))
            .collect::<Result<_, _>>()
            .map_err(|_| unknown(text))?;
        Ok(Self(parts.try_into().map_err(|_| unknown(text))?))
    }
}

/// Text that is no flow of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not understood")]
pub struct Unknown(String);

fn unknown(text: &str) -> Unknown {
    Unknown(text.to_owned())
}

/// Protocol of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Protocol {
    Arp,
    Ip,
    Icmp,
    Tcp,
    Udp,
}

impl Protocol {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Arp, "arp"),
        (Self::Ip, "ip"),
        (Self::Icmp, "icmp"),
        (Self::Tcp, "tcp"),
        (Self::Udp, "udp"),
    ];
}

/// One condition of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Match {
    Is(Protocol),
    InPort(u32),
    TunnelKey(u32),
    Vni(u32),
    From(Origin),
    EthSrc(Mac),
    EthDst(Mac),
    IpSrc(Ipv4Addr),
    IpDst(Ipv4Addr),
    IpDstIn(Ipv4Net),
    ArpRequest,
    ArpSenderMac(Mac),
    ArpSender(Ipv4Addr),
    ArpTarget(Ipv4Addr),
    IcmpType(u8),
    IcmpCode(u8),
    DstPort(u16),
    /// The packet was looked up, and belongs to a connection or could begin one.
    Sensible,
    /// It would begin a connection.
    New,
    /// The IP protocol of its connection.
    ConnectionProtocol(u8),
    /// It does not ask for a TCP connection.
    NoSyn,
    /// From a port below 32768: those that services have.
    FromServicePort,
    /// To a port from 32768 on: those that openers get.
    ToOpenersPort,
    Opener(Ipv4Net),
    Target(Ipv4Net),
    Service(Bits),
    Guessed(bool),
    /// Every part of this rule matched, see [`Action::Part`].
    Rule(u32),
}

/// A value of which only some bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bits {
    /// The value; 0 where the mask is.
    pub value: u32,
    /// The bits that count.
    pub mask: u32,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(p) => f.write_str(
                Protocol::ALL
                    .iter()
                    .find(|(q, _)| q == p)
                    .map_or("", |(_, name)| name),
            ),
            Self::InPort(n) => write!(f, "in_port={n}"),
            Self::TunnelKey(n) => write!(f, "tun_id={n:#x}"),
            Self::Vni(n) => write!(f, "{VNI}={n:#x}"),
            Self::From(o) => write!(f, "{ORIGIN}={o}"),
            Self::EthSrc(m) => write!(f, "dl_src={m}"),
            Self::EthDst(m) => write!(f, "dl_dst={m}"),
            Self::IpSrc(a) => write!(f, "nw_src={a}"),
            Self::IpDst(a) => write!(f, "nw_dst={a}"),
            Self::IpDstIn(n) => write!(f, "nw_dst={n}"),
            Self::ArpRequest => write!(f, "arp_op=1"),
            Self::ArpSenderMac(m) => write!(f, "arp_sha={m}"),
            Self::ArpSender(a) => write!(f, "arp_spa={a}"),
            Self::ArpTarget(a) => write!(f, "arp_tpa={a}"),
            Self::IcmpType(n) => write!(f, "icmp_type={n}"),
            Self::IcmpCode(n) => write!(f, "icmp_code={n}"),
            Self::DstPort(n) => write!(f, "tp_dst={n}"),
            Self::Sensible => write!(f, "ct_state=-inv+trk"),
            Self::New => write!(f, "ct_state=+new+trk"),
            Self::ConnectionProtocol(n) => write!(f, "ct_nw_proto={n}"),
            Self::NoSyn => write!(f, "tcp_flags=-syn"),
            Self::FromServicePort => write!(f, "tp_src=0x0/0x8000"),
            Self::ToOpenersPort => write!(f, "tp_dst=0x8000/0x8000"),
            Self::Opener(n) => block(f, OPENER, *n),
            Self::Target(n) => block(f, TARGET, *n),
            Self::Service(b) => write!(f, "{SERVICE}={:#x}/{:#x}", b.value, b.mask),
            Self::Guessed(yes) => write!(f, "{GUESSED}={:#x}", u8::from(*yes)),
            Self::Rule(n) => write!(f, "conj_id={n}"),
        }
    }
}

/// A block of addresses in a register, whole or masked.
fn block(f: &mut fmt::Formatter<'_>, register: &str, net: Ipv4Net) -> fmt::Result {
    let value = u32::from(net.network());
    match net.prefix_len() {
        32 => write!(f, "{register}={value:#x}"),
        _ => write!(f, "{register}={value:#x}/{:#x}", u32::from(net.netmask())),
    }
}

/// One action of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Drop,
    Goto(Table),
    /// Only what a meter lets pass goes on. The first of a flow's actions.
    Meter(u32),
    Output(u32),
    /// Back out of the port that it came in by.
    Back,
    SetVni(u32),
    SetOrigin(Origin),
    EthSrcToDst,
    IpSrcToDst,
    ArpSenderToTarget,
    ArpSenderMacToTarget,
    SetEthSrc(Mac),
    SetArpReply,
    SetArpSenderMac(Mac),
    SetArpSender(Ipv4Addr),
    SetIpSrc(Ipv4Addr),
    SetEchoReply,
    SetTtl(u8),
    SetTunnelKey(u32),
    SetTunnelTo(IpAddr),
    /// Looks the packet up among the connections of `zone`, and goes on with what was found.
    Track {
        /// Connections of different zones never meet.
        zone: u16,
        /// Where it goes on.
        next: Table,
    },
    /// Puts the packet's connection on record.
    Remember(u16),
    /// One of the `of` parts of a rule matched: once all have, the packet matches [`Match::Rule`].
    Part {
        /// The rule.
        rule: u32,
        /// Which part, from 1 on.
        part: u8,
        /// How many there are.
        of: u8,
    },
    OpenerFromSource,
    OpenerFromDestination,
    TargetFromSource,
    TargetFromDestination,
    ServiceProtocol,
    ServiceFromDstPort,
    ServiceFromSrcPort,
    ServiceIcmpType,
    ServiceIcmpCode,
    SetGuessed,
}

/// Actions without a value, as the switch prints them.
const FIXED: [(Action, &str); 18] = [
    (Action::Drop, "drop"),
    (Action::Back, "IN_PORT"),
    (
        Action::EthSrcToDst,
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
    ),
    (Action::IpSrcToDst, "move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[]"),
    (
        Action::ArpSenderToTarget,
        "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]",
    ),
    (
        Action::ArpSenderMacToTarget,
        "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]",
    ),
    (Action::SetArpReply, "set_field:2->arp_op"),
    (Action::SetEchoReply, "set_field:0->icmp_type"),
    (
        Action::OpenerFromSource,
        "move:NXM_NX_CT_NW_SRC[]->NXM_NX_REG2[]",
    ),
    (
        Action::OpenerFromDestination,
        "move:NXM_NX_CT_NW_DST[]->NXM_NX_REG2[]",
    ),
    (
        Action::TargetFromSource,
        "move:NXM_NX_CT_NW_SRC[]->NXM_NX_REG3[]",
    ),
    (
        Action::TargetFromDestination,
        "move:NXM_NX_CT_NW_DST[]->NXM_NX_REG3[]",
    ),
    (
        Action::ServiceProtocol,
        "move:NXM_NX_CT_NW_PROTO[]->NXM_NX_REG4[16..23]",
    ),
    (
        Action::ServiceFromDstPort,
        "move:NXM_NX_CT_TP_DST[]->NXM_NX_REG4[0..15]",
    ),
    (
        Action::ServiceFromSrcPort,
        "move:NXM_NX_CT_TP_SRC[]->NXM_NX_REG4[0..15]",
    ),
    (
        Action::ServiceIcmpType,
        "move:NXM_NX_CT_TP_SRC[0..7]->NXM_NX_REG4[8..15]",
    ),
    (
        Action::ServiceIcmpCode,
        "move:NXM_NX_CT_TP_DST[0..7]->NXM_NX_REG4[0..7]",
    ),
    (Action::SetGuessed, "set_field:0x1->reg5"),
];

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goto(t) => write!(f, "goto_table:{t}"),
            Self::Meter(n) => write!(f, "meter:{n}"),
            Self::Output(n) => write!(f, "output:{n}"),
            Self::SetVni(n) => write!(f, "set_field:{n:#x}->{VNI}"),
            Self::SetOrigin(o) => write!(f, "set_field:{o}->{ORIGIN}"),
            Self::SetEthSrc(m) => write!(f, "set_field:{m}->eth_src"),
            Self::SetArpSenderMac(m) => write!(f, "set_field:{m}->arp_sha"),
            Self::SetArpSender(a) => write!(f, "set_field:{a}->arp_spa"),
            Self::SetIpSrc(a) => write!(f, "set_field:{a}->ip_src"),
            Self::SetTtl(n) => write!(f, "set_field:{n}->nw_ttl"),
            Self::SetTunnelKey(n) => write!(f, "set_field:{n:#x}->tun_id"),
            Self::SetTunnelTo(IpAddr::V4(a)) => write!(f, "set_field:{a}->tun_dst"),
            Self::SetTunnelTo(IpAddr::V6(a)) => write!(f, "set_field:{a}->tun_ipv6_dst"),
            Self::Track { zone, next } => write!(f, "ct(table={next},zone={zone})"),
            Self::Remember(zone) => write!(f, "ct(commit,zone={zone})"),
            Self::Part { rule, part, of } => write!(f, "conjunction({rule},{part}/{of})"),
            fixed => f.write_str(
                FIXED
                    .iter()
                    .find(|(a, _)| a == fixed)
                    .map_or("", |(_, text)| text),
            ),
        }
    }
}

/// What identifies a flow in the switch: adding a flow with the same key replaces it.
pub type Key = (Table, u16, Vec<Match>);

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where it is.
    pub table: Table,
    /// Larger wins.
    pub priority: u16,
    /// Whose it is, see [`cookie`].
    pub cookie: u64,
    /// All must hold. Sorted.
    pub matches: Vec<Match>,
    /// What is done, in order.
    pub actions: Vec<Action>,
}

impl Flow {
    /// A flow for `object`.
    pub fn new(
        table: Table,
        priority: u16,
        object: &str,
        matches: &[Match],
        actions: &[Action],
    ) -> Self {
        let mut matches = matches.to_vec();
        matches.sort();
        Self {
            table,
            priority,
            cookie: cookie(table, object),
            matches,
            actions: actions.to_vec(),
        }
    }

    /// What identifies it in the switch.
    pub fn key(&self) -> Key {
        (self.table, self.priority, self.matches.clone())
    }
}

fn joined<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cookie={:#x},table={},priority={}",
            self.cookie, self.table, self.priority
        )?;
        if !self.matches.is_empty() {
            write!(f, ",{}", joined(&self.matches))?;
        }
        write!(f, ",actions={}", joined(&self.actions))
    }
}

/// Where exactly a flow is in the switch, in the words of the wire: enough to delete it, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strict {
    /// Table.
    pub table: u8,
    /// Priority.
    pub priority: u16,
    /// Conditions as the wire has them.
    pub conditions: Vec<u8>,
}

/// A flow that the switch contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its cookie.
    pub cookie: u64,
    /// Where it is.
    pub at: Strict,
    /// The flow, if it is one that this agent could have made.
    pub flow: Option<Flow>,
}

/// A ceiling on what passes. Each packet costs its length with its Ethernet header; what is over the ceiling
/// is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// Kilobits per second.
    pub rate: u32,
    /// Kilobits that may pass at once after a pause.
    pub burst: u32,
}

/// Meters by number.
pub type Meters = BTreeMap<u32, Meter>;
