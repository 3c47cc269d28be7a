//! A guard as flows.
//!
//! A rule with several peers and several services would be as many flows as they make pairs, for each container: it is
//! said as a conjunction instead, a flow for each container, each peer and each service, and one for all of them.

use super::{Direction, Guard, Rule};
use crate::network::flow::{Action, Flow, Key, Match, Protocol, cookie};
use crate::network::plan::{HIGH, LOW, MIDDLE, Network, Place};
use crate::network::tables::Table;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A rule that allows everything decides before those that must be looked at in parts.
const EVERYTHING: u16 = HIGH + 10;
/// ICMP.
const ICMP: u8 = 1;

/// The object that a policy's flows of a network belong to.
pub fn object(vni: u32, policy: &str) -> String {
    format!("{vni}/policy/{policy}")
}

/// The flows of a network's guard.
pub fn flows(vni: u32, network: &Network, flows: &mut Vec<Flow>) {
    let guard = &network.guard;
    // The service's port is the network's own on this host for as long as the network is here: so is its zone.
    let zone = network.service.and_then(|n| u16::try_from(n).ok());
    let mut tracked = false;
    for (address, member) in &network.members {
        let Place::Here(port) = member.place else {
            continue;
        };
        let selected = guard.selected.values().any(|s| s.contains(address));
        let closed = guard.closed.contains(address) || selected && zone.is_none();
        let (priority, action) = match (closed, zone) {
            (true, _) => (HIGH, Action::Drop),
            (false, Some(zone)) if selected => {
                tracked = true;
                let next = Table::Connection;
                (MIDDLE, Action::Track { zone, next })
            }
            _ => continue,
        };
        let object = format!("{vni}/{address}");
        let ip = Match::Is(Protocol::Ip);
        for ends in [
            vec![ip, Match::InPort(port)],
            vec![ip, Match::Vni(vni), Match::IpDst(*address)],
        ] {
            flows.push(Flow::new(
                Table::Policy,
                priority,
                &object,
                &ends,
                &[action],
            ));
        }
    }
    if let (true, Some(zone)) = (tracked, zone) {
        remember(vni, zone, network.cidr, flows);
        let here = |a: &Ipv4Addr| {
            let member = network.members.get(a);
            member.is_some_and(|m| matches!(m.place, Place::Here(_)))
        };
        flows.extend(rules(vni, guard, here));
    }
}

/// What a network's connections are, and that allowed ones are put on record.
fn remember(vni: u32, zone: u16, cidr: Ipv4Net, flows: &mut Vec<Flow>) {
    let object = format!("{vni}");
    let (of, ip) = (Match::Vni(vni), Match::Is(Protocol::Ip));
    let opened = [
        Action::OpenerFromSource,
        Action::TargetFromDestination,
        Action::ServiceProtocol,
    ];
    let (on, next) = (Table::Connection, Action::Goto(Table::Opener));
    let port = [&opened[..], &[Action::ServiceFromDstPort, next]].concat();
    flows.push(Flow::new(
        on,
        LOW,
        &object,
        &[of, ip, Match::Sensible],
        &port,
    ));
    let icmp = [Action::ServiceIcmpType, Action::ServiceIcmpCode, next];
    let icmp = [&opened[..], &icmp].concat();
    let is_icmp = [of, ip, Match::Sensible, Match::ConnectionProtocol(ICMP)];
    flows.push(Flow::new(on, MIDDLE, &object, &is_icmp, &icmp));
    // Seen first in its middle, and by a packet of its target. Nobody outside the network can have opened it.
    let middle = [
        of,
        Match::IpDstIn(cidr),
        Match::Is(Protocol::Tcp),
        Match::New,
        Match::NoSyn,
        Match::FromServicePort,
        Match::ToOpenersPort,
    ];
    let reversed = [
        Action::OpenerFromDestination,
        Action::TargetFromSource,
        Action::ServiceProtocol,
        Action::ServiceFromSrcPort,
        Action::SetGuessed,
        next,
    ];
    flows.push(Flow::new(on, HIGH, &object, &middle, &reversed));
    let new = [of, ip, Match::New, Match::Guessed(false)];
    let record = [Action::Remember(zone), Action::Goto(Table::Arp)];
    flows.push(Flow::new(Table::Remember, HIGH, &object, &new, &record));
}

/// Where a direction is looked at, and what comes next.
fn tables(direction: Direction) -> (Table, Table) {
    match direction {
        Direction::Egress => (Table::Opener, Table::Target),
        Direction::Ingress => (Table::Target, Table::Remember),
    }
}

/// A condition on one end of a connection.
type OfEnd = fn(Ipv4Net) -> Match;

/// The end that a rule protects, and the other, as conditions.
fn ends(direction: Direction) -> (OfEnd, OfEnd) {
    match direction {
        Direction::Egress => (Match::Opener, Match::Target),
        Direction::Ingress => (Match::Target, Match::Opener),
    }
}

/// Selected containers are closed, but for what the rules allow.
fn rules(vni: u32, guard: &Guard, here: impl Fn(&Ipv4Addr) -> bool) -> Vec<Flow> {
    let mut flows = Vec::new();
    for (direction, selected) in &guard.selected {
        let (subject, _) = ends(*direction);
        for address in selected.iter().filter(|a| here(a)) {
            let conditions = [Match::Vni(vni), subject(Ipv4Net::from(*address))];
            let (on, _) = tables(*direction);
            let object = format!("{vni}/{address}");
            flows.push(Flow::new(on, LOW, &object, &conditions, &[Action::Drop]));
        }
    }
    let mut allowed = Allowed::default();
    for rule in &guard.rules {
        let subjects: Vec<Ipv4Addr> = rule.subjects.iter().copied().filter(|a| here(a)).collect();
        if !subjects.is_empty() {
            allowed.add(vni, rule, &subjects);
        }
    }
    flows.extend(allowed.flows.into_values());
    flows
}

/// Flows that allow. Those of several rules with the same conditions are one.
#[derive(Default)]
struct Allowed {
    flows: BTreeMap<Key, Flow>,
    numbers: BTreeSet<u32>,
}

impl Allowed {
    fn add(&mut self, vni: u32, rule: &Rule, subjects: &[Ipv4Addr]) {
        let (on, next) = tables(rule.direction);
        let (subject, peer) = ends(rule.direction);
        let object = object(vni, &rule.policy);
        let subjects: Vec<Match> = subjects.iter().map(|a| subject((*a).into())).collect();
        let peers = rule
            .peers
            .iter()
            .map(|p| p.iter().map(|n| peer(*n)).collect());
        let services = rule.services.iter();
        let services = services.map(|s| s.iter().map(|b| Match::Service(*b)).collect());
        let parts: Vec<Vec<Match>> = [subjects]
            .into_iter()
            .chain(peers)
            .chain(services)
            .collect();
        let of = |condition: Match| [Match::Vni(vni), condition];
        let go = [Action::Goto(next)];
        if let [subjects] = &*parts {
            for subject in subjects {
                let flow = Flow::new(on, EVERYTHING, &object, &of(*subject), &go);
                self.flows.entry(flow.key()).or_insert(flow);
            }
            return;
        }
        let number = self.number(&format!("{object}/{:?}/{}", rule.direction, rule.number));
        let whole = Flow::new(on, HIGH, &object, &of(Match::Rule(number)), &go);
        self.flows.insert(whole.key(), whole);
        let count = u8::try_from(parts.len()).unwrap_or(u8::MAX);
        for (part, conditions) in (1..).zip(&parts) {
            let action = Action::Part {
                rule: number,
                part,
                of: count,
            };
            for condition in conditions {
                let shared = format!("{vni}/policies");
                let flow = Flow::new(on, HIGH, &shared, &of(*condition), &[]);
                let flow = self.flows.entry(flow.key()).or_insert(flow);
                flow.actions.push(action);
            }
        }
    }

    /// A number of this rule alone. The same rule gets the same number whatever else there is, so that a change of one
    /// policy leaves the flows of others as they are.
    fn number(&mut self, rule: &str) -> u32 {
        let mut number = (cookie(Table::Policy, rule) & 0xffff_ffff) as u32;
        while number == 0 || !self.numbers.insert(number) {
            number = number.wrapping_add(1);
        }
        number
    }
}
