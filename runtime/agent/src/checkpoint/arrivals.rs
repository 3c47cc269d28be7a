//! What arrives for a container while it stands still. The lock drops it, so whoever sent it would send it again
//! only when a timer of its own ends, and such a timer doubles each time: the peer of a container that stood for
//! 300 ms goes on after 600. So copies are taken where packets come in, kept by the kernel, and put in again once
//! the lock is open, on whichever host that is.
//!
//! Nothing depends on it: a packet may be lost on any network. A copy that cannot be taken, kept, sent on or put in
//! is lost. A packet may come twice, which networks do too.

use super::error::Error;
use crate::network::{self, links, netns};
use bytes::Bytes;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    setsockopt, socket, sockopt::RcvBufForce,
};
use skysail_schemas::PortSpec;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Bytes of memory in which the kernel keeps copies; what comes when they are full is lost.
const KEPT: usize = 8 << 20;
/// How often a copy is looked for that is waited for.
const LOOK: Duration = Duration::from_millis(1);
/// Longest copy: segments that the kernel has joined, and what is before them.
const LONGEST: usize = (64 << 10) + 256;
/// What the kernel puts before a packet: which checksum is missing, and how it is to be cut.
const HEADER: usize = 10;
/// Where the kind of a packet stands, and the kind that the namespace itself answers although it is locked.
const KIND: std::ops::Range<usize> = HEADER + 12..HEADER + 14;
const ARP: [u8; 2] = [0x08, 0x06];

/// The kernel's description of a packet's checksum and segments is part of it, in both directions. With it a packet
/// that never was on a wire can be put in elsewhere.
#[allow(unsafe_code)] // SAFETY: the macro passes the address of an int and its size, which is what this option takes.
mod option {
    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// `PACKET_VNET_HDR`
        Described,
        SetOnly,
        libc::SOL_PACKET,
        libc::PACKET_VNET_HDR,
        bool
    );
}

/// A packet that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The number of the container's interface.
    pub interface: u32,
    /// What the kernel says of it, then all of it from the hardware addresses on.
    pub bytes: Bytes,
}

/// Copies of what arrives at a container's interfaces, from when it is opened until it is dropped.
#[derive(Debug)]
pub struct Arrivals {
    socket: OwnedFd,
    /// Numbers of the interfaces, by how the kernel numbers them.
    interfaces: BTreeMap<usize, u32>,
}

impl Arrivals {
    /// Of the interfaces that the namespace at `netns` has now.
    ///
    /// # Errors
    /// The kernel has no such sockets, or no memory.
    pub async fn open(netns: &Path) -> Result<Self, Error> {
        let failed = |source| network::Error::Device {
            device: "eth*".into(),
            doing: "taking copies of what arrives",
            source,
        };
        let opened = netns::within(netns, move || open().map_err(failed)).await;
        let (socket, interfaces) = opened.map_err(|e| Error::Network(e.to_string()))?;
        Ok(Self { socket, interfaces })
    }

    /// The next copy, as soon as there is one.
    ///
    /// # Errors
    /// The kernel gives no more.
    pub async fn next(&self) -> io::Result<Packet> {
        loop {
            match self.take() {
                Ok(Some(packet)) => return Ok(packet),
                Ok(None) => {}
                // Asked again and again for well under a second in all.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(LOOK).await,
                Err(e) => return Err(e),
            }
        }
    }

    /// Every copy that there is.
    pub fn so_far(&self) -> Vec<Packet> {
        let taken = std::iter::from_fn(|| self.take().ok());
        taken.flatten().collect()
    }

    /// One copy; none if it is of no concern.
    fn take(&self) -> io::Result<Option<Packet>> {
        let mut buffer = vec![0; LONGEST];
        let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            // One that cannot be described is lost.
            Err(nix::Error::EINVAL) => return Ok(None),
            other => other?,
        };
        buffer.truncate(length);
        let from = from.filter(|f| f.pkttype() != libc::PACKET_OUTGOING);
        let interface = from.and_then(|f| self.interfaces.get(&f.ifindex()));
        let wanted = buffer.get(KIND).is_some_and(|kind| kind != ARP);
        Ok(interface.filter(|_| wanted).map(|interface| Packet {
            interface: *interface,
            bytes: buffer.into(),
        }))
    }
}

fn open() -> io::Result<(OwnedFd, BTreeMap<usize, u32>)> {
    let names = nix::net::if_::if_nameindex()?;
    let numbered = |i: &nix::net::if_::Interface| {
        Some((i.index() as usize, number(&i.name().to_string_lossy())?))
    };
    let interfaces = names.iter().filter_map(numbered).collect();
    let socket = raw(SockProtocol::EthAll)?;
    setsockopt(&socket, RcvBufForce, &KEPT)?;
    Ok((socket, interfaces))
}

fn raw(protocol: impl Into<Option<SockProtocol>>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)?;
    setsockopt(&socket, option::Described, &true)?;
    Ok(socket)
}

/// The number of a container's interface by its name.
fn number(name: &str) -> Option<u32> {
    name.strip_prefix("eth")?.parse().ok()
}

/// The way into a container's interfaces on this host.
#[derive(Debug)]
pub struct Entry {
    sockets: BTreeMap<u32, OwnedFd>,
}

impl Entry {
    /// Into those of `ports`, which are attached here.
    ///
    /// # Errors
    /// The kernel has no such sockets. An interface that is not there has no entry.
    pub fn of(ports: &[PortSpec]) -> io::Result<Self> {
        let own: BTreeMap<String, u32> = ports
            .iter()
            .map(|p| (links::container_device(p.vni, p.address), p.interface))
            .collect();
        let mut sockets = BTreeMap::new();
        for device in nix::ifaddrs::getifaddrs()? {
            let address = device.address.as_ref().and_then(|a| a.as_link_addr());
            if let (Some(number), Some(address)) = (own.get(&device.interface_name), address) {
                let socket = raw(None)?;
                bind(socket.as_raw_fd(), address)?;
                sockets.insert(*number, socket);
            }
        }
        Ok(Self { sockets })
    }

    /// Puts a packet in, as if it came from the network.
    pub fn put(&self, packet: &Packet) {
        let Some(socket) = self.sockets.get(&packet.interface) else {
            return;
        };
        if let Err(error) = send(socket.as_raw_fd(), &packet.bytes, MsgFlags::empty()) {
            tracing::debug!(%error, interface = packet.interface, "a packet is lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interfaces_that_are_the_agents_have_a_number() {
        assert_eq!(number("eth0"), Some(0));
        assert_eq!(number("eth12"), Some(12));
        assert_eq!(number("lo"), None);
        assert_eq!(number("ethernet"), None);
    }
}
