//! The kernel's devices: a container's pair of veth, the tunnels of the userspace datapath.

use super::error::{Error, Result};
use super::flow::Mac;
use super::netns;
use super::switch::Datapath;
use crate::command::{Command, Failure};
use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// What VXLAN over IPv4 adds to a packet: outer Ethernet, IP, UDP and VXLAN headers.
const OVERHEAD: u32 = 50;

/// UDP port of VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// The host's end of a container's interface.
pub fn container_device(vni: u32, address: Ipv4Addr) -> String {
    let digest = Sha256::digest(format!("{vni}/{address}"));
    digest
        .iter()
        .take(5)
        .fold("skc".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// The kernel's tunnel device of a network.
pub fn tunnel_device(vni: u32) -> String {
    format!("skx{vni:x}")
}

/// Index of a device in this thread's namespace.
pub fn index(device: &str) -> Option<u32> {
    if_nametoindex(device).ok()
}

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

/// Makes a pair of veth, `near` here and the other end as `far` says, and sets its address, routes and MTU.
/// What is right already stays. `offload` false: the far end computes its checksums itself, because the
/// userspace datapath would forward the packet without one.
pub async fn pair(near: &str, far: &Far, offload: bool) -> Result<()> {
    let there = far.clone();
    let found = netns::within(&far.netns, move || Ok(index(&there.device).is_some())).await?;
    if !found || index(near).is_none() {
        remove(near).await?;
        let (mtu, netns) = (far.mtu.to_string(), far.netns.display().to_string());
        let mac = far.mac.map(|m| m.to_string());
        let mut args = vec![
            "link",
            "add",
            near,
            "mtu",
            &mtu,
            "type",
            "veth",
            "peer",
            "name",
            &far.device,
        ];
        args.extend(mac.iter().flat_map(|m| ["address", m.as_str()]));
        args.extend(["mtu", &mtu, "netns", &netns]);
        Command::new("ip").args(args).run().await?;
    }
    Command::new("ip")
        .args(["link", "set", near, "up", "mtu", &far.mtu.to_string()])
        .run()
        .await?;
    let far = far.clone();
    let inside = far.netns.clone();
    netns::within(&inside, move || set_up(&far, offload)).await
}

/// Runs inside the namespace.
fn set_up(far: &Far, offload: bool) -> Result<()> {
    let device = &far.device;
    let mut batch = String::from("link set lo up\n");
    let mac = far.mac.map(|m| format!(" address {m}")).unwrap_or_default();
    batch += &format!("link set {device} up mtu {}{mac}\n", far.mtu);
    batch += &format!("addr replace {} dev {device}\n", far.address);
    if let Some(via) = far.via {
        batch += &format!("route replace default via {via} dev {device}\n");
    }
    netns::run("ip", &["-batch", "-"], &batch)?;
    if !offload {
        netns::run(
            "ethtool",
            &[
                "-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
            ],
            "",
        )?;
    }
    Ok(())
}

/// Deletes a device of this host; fine if there is none.
pub async fn remove(device: &str) -> Result<()> {
    if index(device).is_none() {
        return Ok(());
    }
    match Command::new("ip").args(["link", "del", device]).run().await {
        Err(Failure::Failed { .. }) if index(device).is_none() => Ok(()),
        done => Ok(done.map(drop)?),
    }
}

/// Makes the kernel's tunnel device of a network. It learns nothing: [`super::plan::forwarding`] says who is where.
pub async fn tunnel(vni: u32, mtu: u32) -> Result<()> {
    let (device, id, mtu, port) = (
        tunnel_device(vni),
        vni.to_string(),
        mtu.to_string(),
        VXLAN_PORT.to_string(),
    );
    if index(&device).is_none() {
        let mut args = vec![
            "link", "add", &device, "mtu", &mtu, "type", "vxlan", "id", &id,
        ];
        args.extend(["dstport", &port, "nolearning", "noudpcsum", "ttl", "64"]);
        Command::new("ip").args(args).run().await?;
        Command::new("ethtool")
            .args(["-K", &device, "gro", "off"])
            .run()
            .await?;
    }
    Command::new("ip")
        .args(["link", "set", &device, "up", "mtu", &mtu])
        .run()
        .await?;
    Ok(())
}

#[derive(Deserialize)]
struct Entry {
    mac: String,
    ifname: String,
    dst: Option<IpAddr>,
}

/// Which host has which hardware address, as the kernel's tunnel devices have it.
pub async fn forwarding() -> Result<BTreeSet<(u32, Mac, IpAddr)>> {
    let text = Command::new("bridge")
        .args(["-j", "fdb", "show"])
        .run()
        .await?;
    let entries: Vec<Entry> = serde_json::from_str(&text)
        .map_err(|e| Error::Switch(format!("bridge printed no list: {e}")))?;
    let ours = |e: Entry| {
        Some((
            u32::from_str_radix(e.ifname.strip_prefix("skx")?, 16).ok()?,
            e.mac.parse().ok()?,
            e.dst?,
        ))
    };
    Ok(entries.into_iter().filter_map(ours).collect())
}

/// Makes the tunnel devices know exactly `desired`. New entries go in before stale ones go out.
pub async fn forward(desired: &BTreeSet<(u32, Mac, IpAddr)>) -> Result<()> {
    let present = forwarding().await?;
    let kept: BTreeSet<(u32, Mac)> = desired.iter().map(|(vni, mac, _)| (*vni, *mac)).collect();
    let set = desired.difference(&present).map(|(vni, mac, host)| {
        format!("fdb replace {mac} dev {} dst {host}\n", tunnel_device(*vni))
    });
    let gone = present
        .iter()
        .filter(|(vni, mac, _)| !kept.contains(&(*vni, *mac)));
    let unset = gone
        .map(|(vni, mac, host)| format!("fdb del {mac} dev {} dst {host}\n", tunnel_device(*vni)));
    let batch: String = set.chain(unset).collect();
    if !batch.is_empty() {
        Command::new("bridge")
            .args(["-force", "-batch", "-"])
            .input(batch)
            .run()
            .await?;
    }
    Ok(())
}

/// Our devices on this host.
pub fn ours() -> Vec<String> {
    let names = nix::net::if_::if_nameindex().map(|list| {
        list.iter()
            .map(|i| i.name().to_string_lossy().into_owned())
            .collect()
    });
    let ours = |n: &String| {
        n.len() > 3
            && ["skc", "sks", "skt", "skx"]
                .iter()
                .any(|p| n.starts_with(p))
            && hex(&n[3..])
    };
    names
        .unwrap_or_else(|_| Vec::new())
        .into_iter()
        .filter(ours)
        .collect()
}

fn hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[derive(Deserialize)]
struct Route {
    dev: Option<String>,
}

#[derive(Deserialize)]
struct Link {
    mtu: u32,
}

/// MTU of the overlay: what the underlay's device leaves. The device is the one with the host's
/// internal address, or the one of the default route.
pub async fn overlay_mtu(internal: Option<IpAddr>) -> Result<u32> {
    let bad =
        |what: &str, e: serde_json::Error| Error::Switch(format!("{what} printed no list: {e}"));
    let mut device = None;
    if let Some(address) = internal {
        let text = Command::new("ip")
            .args(["-j", "addr", "show", "to", &address.to_string()])
            .run()
            .await?;
        let links: Vec<serde_json::Value> =
            serde_json::from_str(&text).map_err(|e| bad("ip addr", e))?;
        device = links
            .iter()
            .find_map(|l| l["ifname"].as_str())
            .map(str::to_owned);
    }
    if device.is_none() {
        let text = Command::new("ip")
            .args(["-j", "route", "show", "default"])
            .run()
            .await?;
        let routes: Vec<Route> = serde_json::from_str(&text).map_err(|e| bad("ip route", e))?;
        device = routes.into_iter().find_map(|r| r.dev);
    }
    let Some(device) = device else {
        return Ok(1500 - OVERHEAD);
    };
    let text = Command::new("ip")
        .args(["-j", "link", "show", &device])
        .run()
        .await?;
    let links: Vec<Link> = serde_json::from_str(&text).map_err(|e| bad("ip link", e))?;
    Ok(links.first().map_or(1500, |l| l.mtu) - OVERHEAD)
}

/// Whether `path` is a network namespace that can be entered.
pub fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Whether checksums may be left to the devices.
pub fn offload(datapath: Datapath) -> bool {
    datapath == Datapath::System
}
