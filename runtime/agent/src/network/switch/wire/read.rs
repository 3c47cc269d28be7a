//! What the switch answers, back into flows and meters.

use super::{
    CONJUNCTION, CONNTRACK, CT_INVALID, CT_NEW, CT_TRACKED, Field, IN_PORT, MOVE, MOVES, NICIRA,
    NO_TABLE, OPENERS_PORT, PROTOCOLS, TCP_SYN,
};
use crate::network::flow::{Action, Bits, Flow, Mac, Match, Meter, Seen, Strict};
use crate::network::registers::Origin;
use crate::network::tables::Table;
use ipnet::Ipv4Net;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A field with its value, and its mask if it has one.
type Value<'a> = (Field, &'a [u8], Option<&'a [u8]>);

/// Reads front to back; every step fails at the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[n]| n)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    /// Splits off an item that begins with `skip` bytes and its own length.
    fn item(&mut self, skip: usize) -> Option<Reader<'a>> {
        let length = u16::from_be_bytes(self.0.get(skip..skip + 2)?.try_into().ok()?);
        self.take(usize::from(length).max(4)).map(Reader)
    }
    /// A field with its value, and its mask if it has one.
    fn field(&mut self) -> Option<Value<'a>> {
        let (class, number, length) = (self.u16()?, self.u8()?, self.u8()?);
        let masked = number & 1 == 1;
        // Fields of an experimenter's class begin with its number.
        let length = if class == 0xffff {
            self.take(4)?;
            length.checked_sub(4)?
        } else {
            length
        };
        let width = if masked { length / 2 } else { length };
        let value = self.take(usize::from(width))?;
        let mask = if masked {
            Some(self.take(usize::from(width))?)
        } else {
            None
        };
        Some((Field(class, number >> 1, width), value, mask))
    }
}

/// Reads the flows of one part of an answer to [`every_flow`]. None if it is broken.
pub fn seen(part: &[u8]) -> Option<Vec<Seen>> {
    let (mut rest, mut all) = (Reader(part), Vec::new());
    while !rest.0.is_empty() {
        all.push(one(rest.item(0)?)?);
    }
    Some(all)
}

fn one(mut flow: Reader<'_>) -> Option<Seen> {
    flow.take(2)?;
    let table = flow.u8()?;
    flow.take(9)?;
    let priority = flow.u16()?;
    flow.take(10)?;
    let cookie = flow.u64()?;
    flow.take(16)?;
    let mut conditions = flow.item(2)?;
    let used = conditions.0.len();
    conditions.take(4)?;
    let conditions = conditions.0;
    flow.take(used.next_multiple_of(8) - used)?;
    let known = || {
        let mut matches = matches(Reader(conditions))?;
        matches.sort();
        Some(Flow {
            table: Table::from_number(table)?,
            priority,
            cookie,
            matches,
            actions: actions(flow)?,
        })
    };
    Some(Seen {
        cookie,
        flow: known(),
        at: Strict {
            table,
            priority,
            conditions: conditions.to_vec(),
        },
    })
}

/// The conditions, if all of them are ours.
fn matches(mut rest: Reader<'_>) -> Option<Vec<Match>> {
    let (mut all, mut ethernet, mut ip) = (Vec::new(), None, None);
    while !rest.0.is_empty() {
        let (field, value, mask) = rest.field()?;
        let mut read = Reader(value);
        if let Some(mask) = mask {
            all.push(masked(field, value, mask)?);
            continue;
        }
        all.push(match field {
            Field::ETH_TYPE => {
                ethernet = read.u16();
                continue;
            }
            Field::IP_PROTOCOL => {
                ip = read.u8();
                continue;
            }
            Field::IN_PORT => Match::InPort(read.u32()?),
            Field::TUNNEL_KEY => Match::TunnelKey(read.u64()?.try_into().ok()?),
            Field::VNI => Match::Vni(read.u32()?),
            Field::ORIGIN => Match::From(Origin::from_number(read.u32()?)?),
            Field::ETH_SRC => Match::EthSrc(Mac(read.array()?)),
            Field::ETH_DST => Match::EthDst(Mac(read.array()?)),
            Field::IP_SRC => Match::IpSrc(read.array()?.into()),
            Field::IP_DST => Match::IpDst(read.array()?.into()),
            Field::ARP_OP if value == [0, 1] => Match::ArpRequest,
            Field::ARP_SENDER_MAC => Match::ArpSenderMac(Mac(read.array()?)),
            Field::ARP_SENDER => Match::ArpSender(read.array()?.into()),
            Field::ARP_TARGET => Match::ArpTarget(read.array()?.into()),
            Field::ICMP_TYPE => Match::IcmpType(read.u8()?),
            Field::ICMP_CODE => Match::IcmpCode(read.u8()?),
            Field::TCP_DST | Field::UDP_DST => Match::DstPort(read.u16()?),
            Field::CT_PROTOCOL => Match::ConnectionProtocol(read.u8()?),
            Field::OPENER => Match::Opener(Ipv4Addr::from(read.array()?).into()),
            Field::TARGET => Match::Target(Ipv4Addr::from(read.array()?).into()),
            Field::SERVICE => Match::Service(Bits {
                value: read.u32()?,
                mask: u32::MAX,
            }),
            Field::GUESSED => Match::Guessed(read.u32()? == 1),
            Field::RULE => Match::Rule(read.u32()?),
            _ => return None,
        });
    }
    if let Some(ethernet) = ethernet {
        let known = PROTOCOLS
            .iter()
            .find(|(_, e, p)| *e == ethernet && *p == ip)?;
        all.push(Match::Is(known.0));
    }
    Some(all)
}

/// A field of which only some bits count, if it is one of ours.
fn masked(field: Field, value: &[u8], mask: &[u8]) -> Option<Match> {
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u32, |all, byte| all << 8 | u32::from(*byte))
    };
    let (value, mask) = (number(value), number(mask));
    let net = || Ipv4Net::with_netmask(value.into(), mask.into()).ok();
    let openers = u32::from(OPENERS_PORT);
    match (field, value, mask) {
        (Field::IP_DST, ..) => net().map(Match::IpDstIn),
        (Field::OPENER, ..) => net().map(Match::Opener),
        (Field::TARGET, ..) => net().map(Match::Target),
        (Field::SERVICE, ..) => Some(Match::Service(Bits { value, mask })),
        (Field::CT_STATE, CT_TRACKED, m) if m == CT_TRACKED | CT_INVALID => Some(Match::Sensible),
        (Field::CT_STATE, v, m) if (v, m) == (CT_TRACKED | CT_NEW, CT_TRACKED | CT_NEW) => {
            Some(Match::New)
        }
        (Field::TCP_FLAGS | Field::TCP_FLAGS_ONF, 0, m) if m == u32::from(TCP_SYN) => {
            Some(Match::NoSyn)
        }
        (Field::TCP_SRC, 0, m) if m == openers => Some(Match::FromServicePort),
        (Field::TCP_DST, v, m) if (v, m) == (openers, openers) => Some(Match::ToOpenersPort),
        _ => None,
    }
}

/// The actions, if all of them are ours.
fn actions(mut rest: Reader<'_>) -> Option<Vec<Action>> {
    let (mut first, mut all, mut last) = (Vec::new(), Vec::new(), Vec::new());
    while !rest.0.is_empty() {
        let mut instruction = rest.item(2)?;
        let kind = instruction.u16()?;
        instruction.take(2)?;
        match kind {
            1 => last.push(Action::Goto(Table::from_number(instruction.u8()?)?)),
            4 => {
                instruction.take(4)?;
                while !instruction.0.is_empty() {
                    all.push(applied(instruction.item(2)?)?);
                }
            }
            6 => first.push(Action::Meter(instruction.u32()?)),
            _ => return None,
        }
    }
    let all = [first, all, last].concat();
    Some(if all.is_empty() {
        vec![Action::Drop]
    } else {
        all
    })
}

fn applied(mut action: Reader<'_>) -> Option<Action> {
    let kind = action.u16()?;
    action.take(2)?;
    match kind {
        0 => match action.u32()? {
            IN_PORT => Some(Action::Back),
            port => Some(Action::Output(port)),
        },
        25 => {
            let (field, value, _) = action.field()?;
            let mut read = Reader(value);
            Some(match field {
                Field::VNI => Action::SetVni(read.u32()?),
                Field::ORIGIN => Action::SetOrigin(Origin::from_number(read.u32()?)?),
                Field::ETH_SRC => Action::SetEthSrc(Mac(read.array()?)),
                Field::ARP_OP if value == [0, 2] => Action::SetArpReply,
                Field::ARP_SENDER_MAC => Action::SetArpSenderMac(Mac(read.array()?)),
                Field::ARP_SENDER => Action::SetArpSender(read.array()?.into()),
                Field::IP_SRC => Action::SetIpSrc(read.array()?.into()),
                Field::ICMP_TYPE if value == [0] => Action::SetEchoReply,
                Field::TTL => Action::SetTtl(read.u8()?),
                Field::GUESSED if value == [0, 0, 0, 1] => Action::SetGuessed,
                Field::TUNNEL_KEY => Action::SetTunnelKey(read.u64()?.try_into().ok()?),
                Field::TUNNEL_TO => Action::SetTunnelTo(Ipv4Addr::from(read.array()?).into()),
                Field::TUNNEL_TO_V6 => {
                    Action::SetTunnelTo(Ipv6Addr::from(read.array::<16>()?).into())
                }
                _ => return None,
            })
        }
        0xffff => (action.u32()? == NICIRA).then(|| nicira(action)).flatten(),
        _ => None,
    }
}

/// An action of Nicira, after its head.
fn nicira(mut action: Reader<'_>) -> Option<Action> {
    match action.u16()? {
        MOVE => {
            let (bits, from, to) = (action.u16()?, action.u16()?, action.u16()?);
            let (source, target) = (action.take(4)?, action.take(4)?);
            let known = MOVES.iter().find(|(_, f, t)| {
                (f.1, f.2, t.1) == (from, bits, to)
                    && f.0.header() == source
                    && t.0.header() == target
            });
            known.map(|(a, ..)| *a)
        }
        CONJUNCTION => {
            let (part, of) = (action.u8()?.checked_add(1)?, action.u8()?);
            let rule = action.u32()?;
            Some(Action::Part { rule, part, of })
        }
        CONNTRACK => {
            let (flags, field, zone) = (action.u16()?, action.u32()?, action.u16()?);
            let next = action.u8()?;
            let plain = field == 0 && action.take(5)? == [0; 5] && action.0.is_empty();
            match (flags, next) {
                _ if !plain => None,
                (0, next) => Some(Action::Track {
                    zone,
                    next: Table::from_number(next)?,
                }),
                (1, NO_TABLE) => Some(Action::Remember(zone)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Reads the meters of one part of an answer to [`every_meter`]; one that is not as ours are has rate 0.
pub fn meters(part: &[u8]) -> Option<Vec<(u32, Meter)>> {
    let (mut rest, mut all) = (Reader(part), Vec::new());
    while !rest.0.is_empty() {
        let mut meter = rest.item(0)?;
        meter.take(2)?;
        let (flags, id) = (meter.u16()?, meter.u32()?);
        let ours = flags & 3 == 1 && meter.0.len() == 16;
        let (mut rate, mut burst) = (0, 0);
        if ours {
            meter.take(4)?;
            (rate, burst) = (meter.u32()?, meter.u32()?);
        }
        all.push((id, Meter { rate, burst }));
    }
    Some(all)
}
