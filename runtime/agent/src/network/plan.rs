//! What the switch must contain, as pure functions of what is known.

use super::flow::{Action, Flow, Key, Mac, Match, Meter, Meters, Protocol, Seen, Strict, is_ours};
use super::policy::{self, Guard};
use super::registers::Origin;
use super::switch::wire;
use super::tables::{Miss, PIPELINE, Table};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Everything that decides the flows of this host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The networks that this host carries, by VNI.
    pub networks: BTreeMap<u32, Network>,
}

/// One network as this host sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// Its gateway, which every host plays.
    pub gateway: Ipv4Addr,
    /// The gateway's hardware address, the same on every host.
    pub gateway_mac: Mac,
    /// Whether containers may leave the network.
    pub egress: bool,
    /// Switch port of the service namespace, once it is there.
    pub service: Option<u32>,
    /// The way to other hosts, once it is there.
    pub tunnel: Option<Tunnel>,
    /// Every port of the network, on whatever host, by address.
    pub members: BTreeMap<Ipv4Addr, Member>,
    /// What the tenant's policies ask of it here.
    pub guard: Guard,
}

/// How packets of a network leave for other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// One port for all networks; the flow says key and destination (kernel datapath).
    Shared(u32),
    /// A kernel device for this network alone, which finds the host by the hardware address (userspace datapath).
    Device(u32),
}

/// A port of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its hardware address.
    pub mac: Mac,
    /// Where it is.
    pub place: Place,
    /// What limits it, where it is on this host and has a limit.
    pub limit: Option<Limit>,
}

/// A container's ceiling in each direction, shared by all its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bits per second.
    pub rate: u64,
    /// A number of the container that no other container on this host has: one of its switch ports.
    pub number: u32,
}

impl Limit {
    /// The meter of what the container sends.
    fn sent(self) -> u32 {
        self.number * 2
    }

    /// The meter of what the container receives.
    fn received(self) -> u32 {
        self.number * 2 + 1
    }

    /// The highest meter that it needs.
    pub fn highest(self) -> u32 {
        self.received()
    }

    fn meter(self) -> Meter {
        let kilobits = |bits: u64| u32::try_from(bits.div_ceil(1000)).unwrap_or(u32::MAX);
        let burst = (self.rate / 1000 * BURST_MS).max(LEAST_BURST);
        Meter {
            rate: kilobits(self.rate),
            burst: kilobits(burst),
        }
    }
}

/// How long a container that was quiet may send at full speed. A meter speaks to TCP by losses alone: with a
/// burst of 50 ms TCP only came to a third of the limit, with 200 ms to nine tenths, and the average over some
/// seconds still stays at the limit.
const BURST_MS: u64 = 300;
/// A burst of fewer bits than a device hands over at once (64 KiB where the kernel joins segments) would stop it.
const LEAST_BURST: u64 = 600_000;

/// Where a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this host, at this switch port.
    Here(u32),
    /// On the host with this tunnel address.
    There(IpAddr),
    /// Nowhere that is known.
    Nowhere,
}

pub(super) const HIGH: u16 = 200;
pub(super) const MIDDLE: u16 = 150;
pub(super) const LOW: u16 = 100;
const MISS: u16 = 0;

/// Everything that the switch must contain.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Program {
    /// Flows.
    pub flows: Vec<Flow>,
    /// Meters that the flows use.
    pub meters: Meters,
}

/// What the switch must contain.
pub fn program(view: &View) -> Program {
    let members = view.networks.values().flat_map(|n| n.members.values());
    let limits = members.filter_map(|m| match m.place {
        Place::Here(_) => m.limit,
        Place::There(_) | Place::Nowhere => None,
    });
    let meters = limits.flat_map(|l| [(l.sent(), l.meter()), (l.received(), l.meter())]);
    Program {
        flows: flows(view),
        meters: meters.collect(),
    }
}

/// Every flow that the switch must contain.
pub fn flows(view: &View) -> Vec<Flow> {
    let mut flows: Vec<Flow> = PIPELINE
        .iter()
        .map(|(table, miss)| missed(*table, *miss))
        .collect();
    // ARP that nobody answers ends here: no broadcast leaves the host.
    flows.push(Flow::new(
        Table::Arp,
        LOW,
        "pipeline",
        &[Match::Is(Protocol::Arp)],
        &[Action::Drop],
    ));
    for (vni, network) in &view.networks {
        from_tunnel(*vni, network, &mut flows);
        gateway(*vni, network, &mut flows);
        policy::flows(*vni, network, &mut flows);
        for (address, member) in &network.members {
            flows.push(arp_answer(*vni, *address, member.mac));
            match member.place {
                Place::Here(port) => here(*vni, *address, *member, port, &mut flows),
                Place::There(host) => {
                    flows.extend(there(*vni, *address, member.mac, host, network.tunnel))
                }
                Place::Nowhere => {}
            }
        }
    }
    flows
}

fn missed(table: Table, miss: Miss) -> Flow {
    let action = match miss {
        Miss::Drop => Action::Drop,
        Miss::Goto(next) => Action::Goto(next),
    };
    Flow::new(table, MISS, "pipeline", &[], &[action])
}

/// The object that flows of a port belong to.
fn object(vni: u32, address: Ipv4Addr) -> String {
    format!("{vni}/{address}")
}

/// Packets of other hosts: of a network that this host carries, or dropped. Only IP comes this way.
fn from_tunnel(vni: u32, network: &Network, flows: &mut Vec<Flow>) {
    let conditions = match network.tunnel {
        Some(Tunnel::Shared(port)) => vec![
            Match::InPort(port),
            Match::TunnelKey(vni),
            Match::Is(Protocol::Ip),
        ],
        Some(Tunnel::Device(port)) => vec![Match::InPort(port), Match::Is(Protocol::Ip)],
        None => return,
    };
    let actions = [
        Action::SetVni(vni),
        Action::SetOrigin(Origin::Tunnel),
        Action::Goto(Table::Policy),
    ];
    flows.push(Flow::new(
        Table::Classify,
        HIGH,
        &format!("{vni}"),
        &conditions,
        &actions,
    ));
}

/// A container of this host: what it sends is classified and checked, what is for it is put out.
fn here(vni: u32, address: Ipv4Addr, member: Member, port: u32, flows: &mut Vec<Flow>) {
    let (object, mac) = (object(vni, address), member.mac);
    let metered = |meter: fn(Limit) -> u32, actions: &[Action]| {
        let first = member.limit.map(|l| Action::Meter(meter(l)));
        first.into_iter().chain(actions.iter().copied()).collect()
    };
    let classify: Vec<Action> = metered(
        Limit::sent,
        &[
            Action::SetVni(vni),
            Action::SetOrigin(Origin::Container),
            Action::Goto(Table::Spoof),
        ],
    );
    flows.push(Flow::new(
        Table::Classify,
        HIGH,
        &object,
        &[Match::InPort(port)],
        &classify,
    ));
    let own = [Match::InPort(port), Match::EthSrc(mac)];
    let ip = [&own[..], &[Match::Is(Protocol::Ip), Match::IpSrc(address)]].concat();
    flows.push(Flow::new(
        Table::Spoof,
        HIGH,
        &object,
        &ip,
        &[Action::Goto(Table::Policy)],
    ));
    let arp = [
        &own[..],
        &[
            Match::Is(Protocol::Arp),
            Match::ArpSenderMac(mac),
            Match::ArpSender(address),
        ],
    ]
    .concat();
    flows.push(Flow::new(
        Table::Spoof,
        HIGH,
        &object,
        &arp,
        &[Action::Goto(Table::Policy)],
    ));
    let for_it = [
        Match::Is(Protocol::Ip),
        Match::Vni(vni),
        Match::EthDst(mac),
        Match::IpDst(address),
    ];
    flows.push(Flow::new(
        Table::Output,
        HIGH,
        &object,
        &for_it,
        &metered(Limit::received, &[Action::Output(port)]),
    ));
}

/// A container of another host. Only what a container of this host sends goes there: the service
/// namespace serves its own host, and what came by the tunnel does not leave by it.
fn there(
    vni: u32,
    address: Ipv4Addr,
    mac: Mac,
    host: IpAddr,
    tunnel: Option<Tunnel>,
) -> Option<Flow> {
    let conditions = [
        Match::Is(Protocol::Ip),
        Match::Vni(vni),
        Match::From(Origin::Container),
        Match::EthDst(mac),
        Match::IpDst(address),
    ];
    let actions = match tunnel? {
        Tunnel::Shared(port) => vec![
            Action::SetTunnelKey(vni),
            Action::SetTunnelTo(host),
            Action::Output(port),
        ],
        Tunnel::Device(port) => vec![Action::Output(port)],
    };
    Some(Flow::new(
        Table::Output,
        HIGH,
        &object(vni, address),
        &conditions,
        &actions,
    ))
}

fn arp_answer(vni: u32, address: Ipv4Addr, mac: Mac) -> Flow {
    let asked = [
        Match::Is(Protocol::Arp),
        Match::Vni(vni),
        Match::ArpRequest,
        Match::ArpTarget(address),
    ];
    let answer = [
        Action::EthSrcToDst,
        Action::SetEthSrc(mac),
        Action::SetArpReply,
        Action::ArpSenderMacToTarget,
        Action::ArpSenderToTarget,
        Action::SetArpSenderMac(mac),
        Action::SetArpSender(address),
        Action::Back,
    ];
    Flow::new(Table::Arp, HIGH, &object(vni, address), &asked, &answer)
}

/// The gateway, which every host plays for its own containers.
fn gateway(vni: u32, network: &Network, flows: &mut Vec<Flow>) {
    let (mac, address) = (network.gateway_mac, network.gateway);
    let object = object(vni, address);
    flows.push(arp_answer(vni, address, mac));
    let to_it = |more: &[Match]| [&[Match::Vni(vni), Match::EthDst(mac)], more].concat();
    let own = |more: &[Match]| to_it(&[&[Match::From(Origin::Container)], more].concat());
    let echo = own(&[
        Match::Is(Protocol::Icmp),
        Match::IpDst(address),
        Match::IcmpType(8),
        Match::IcmpCode(0),
    ]);
    let reply = [
        Action::EthSrcToDst,
        Action::SetEthSrc(mac),
        Action::IpSrcToDst,
        Action::SetIpSrc(address),
        Action::SetEchoReply,
        Action::SetTtl(64),
        Action::Back,
    ];
    flows.push(Flow::new(Table::Gateway, HIGH, &object, &echo, &reply));
    // Nothing else reaches the gateway's own address, nor the network by way of the gateway.
    flows.push(Flow::new(
        Table::Gateway,
        LOW,
        &object,
        &to_it(&[]),
        &[Action::Drop],
    ));
    let Some(service) = network.service else {
        return;
    };
    let classify = [
        Action::SetVni(vni),
        Action::SetOrigin(Origin::Service),
        Action::Goto(Table::Policy),
    ];
    flows.push(Flow::new(
        Table::Classify,
        HIGH,
        &object,
        &[Match::InPort(service), Match::EthSrc(mac)],
        &classify,
    ));
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let dns = own(&[
            Match::Is(protocol),
            Match::IpDst(address),
            Match::DstPort(53),
        ]);
        flows.push(Flow::new(
            Table::Gateway,
            HIGH,
            &object,
            &dns,
            &[Action::Output(service)],
        ));
    }
    if network.egress {
        let inside = to_it(&[Match::Is(Protocol::Ip), Match::IpDstIn(network.cidr)]);
        flows.push(Flow::new(
            Table::Gateway,
            MIDDLE + 1,
            &object,
            &inside,
            &[Action::Drop],
        ));
        let outside = own(&[Match::Is(Protocol::Ip)]);
        flows.push(Flow::new(
            Table::Gateway,
            MIDDLE,
            &object,
            &outside,
            &[Action::Output(service)],
        ));
    }
}

/// Which host has which hardware address, for the kernel devices of the userspace datapath.
pub fn forwarding(view: &View) -> BTreeSet<(u32, Mac, IpAddr)> {
    let of = |(vni, network): (&u32, &Network)| {
        let vni = *vni;
        let hosts = network.members.values().filter_map(move |m| match m.place {
            Place::There(host) => Some((vni, m.mac, host)),
            Place::Here(_) | Place::Nowhere => None,
        });
        hosts.collect::<Vec<_>>()
    };
    view.networks
        .iter()
        .filter(|(_, n)| matches!(n.tunnel, Some(Tunnel::Device(_))))
        .flat_map(of)
        .collect()
}

/// What must change in the switch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Flows to add; they replace what has the same key.
    pub add: Vec<Flow>,
    /// Flows to remove.
    pub remove: Vec<Strict>,
    /// Meters.
    pub meters: MeterChange,
}

/// Which meters must change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeterChange {
    /// New ones, made before the flows that use them.
    pub add: Meters,
    /// Those with another rate.
    pub modify: Meters,
    /// Those that nothing uses any more; they go after the flows.
    pub remove: BTreeSet<u32>,
}

impl Change {
    /// Whether the switch is as it must be.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many flows and meters change.
    pub fn len(&self) -> usize {
        let meters = &self.meters;
        let flows = self.add.len() + self.remove.len();
        flows + meters.add.len() + meters.modify.len() + meters.remove.len()
    }
}

/// Compares what must be with what is. Flows that are not ours are left alone, unless they are in the way.
/// Meters all are ours, as the bridge is.
pub fn change(desired: &Program, seen: &[Seen], meters: &Meters) -> Change {
    let present: BTreeMap<Key, &Flow> = seen
        .iter()
        .filter_map(|s| s.flow.as_ref())
        .map(|f| (f.key(), f))
        .collect();
    let wanted: BTreeSet<Key> = desired.flows.iter().map(Flow::key).collect();
    let stale = |s: &&Seen| {
        is_ours(s.cookie) && !s.flow.as_ref().is_some_and(|f| wanted.contains(&f.key()))
    };
    let those = |wanted: fn(Option<&Meter>, &Meter) -> bool| {
        let all = desired.meters.iter();
        all.filter(|(id, m)| wanted(meters.get(id), m))
            .map(|(id, m)| (*id, *m))
            .collect()
    };
    Change {
        add: desired
            .flows
            .iter()
            .filter(|f| present.get(&f.key()) != Some(f))
            .cloned()
            .collect(),
        remove: seen.iter().filter(stale).map(|s| s.at.clone()).collect(),
        meters: MeterChange {
            add: those(|is, _| is.is_none()),
            modify: those(|is, m| is.is_some_and(|is| is != m)),
            remove: meters
                .keys()
                .filter(|id| !desired.meters.contains_key(id))
                .copied()
                .collect(),
        },
    }
}

/// What the switch contains after [`change`] was applied to what was `seen`.
pub fn after(desired: &Program, seen: Vec<Seen>) -> Vec<Seen> {
    let wanted: BTreeSet<Key> = desired.flows.iter().map(Flow::key).collect();
    let foreign = |s: &Seen| {
        let replaced = s.flow.as_ref().is_some_and(|f| wanted.contains(&f.key()));
        !is_ours(s.cookie) && !replaced
    };
    let own = desired.flows.iter().map(|f| Seen {
        cookie: f.cookie,
        at: wire::strict(f),
        flow: Some(f.clone()),
    });
    seen.into_iter().filter(foreign).chain(own).collect()
}
