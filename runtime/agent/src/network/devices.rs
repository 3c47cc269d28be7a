//! What the kernel does to devices, one call for each: see [`super::links`] for what they are for.

use super::flow::Mac;
use super::netlink::{self, CREATE, DUMP, EXCLUSIVE, Message, Netlink, REPLACE};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// UDP port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// An end of a pair that is to be made in another namespace.
#[derive(Debug, Clone)]
pub struct Far {
    /// Where the namespace is mounted.
    pub netns: PathBuf,
    /// Its name there.
    pub device: String,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Its address.
    pub address: Ipv4Net,
    /// Default route.
    pub via: Option<Ipv4Addr>,
    /// MTU of both ends.
    pub mtu: u32,
}

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const GET_NEIGHBOUR: u16 = 30;

/// Which host has which hardware address: network, address and host.
pub type Forwarding = BTreeSet<(u32, Mac, IpAddr)>;

/// The fixed part of a message about a forwarding entry of a device.
fn entry(index: u32) -> [u8; 12] {
    let (bridge, permanent, own) = (7, 0x80, 2);
    let mut fixed = [bridge, 0, 0, 0, 0, 0, 0, 0, permanent, 0, own, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed
}

const TO: u16 = 1;
const MAC: u16 = 2;

/// The fixed part of a message about a device: which, and which flags it shall have.
fn about(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

const IS_UP: u32 = 1;
mod link {
    pub const ADDRESS: u16 = 1;
    pub const NAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const INFO: u16 = 18;
    pub const NETNS: u16 = 28;
    pub const FILTER: u16 = 29;
}

/// The devices of one namespace.
pub struct Devices(Netlink);

impl Devices {
    /// Those of this thread's namespace.
    pub fn here() -> io::Result<Self> {
        Netlink::route().map(Self)
    }

    /// Name and index of every device; without the counters, which are most of the work of such a list.
    pub fn all(&mut self) -> io::Result<BTreeMap<String, u32>> {
        const NO_COUNTERS: u32 = 1 << 3;
        let ask = Message::new(GET_LINK, DUMP, &about(0, 0, 0))
            .attribute(link::FILTER, &NO_COUNTERS.to_ne_bytes());
        let read = |a: &netlink::Answer| {
            let name = a.attribute(16, link::NAME)?.split(|b| *b == 0).next()?;
            let index = u32::from_ne_bytes(a.fixed(4)?);
            Some((String::from_utf8_lossy(name).into_owned(), index))
        };
        Ok(self.0.ask(ask)?.iter().filter_map(read).collect())
    }

    pub fn index(&mut self, device: &str) -> io::Result<Option<u32>> {
        let ask = Message::new(GET_LINK, 0, &about(0, 0, 0))
            .attribute(link::NAME, &netlink::text(device));
        match self.0.ask(ask) {
            Ok(found) => Ok(found
                .first()
                .and_then(|a| a.fixed(4))
                .map(u32::from_ne_bytes)),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn existing(&mut self, device: &str) -> io::Result<u32> {
        self.index(device)?
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    pub fn remove(&mut self, device: &str) -> io::Result<()> {
        let Some(index) = self.index(device)? else {
            return Ok(());
        };
        match self
            .0
            .ask(Message::new(DELETE_LINK, 0, &about(index, 0, 0)))
        {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Moves a device into the namespace `netns`, under the same name.
    pub fn hand_over(&mut self, device: &str, netns: &File) -> io::Result<()> {
        let index = self.existing(device)?;
        let message = Message::new(NEW_LINK, 0, &about(index, 0, 0))
            .attribute(link::NETNS, &netns.as_raw_fd().to_ne_bytes());
        self.0.ask(message).map(drop)
    }

    /// Makes a device of `kind`, whose own settings are `data`.
    fn add(&mut self, device: &str, mtu: u32, kind: &str, data: &[u8]) -> io::Result<()> {
        let info = netlink::attributes(&[(1, kind.as_bytes()), (netlink::nest(2), data)]);
        let message = Message::new(NEW_LINK, CREATE | EXCLUSIVE, &about(0, 0, 0))
            .attribute(link::NAME, &netlink::text(device))
            .attribute(link::MTU, &mtu.to_ne_bytes())
            .nested(link::INFO, &info);
        self.0.ask(message).map(drop)
    }

    /// Makes a pair of veth, the far end in the namespace `netns`.
    pub fn add_pair(&mut self, near: &str, far: &Far, netns: &File) -> io::Result<()> {
        let (name, mtu) = (netlink::text(&far.device), far.mtu.to_ne_bytes());
        let netns = netns.as_raw_fd().to_ne_bytes();
        let mut settings = vec![
            (link::NAME, &name[..]),
            (link::MTU, &mtu[..]),
            (link::NETNS, &netns[..]),
        ];
        settings.extend(far.mac.iter().map(|m| (link::ADDRESS, &m.0[..])));
        let peer = [&about(0, 0, 0)[..], &netlink::attributes(&settings)].concat();
        let data = netlink::attributes(&[(netlink::nest(1), &peer)]);
        self.add(near, far.mtu, "veth", &data)
    }

    /// Sets it up, with an MTU and a hardware address where one is given.
    pub fn set(&mut self, device: &str, mtu: Option<u32>, mac: Option<Mac>) -> io::Result<()> {
        let index = self.existing(device)?;
        let mut message = Message::new(NEW_LINK, 0, &about(index, IS_UP, IS_UP));
        if let Some(mtu) = mtu {
            message = message.attribute(link::MTU, &mtu.to_ne_bytes());
        }
        if let Some(mac) = mac {
            message = message.attribute(link::ADDRESS, &mac.0);
        }
        self.0.ask(message).map(drop)
    }

    pub fn address(&mut self, device: &str, address: Ipv4Net) -> io::Result<()> {
        const INET: u8 = libc::AF_INET as u8;
        let mut fixed = [INET, address.prefix_len(), 0, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&self.existing(device)?.to_ne_bytes());
        let (address_attribute, local) = (1, 2);
        let message = Message::new(NEW_ADDRESS, CREATE | REPLACE, &fixed)
            .attribute(local, &address.addr().octets())
            .attribute(address_attribute, &address.addr().octets());
        self.0.ask(message).map(drop)
    }

    pub fn default_route(&mut self, device: &str, via: Ipv4Addr) -> io::Result<()> {
        const INET: u8 = libc::AF_INET as u8;
        let (main_table, by_hand, everywhere, unicast) = (254, 3, 0, 1);
        let fixed = [
            INET, 0, 0, 0, main_table, by_hand, everywhere, unicast, 0, 0, 0, 0,
        ];
        let (out, gateway) = (4, 5);
        let message = Message::new(NEW_ROUTE, CREATE | REPLACE, &fixed)
            .attribute(out, &self.existing(device)?.to_ne_bytes())
            .attribute(gateway, &via.octets());
        self.0.ask(message).map(drop)
    }

    /// Makes a VXLAN device that learns nothing and sends no checksum over what has one.
    pub fn add_tunnel(&mut self, device: &str, vni: u32, mtu: u32) -> io::Result<()> {
        let (id, ttl, learning, port, checksum) = (1, 5, 7, 15, 18);
        let data = netlink::attributes(&[
            (id, &vni.to_ne_bytes()),
            (ttl, &[64]),
            (learning, &[0]),
            (port, &VXLAN_PORT.to_be_bytes()),
            (checksum, &[0]),
        ]);
        self.add(device, mtu, "vxlan", &data)
    }

    /// The forwarding entries of tunnel devices, which are given as index and network.
    pub fn forwarding(&mut self, tunnels: &BTreeMap<u32, u32>) -> io::Result<Forwarding> {
        let answers = self.0.ask(Message::new(GET_NEIGHBOUR, DUMP, &entry(0)))?;
        let read = |a: &netlink::Answer| {
            let vni = tunnels.get(&u32::from_ne_bytes(a.fixed(4)?))?;
            let mac = Mac(a.attribute(12, MAC)?.try_into().ok()?);
            let to = a.attribute(12, TO)?;
            let to = <[u8; 4]>::try_from(to)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(to).map(IpAddr::from))
                .ok()?;
            Some((*vni, mac, to))
        };
        Ok(answers.iter().filter_map(read).collect())
    }

    /// Makes device `index` send what is for `mac` to the host `to`.
    pub fn forward(&mut self, index: u32, mac: Mac, to: IpAddr) -> io::Result<()> {
        let message = Message::new(NEW_NEIGHBOUR, CREATE | REPLACE, &entry(index));
        self.0.ask(about_host(message, mac, to)).map(drop)
    }

    /// Makes device `index` forget where `mac` is; fine if it does not know.
    pub fn forget(&mut self, index: u32, mac: Mac, to: IpAddr) -> io::Result<()> {
        let message = Message::new(DELETE_NEIGHBOUR, 0, &entry(index));
        match self.0.ask(about_host(message, mac, to)) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done.map(drop),
        }
    }
}

fn about_host(message: Message, mac: Mac, to: IpAddr) -> Message {
    let message = message.attribute(MAC, &mac.0);
    match to {
        IpAddr::V4(a) => message.attribute(TO, &a.octets()),
        IpAddr::V6(a) => message.attribute(TO, &a.octets()),
    }
}

/// What `ethtool -K` does, by the kernel's newer interface for it.
pub fn features_off(device: &str, features: &[&str]) -> io::Result<()> {
    const CONTROL: u16 = 0x10;
    let mut netlink = Netlink::generic()?;
    let (get_family, family_name, family_id) = (3, 2, 1);
    let ask = Message::new(CONTROL, 0, &[get_family, 1, 0, 0])
        .attribute(family_name, &netlink::text("ethtool"));
    let families = netlink.ask(ask)?;
    let id = families.first().and_then(|a| a.attribute(4, family_id));
    let id = id
        .and_then(|v| v.try_into().ok())
        .map(u16::from_ne_bytes)
        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    // One bit for each feature, by name and without the attribute that would say "on".
    let bits: Vec<u8> = features
        .iter()
        .flat_map(|name| {
            let bit = netlink::attributes(&[(2, &netlink::text(name))]);
            netlink::attributes(&[(netlink::nest(1), &bit)])
        })
        .collect();
    let (features_set, header, wanted, bit_list, by_name) = (12, 1, 3, 3, 2);
    let device = netlink::attributes(&[(by_name, &netlink::text(device))]);
    let list = netlink::attributes(&[(netlink::nest(bit_list), &bits)]);
    let message = Message::new(id, 0, &[features_set, 1, 0, 0])
        .nested(header, &device)
        .nested(wanted, &list);
    netlink.ask(message).map(drop)
}
