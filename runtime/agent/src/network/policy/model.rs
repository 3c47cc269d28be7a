//! A small model of a switch: enough to run packets through flows. Conntrack is modelled as it behaves for what the
//! pipeline asks of it: who opened a connection, and whether it is on record.

use crate::network::flow::{Action, Flow, Mac, Match, Protocol};
use crate::network::tables::Table;
use skysail_schemas::security_policy::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packet {
    pub in_port: u32,
    pub source: (Mac, Ipv4Addr, u16),
    pub target: (Mac, Ipv4Addr, u16),
    pub what: What,
    /// It asks for a connection.
    pub syn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Tcp,
    Udp,
    /// Type and code.
    Icmp(u8, u8),
    Other(u8),
}

impl What {
    fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp(..) => 1,
            Self::Other(n) => n,
        }
    }
}

impl Packet {
    /// The first packet of a connection to `service`.
    pub fn opening(
        in_port: u32,
        source: (Mac, Ipv4Addr),
        target: (Mac, Ipv4Addr),
        service: Service,
    ) -> Self {
        let (what, port) = match service {
            Service::Tcp(port) => (What::Tcp, port),
            Service::Udp(port) => (What::Udp, port),
            Service::Icmp(kind, code) => (What::Icmp(kind, code), 0),
            Service::Other(n) => (What::Other(n), 0),
        };
        Self {
            in_port,
            source: (source.0, source.1, 40000),
            target: (target.0, target.1, port),
            what,
            syn: true,
        }
    }

    /// The answer to it, coming in at another port.
    pub fn answer(self, in_port: u32) -> Self {
        let what = match self.what {
            What::Icmp(8, code) => What::Icmp(0, code),
            other => other,
        };
        Self {
            in_port,
            source: self.target,
            target: self.source,
            what,
            syn: false,
        }
    }

    fn tuple(self) -> Tuple {
        Tuple {
            source: (self.source.1, self.source.2),
            target: (self.target.1, self.target.2),
            what: self.what,
        }
    }
}

/// What a connection is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tuple {
    source: (Ipv4Addr, u16),
    target: (Ipv4Addr, u16),
    what: What,
}

impl Tuple {
    fn reversed(self) -> Self {
        let what = match self.what {
            What::Icmp(0, code) => What::Icmp(8, code),
            What::Icmp(8, code) => What::Icmp(0, code),
            other => other,
        };
        Self {
            source: self.target,
            target: self.source,
            what,
        }
    }
}

/// What a packet carries through the tables.
#[derive(Default, Clone, Copy)]
struct State {
    vni: u32,
    origin: u32,
    opener: u32,
    target: u32,
    service: u32,
    guessed: bool,
    /// Its connection as it was opened, and whether it is new.
    connection: Option<(Tuple, bool)>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Output(u32),
    Dropped(Table),
}

/// A switch with its connections, by zone.
#[derive(Default)]
pub struct Switch {
    pub flows: Vec<Flow>,
    connections: BTreeMap<u16, BTreeSet<Tuple>>,
}

impl Switch {
    pub fn new(flows: Vec<Flow>) -> Self {
        Self {
            flows,
            connections: BTreeMap::new(),
        }
    }

    /// Runs a packet.
    pub fn run(&mut self, packet: Packet) -> Fate {
        let (mut table, mut state) = (Table::Classify, State::default());
        'tables: loop {
            let Some(flow) = self.lookup(table, &packet, &state) else {
                return Fate::Dropped(table);
            };
            for action in flow.actions.clone() {
                match action {
                    Action::Goto(next) => {
                        table = next;
                        continue 'tables;
                    }
                    Action::Track { zone, next } => {
                        state.connection = Some(self.connection(zone, packet.tuple()));
                        table = next;
                        continue 'tables;
                    }
                    Action::Output(port) => return Fate::Output(port),
                    Action::Back => return Fate::Output(packet.in_port),
                    Action::Drop => return Fate::Dropped(table),
                    Action::Remember(zone) => {
                        let (tuple, _) = state.connection.expect("a connection");
                        self.connections.entry(zone).or_default().insert(tuple);
                    }
                    other => set(&mut state, other),
                }
            }
            return Fate::Dropped(table);
        }
    }

    /// Forgets every connection: another host, or a new switch.
    pub fn forget(&mut self) {
        self.connections.clear();
    }

    fn connection(&self, zone: u16, tuple: Tuple) -> (Tuple, bool) {
        let known = self.connections.get(&zone);
        let has = |t: &Tuple| known.is_some_and(|k| k.contains(t));
        match tuple.reversed() {
            reversed if has(&reversed) => (reversed, false),
            _ => (tuple, !has(&tuple)),
        }
    }

    /// The flow that decides: the highest that matches, where all parts of a rule count as one.
    fn lookup(&self, table: Table, packet: &Packet, state: &State) -> Option<&Flow> {
        let matching = |rule: Option<u32>| {
            let mut found: Vec<&Flow> = self
                .flows
                .iter()
                .filter(|f| f.table == table && holds(f, packet, state, rule))
                .collect();
            found.sort_by_key(|f| std::cmp::Reverse(f.priority));
            found
        };
        let found = matching(None);
        let mut at = 0;
        while let Some(first) = found.get(at) {
            let level: Vec<&&Flow> = found[at..]
                .iter()
                .take_while(|f| f.priority == first.priority)
                .collect();
            let plain = level.iter().find(|f| parts(f).is_empty());
            if let Some(plain) = plain {
                return Some(plain);
            }
            let all: BTreeSet<(u32, u8, u8)> = level.iter().flat_map(|f| parts(f)).collect();
            let whole = |rule: u32, of: u8| (1..=of).all(|p| all.contains(&(rule, p, of)));
            if let Some((rule, ..)) = all.iter().find(|(r, _, of)| whole(*r, *of)) {
                return matching(Some(*rule))
                    .into_iter()
                    .find(|f| parts(f).is_empty());
            }
            at += level.len();
        }
        None
    }
}

fn parts(flow: &Flow) -> Vec<(u32, u8, u8)> {
    let part = |a: &Action| match a {
        Action::Part { rule, part, of } => Some((*rule, *part, *of)),
        _ => None,
    };
    flow.actions.iter().filter_map(part).collect()
}

fn set(state: &mut State, action: Action) {
    let tuple = state.connection.map(|(t, _)| t);
    let of = |f: fn(Tuple) -> u32| tuple.map(f).unwrap_or_default();
    let icmp = |t: Tuple| match t.what {
        What::Icmp(kind, code) => (u32::from(kind), u32::from(code)),
        _ => (0, 0),
    };
    match action {
        Action::SetVni(n) => state.vni = n,
        Action::SetOrigin(o) => state.origin = o as u32,
        Action::OpenerFromSource => state.opener = of(|t| t.source.0.into()),
        Action::OpenerFromDestination => state.opener = of(|t| t.target.0.into()),
        Action::TargetFromSource => state.target = of(|t| t.source.0.into()),
        Action::TargetFromDestination => state.target = of(|t| t.target.0.into()),
        Action::ServiceProtocol => state.service |= of(|t| u32::from(t.what.protocol()) << 16),
        Action::ServiceFromDstPort => state.service |= of(|t| t.target.1.into()),
        Action::ServiceFromSrcPort => state.service |= of(|t| t.source.1.into()),
        Action::ServiceIcmpType => state.service |= tuple.map_or(0, |t| icmp(t).0 << 8),
        Action::ServiceIcmpCode => state.service |= tuple.map_or(0, |t| icmp(t).1),
        Action::SetGuessed => state.guessed = true,
        Action::Meter(_) => {}
        other => panic!("the model does not know {other}"),
    }
}

fn holds(flow: &Flow, packet: &Packet, state: &State, rule: Option<u32>) -> bool {
    flow.matches
        .iter()
        .all(|m| condition(m, packet, state, rule))
}

fn condition(m: &Match, packet: &Packet, state: &State, rule: Option<u32>) -> bool {
    let tcp = packet.what == What::Tcp;
    match m {
        Match::Is(Protocol::Arp) => false,
        Match::Is(Protocol::Ip) => true,
        Match::Is(Protocol::Icmp) => matches!(packet.what, What::Icmp(..)),
        Match::Is(Protocol::Tcp) => tcp,
        Match::Is(Protocol::Udp) => packet.what == What::Udp,
        Match::InPort(n) => packet.in_port == *n,
        Match::Vni(n) => state.vni == *n,
        Match::From(o) => state.origin == *o as u32,
        Match::EthSrc(m) => packet.source.0 == *m,
        Match::EthDst(m) => packet.target.0 == *m,
        Match::IpSrc(a) => packet.source.1 == *a,
        Match::IpDst(a) => packet.target.1 == *a,
        Match::IpDstIn(n) => n.contains(&packet.target.1),
        Match::IcmpType(n) => matches!(packet.what, What::Icmp(k, _) if k == *n),
        Match::IcmpCode(n) => matches!(packet.what, What::Icmp(_, c) if c == *n),
        Match::DstPort(n) => packet.target.2 == *n,
        Match::Sensible => state.connection.is_some(),
        Match::New => state.connection.is_some_and(|(_, new)| new),
        Match::ConnectionProtocol(n) => state
            .connection
            .is_some_and(|(t, _)| t.what.protocol() == *n),
        Match::NoSyn => tcp && !packet.syn,
        Match::FromServicePort => tcp && packet.source.2 < 0x8000,
        Match::ToOpenersPort => tcp && packet.target.2 >= 0x8000,
        Match::Opener(n) => n.contains(&Ipv4Addr::from(state.opener)),
        Match::Target(n) => n.contains(&Ipv4Addr::from(state.target)),
        Match::Service(b) => state.service & b.mask == b.value,
        Match::Guessed(yes) => state.guessed == *yes,
        Match::Rule(n) => rule == Some(*n),
        Match::TunnelKey(_)
        | Match::ArpRequest
        | Match::ArpSenderMac(_)
        | Match::ArpSender(_)
        | Match::ArpTarget(_) => false,
    }
}
