//! What the switch must contain, as pure functions of what is known.

use super::flow::{Action, Flow, Key, Mac, Match, Protocol, Seen, is_ours};
use super::registers::Origin;
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
}

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

const HIGH: u16 = 200;
const MIDDLE: u16 = 150;
const LOW: u16 = 100;
const MISS: u16 = 0;

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
        for (address, member) in &network.members {
            flows.push(arp_answer(*vni, *address, member.mac));
            match member.place {
                Place::Here(port) => here(*vni, *address, member.mac, port, &mut flows),
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
fn here(vni: u32, address: Ipv4Addr, mac: Mac, port: u32, flows: &mut Vec<Flow>) {
    let object = object(vni, address);
    let classify = [
        Action::SetVni(vni),
        Action::SetOrigin(Origin::Container),
        Action::Goto(Table::Spoof),
    ];
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
        &[Action::Output(port)],
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
    /// Flows to remove, each by table, priority and conditions.
    pub remove: Vec<String>,
}

impl Change {
    /// Whether the switch is as it must be.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// The text of one bundle: what is new goes in before what is stale goes out.
    pub fn bundle(&self) -> String {
        let add = self.add.iter().map(|f| format!("add {f}\n"));
        add.chain(self.remove.iter().map(|r| format!("delete_strict {r}\n")))
            .collect()
    }
}

/// Compares what must be with what is. Flows that are not ours are left alone, unless they are in the way.
pub fn change(desired: &[Flow], seen: &[Seen]) -> Change {
    let present: BTreeMap<Key, &Flow> = seen
        .iter()
        .filter_map(|s| s.flow.as_ref())
        .map(|f| (f.key(), f))
        .collect();
    let wanted: BTreeSet<Key> = desired.iter().map(Flow::key).collect();
    let stale = |s: &&Seen| {
        is_ours(s.cookie) && !s.flow.as_ref().is_some_and(|f| wanted.contains(&f.key()))
    };
    Change {
        add: desired
            .iter()
            .filter(|f| present.get(&f.key()) != Some(f))
            .cloned()
            .collect(),
        remove: seen
            .iter()
            .filter(stale)
            .map(|s| s.strict.clone())
            .collect(),
    }
}
