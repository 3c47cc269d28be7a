//! One flow: typed here, text for the switch, and back from what the switch dumps.

use super::registers::{ORIGIN, Origin, VNI};
use super::tables::Table;
use ipnet::Ipv4Net;
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
        }
    }
}

/// A decimal or `0x` number.
fn number(text: &str) -> Result<u32, Unknown> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| unknown(text))
}

fn parsed<T: FromStr>(text: &str) -> Result<T, Unknown> {
    text.parse().map_err(|_| unknown(text))
}

impl FromStr for Match {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let Some((field, value)) = text.split_once('=') else {
            return Protocol::ALL
                .iter()
                .find(|(_, n)| *n == text)
                .map(|(p, _)| Self::Is(*p))
                .ok_or_else(|| unknown(text));
        };
        Ok(match field {
            "in_port" => Self::InPort(number(value)?),
            "tun_id" => Self::TunnelKey(number(value)?),
            VNI => Self::Vni(number(value)?),
            ORIGIN => Self::From(Origin::from_number(number(value)?).ok_or_else(|| unknown(text))?),
            "dl_src" => Self::EthSrc(value.parse()?),
            "dl_dst" => Self::EthDst(value.parse()?),
            "nw_src" => Self::IpSrc(parsed(value)?),
            "nw_dst" if value.contains('/') => Self::IpDstIn(parsed(value)?),
            "nw_dst" => Self::IpDst(parsed(value)?),
            "arp_op" if value == "1" => Self::ArpRequest,
            "arp_sha" => Self::ArpSenderMac(value.parse()?),
            "arp_spa" => Self::ArpSender(parsed(value)?),
            "arp_tpa" => Self::ArpTarget(parsed(value)?),
            "icmp_type" => Self::IcmpType(parsed(value)?),
            "icmp_code" => Self::IcmpCode(parsed(value)?),
            "tp_dst" => Self::DstPort(parsed(value)?),
            _ => return Err(unknown(text)),
        })
    }
}

/// One action of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Drop,
    Goto(Table),
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
}

/// Actions without a value, as the switch prints them.
const FIXED: [(Action, &str); 8] = [
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
];

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goto(t) => write!(f, "goto_table:{t}"),
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
            fixed => f.write_str(
                FIXED
                    .iter()
                    .find(|(a, _)| a == fixed)
                    .map_or("", |(_, text)| text),
            ),
        }
    }
}

impl FromStr for Action {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        if let Some((action, _)) = FIXED.iter().find(|(_, t)| *t == text) {
            return Ok(*action);
        }
        let (verb, rest) = text.split_once(':').ok_or_else(|| unknown(text))?;
        match (verb, rest.split_once("->")) {
            ("goto_table", None) => parsed(rest)
                .ok()
                .and_then(Table::from_number)
                .map(Self::Goto),
            ("output", None) => Some(Self::Output(number(rest)?)),
            ("set_field", Some((value, field))) => match field {
                VNI => Some(Self::SetVni(number(value)?)),
                ORIGIN => Origin::from_number(number(value)?).map(Self::SetOrigin),
                "eth_src" => Some(Self::SetEthSrc(value.parse()?)),
                "arp_sha" => Some(Self::SetArpSenderMac(value.parse()?)),
                "arp_spa" => Some(Self::SetArpSender(parsed(value)?)),
                "ip_src" => Some(Self::SetIpSrc(parsed(value)?)),
                "nw_ttl" => Some(Self::SetTtl(parsed(value)?)),
                "tun_id" => Some(Self::SetTunnelKey(number(value)?)),
                "tun_dst" | "tun_ipv6_dst" => Some(Self::SetTunnelTo(parsed(value)?)),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| unknown(text))
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

/// A line of the switch's dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its cookie.
    pub cookie: u64,
    /// Table, priority and conditions as the switch prints them: enough to delete exactly this flow.
    pub strict: String,
    /// The flow, if it is one that this agent could have made.
    pub flow: Option<Flow>,
}

impl FromStr for Seen {
    type Err = Unknown;

    /// Reads a line of `ovs-ofctl --no-stats --no-names dump-flows`.
    fn from_str(line: &str) -> Result<Self, Unknown> {
        let (head, actions) = line
            .trim()
            .split_once("actions=")
            .ok_or_else(|| unknown(line))?;
        let (mut cookie, mut table, mut priority, mut conditions) =
            (0, 0_u8, 0x8000_u16, Vec::new());
        for token in head
            .split([',', ' '])
            .filter(|t| !t.is_empty() && *t != "reset_counts")
        {
            match token.split_once('=') {
                Some(("cookie", v)) => {
                    cookie = u64::from_str_radix(v.trim_start_matches("0x"), 16)
                        .map_err(|_| unknown(line))?
                }
                Some(("table", v)) => table = parsed(v)?,
                Some(("priority", v)) => priority = parsed(v)?,
                _ => conditions.push(token),
            }
        }
        let strict = [
            vec![format!("table={table}"), format!("priority={priority}")],
            conditions.iter().map(|c| c.to_string()).collect(),
        ]
        .concat()
        .join(",");
        let matches = conditions
            .iter()
            .map(|c| c.parse())
            .collect::<Result<Vec<Match>, _>>();
        let actions = actions
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<Action>, _>>();
        let flow = match (Table::from_number(table), matches, actions) {
            (Some(table), Ok(mut matches), Ok(actions)) => {
                matches.sort();
                Some(Flow {
                    table,
                    priority,
                    cookie,
                    matches,
                    actions,
                })
            }
            _ => None,
        };
        Ok(Self {
            cookie,
            strict,
            flow,
        })
    }
}
