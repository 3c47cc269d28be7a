//! What a network needs on a host beside its containers: a namespace that is the gateway. The network's
//! DNS listens in it and, where egress is on, it translates addresses on the way to the world.
//!
//! ```text
//!   br-int ── sks<vni> ═ gw0 [ sky-svc-<vni> ] tr0 ═ skt<vni> ── host ── world
//! ```
//! The namespace has its own routing and connection table, so two tenants with the same addresses never meet.

use super::dns::{self, Shared, Zone};
use super::error::{Error, Result};
use super::links::{self, Far, Present, VXLAN_PORT};
use super::netns;
use super::plan::Network;
use crate::command::Command;
use ipnet::Ipv4Net;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

/// Addresses of the pairs between host and service namespaces: link-local, two of them for each network,
/// away from the clouds' metadata service at 169.254.169.254.
const TRANSIT: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 64, 0), 18);
const PREFIX: &str = "sky-svc-";
const NETNS: &str = "/run/netns";

/// The device in `br-int` that leads to a network's service namespace.
pub fn device(vni: u32) -> String {
    format!("sks{vni:x}")
}

/// The host's end of a network's way out.
pub fn transit_device(vni: u32) -> String {
    format!("skt{vni:x}")
}

fn path(vni: u32) -> PathBuf {
    Path::new(NETNS).join(format!("{PREFIX}{vni}"))
}

/// A network's service, running.
pub struct Service {
    zone: Shared,
    /// Which namespace the DNS is in: another one under the same name needs another DNS.
    namespace: u64,
    gateway: Ipv4Addr,
    dns: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.dns.abort();
    }
}

impl Service {
    /// Makes what the DNS answers equal to `zone`.
    pub fn publish(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// Whether this service is that of the namespace that is there now.
    pub fn is_current(&self, vni: u32, network: &Network) -> bool {
        self.gateway == network.gateway
            && !self.dns.is_finished()
            && inode(vni) == Some(self.namespace)
    }
}

fn inode(vni: u32) -> Option<u64> {
    let path = path(vni);
    links::is_namespace(&path)
        .then(|| std::fs::metadata(&path).ok().map(|m| m.ino()))
        .flatten()
}

/// Whether everything that [`ensure`] makes is among the devices that are `there`.
pub fn is_whole(vni: u32, network: &Network, there: &Present) -> bool {
    there.contains_key(&device(vni))
        && (!network.egress || there.contains_key(&transit_device(vni)))
}

/// Makes the namespace, its devices and its rules. What is right stays.
pub async fn ensure(vni: u32, network: &Network, mtu: u32, offload: bool) -> Result<()> {
    let (path, name) = (path(vni), format!("{PREFIX}{vni}"));
    if !links::is_namespace(&path) {
        if path.exists() {
            Command::new("ip")
                .args(["netns", "del", &name])
                .run()
                .await?;
        }
        Command::new("ip")
            .args(["netns", "add", &name])
            .run()
            .await?;
    }
    let address = Ipv4Net::new(network.gateway, network.cidr.prefix_len())
        .map_err(|e| Error::Switch(e.to_string()))?;
    let mac = Some(network.gateway_mac);
    let gateway = Far {
        netns: path.clone(),
        device: "gw0".into(),
        mac,
        address,
        via: None,
        mtu,
    };
    links::pair(&device(vni), &gateway, offload).await?;
    let transit = transit_device(vni);
    if network.egress {
        let (near, far) = transit_addresses(&transit).await?;
        let way_out = Far {
            netns: path.clone(),
            device: "tr0".into(),
            mac: None,
            address: far,
            via: Some(near.addr()),
            mtu,
        };
        links::pair(&transit, &way_out, true).await?;
        links::address(&transit, near)?;
    } else {
        links::remove(&transit)?;
    }
    let egress = network.egress;
    netns::within(&path, move || {
        netns::sysctl("ipv4/ip_forward", if egress { "1" } else { "0" })?;
        netns::run("nft", &["-f", "-"], SERVICE_RULES).map(drop)
    })
    .await
}

/// In the service namespace: containers reach the DNS and the world, nothing else; the world reaches nothing.
const SERVICE_RULES: &str = r#"
table inet skysail
delete table inet skysail
table inet skysail {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname "gw0" meta l4proto { tcp, udp } th dport 53 accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "gw0" oifname "tr0" accept
  }
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "tr0" masquerade
  }
}
"#;

#[derive(Deserialize)]
struct Link {
    ifname: String,
    addr_info: Vec<LinkAddress>,
}

#[derive(Deserialize)]
struct LinkAddress {
    local: Option<Ipv4Addr>,
}

/// The pair of addresses of a transit: the one that the device has, or the lowest that is free.
async fn transit_addresses(device: &str) -> Result<(Ipv4Net, Ipv4Net)> {
    let text = Command::new("ip")
        .args(["-j", "-4", "addr", "show"])
        .run()
        .await?;
    let links: Vec<Link> = serde_json::from_str(&text)
        .map_err(|e| Error::Switch(format!("ip addr printed no list: {e}")))?;
    let base = u32::from(TRANSIT.0);
    let slots = 1_u32 << (32 - TRANSIT.1 - 1);
    let slot = |l: &Link| {
        let mut of = l
            .addr_info
            .iter()
            .filter_map(|a| u32::from(a.local?).checked_sub(base))
            .map(|n| n / 2);
        of.find(|n| *n < slots)
    };
    let own = links.iter().find(|l| l.ifname == device).and_then(slot);
    let taken: BTreeSet<u32> = links.iter().filter_map(slot).collect();
    let free = (0..slots).find(|s| !taken.contains(s));
    let slot = own.or(free).ok_or_else(|| {
        Error::Switch("no transit addresses are left for egress on this host".into())
    })?;
    let net = |n: u32| {
        Ipv4Net::new(Ipv4Addr::from(base + n), 31).map_err(|e| Error::Switch(e.to_string()))
    };
    Ok((net(slot * 2)?, net(slot * 2 + 1)?))
}

/// Starts the DNS in the namespace.
pub async fn start(vni: u32, network: &Network, zone: Zone) -> Result<Service> {
    let at = SocketAddr::new(network.gateway.into(), 53);
    let path = path(vni);
    let sockets = netns::within(&path, {
        let failed = move |source| Error::File {
            path: format!("DNS socket {at} of VNI {vni}").into(),
            source,
        };
        move || {
            let udp = std::net::UdpSocket::bind(at).map_err(failed)?;
            let tcp = std::net::TcpListener::bind(at).map_err(failed)?;
            udp.set_nonblocking(true).map_err(failed)?;
            tcp.set_nonblocking(true).map_err(failed)?;
            Ok((udp, tcp))
        }
    });
    let (udp, tcp) = sockets.await?;
    let failed = |source| Error::File {
        path: path.clone(),
        source,
    };
    let (udp, tcp) = (
        UdpSocket::from_std(udp).map_err(failed)?,
        TcpListener::from_std(tcp).map_err(failed)?,
    );
    let zone = Arc::new(RwLock::new(zone));
    let namespace = inode(vni).ok_or(Error::Stopped)?;
    let dns = tokio::spawn(dns::serve(zone.clone(), udp, tcp));
    Ok(Service {
        zone,
        namespace,
        gateway: network.gateway,
        dns,
    })
}

/// Removes the namespace of a network, and with it its devices.
pub async fn remove(vni: u32) -> Result<()> {
    links::remove(&device(vni))?;
    links::remove(&transit_device(vni))?;
    if path(vni).exists() {
        Command::new("ip")
            .args(["netns", "del", &format!("{PREFIX}{vni}")])
            .run()
            .await?;
    }
    Ok(())
}

/// The networks that have a service namespace on this host.
pub fn present() -> BTreeSet<u32> {
    let Ok(entries) = std::fs::read_dir(NETNS) else {
        return BTreeSet::new();
    };
    let vni = |e: std::io::Result<std::fs::DirEntry>| {
        e.ok()?
            .file_name()
            .to_str()?
            .strip_prefix(PREFIX)?
            .parse()
            .ok()
    };
    entries.filter_map(vni).collect()
}

/// The host's rules for what leaves by egress: to the world, but neither to this host, nor to the networks
/// that it is on, nor to `protected`, nor as a forged tunnel packet. Empty `protected` is fine.
pub fn host_rules(protected: &BTreeSet<String>) -> String {
    let (transit, prefix) = TRANSIT;
    let drop: String = protected
        .iter()
        .map(|p| format!("    ip daddr {p} drop\n"))
        .collect();
    format!(
        r#"table inet skysail
delete table inet skysail
table inet skysail {{
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname "skt*" drop
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname "skt*" jump egress
    oifname "skt*" ct state established,related accept
    oifname "skt*" drop
  }}
  chain egress {{
    oifname "skt*" drop
    udp dport {VXLAN_PORT} drop
    ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }} drop
{drop}    meta nfproto ipv6 drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 5; policy accept;
    ip saddr {transit}/{prefix} oifname != "skt*" masquerade
  }}
}}
"#
    )
}

/// Whether the host's rules are there.
pub async fn host_rules_present() -> bool {
    Command::new("nft")
        .args(["list", "table", "inet", "skysail"])
        .run()
        .await
        .is_ok()
}

/// Installs the host's rules, all at once, and lets it forward.
pub async fn install_host_rules(rules: &str) -> Result<()> {
    Command::new("nft")
        .args(["-f", "-"])
        .input(rules)
        .run()
        .await?;
    netns::sysctl("ipv4/ip_forward", "1")
}

#[derive(Deserialize)]
struct OnLink {
    dst: String,
    dev: Option<String>,
}

/// The networks that this host is on.
pub async fn underlay() -> Result<BTreeSet<String>> {
    let text = Command::new("ip")
        .args(["-j", "-4", "route", "show", "scope", "link"])
        .run()
        .await?;
    let routes: Vec<OnLink> = serde_json::from_str(&text)
        .map_err(|e| Error::Switch(format!("ip route printed no list: {e}")))?;
    let foreign =
        |r: &OnLink| r.dst != "default" && !r.dev.as_deref().is_some_and(|d| d.starts_with("skt"));
    Ok(routes.into_iter().filter(foreign).map(|r| r.dst).collect())
}
