//! The kernel's devices: a container's pair of veth, the tunnels of the userspace datapath.

use super::devices::{Devices, Forwarding, features_off};
pub use super::devices::{Far, VXLAN_PORT};
use super::error::{Error, Result};
use super::flow::Mac;
use super::netns;
use crate::command::Command;
use ipnet::Ipv4Net;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// What VXLAN over IPv4 adds to a packet: outer Ethernet, IP, UDP and VXLAN headers.
const OVERHEAD: u32 = 50;

/// What a device must not leave to another one when packets pass through the userspace datapath.
const OFFLOADS: [&str; 8] = [
    "tx-checksum-ip-generic",
    "tx-checksum-sctp",
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-generic-segmentation",
    "rx-gro",
];

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

/// What failed with which device.
fn failed(device: &str, doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    let device = device.to_owned();
    move |source| Error::Device {
        device,
        doing,
        source,
    }
}

/// Makes a pair of veth, `near` here and the other end as `far` says, and sets its address, routes and MTU.
/// What is right already stays. `offload` false: the far end computes its checksums itself, because the
/// userspace datapath would forward the packet without one.
pub async fn pair(near: &str, far: &Far, offload: bool) -> Result<()> {
    let mut here = Devices::here().map_err(failed(near, "asking the kernel"))?;
    let (near, far, netns) = (near.to_owned(), far.clone(), far.netns.clone());
    let inside = move || {
        let device = &far.device;
        let mut there = Devices::here().map_err(failed(device, "asking the kernel"))?;
        let unknown = || failed(&near, "looking for it");
        let whole = here.index(&near).map_err(unknown())?.is_some()
            && there
                .index(device)
                .map_err(failed(device, "looking for it"))?
                .is_some();
        if !whole {
            let own = File::open(&far.netns).map_err(failed(device, "opening its namespace"))?;
            here.remove(&near)
                .and_then(|()| here.add_pair(&near, &far, &own))
                .map_err(failed(&near, "making the pair of veth"))?;
        }
        here.set(&near, Some(far.mtu), None)
            .map_err(failed(&near, "setting it up"))?;
        there
            .set("lo", None, None)
            .and_then(|()| there.set(device, Some(far.mtu), far.mac))
            .and_then(|()| there.address(device, far.address))
            .and_then(|()| {
                far.via
                    .map_or(Ok(()), |via| there.default_route(device, via))
            })
            .map_err(failed(device, "setting its address and routes"))?;
        if !offload {
            features_off(device, &OFFLOADS)
                .map_err(failed(device, "switching its offloads off"))?;
        }
        Ok(())
    };
    netns::within(&netns, inside).await
}

/// Moves a container's interfaces from one namespace into another. They lose their addresses and routes by it.
pub async fn hand_over(from: &Path, to: &Path) -> Result<()> {
    let to = to.to_owned();
    let moved = move || {
        let names = nix::net::if_::if_nameindex()
            .map_err(|e| failed("eth*", "asking the kernel")(e.into()))?;
        let mut here = Devices::here().map_err(failed("eth*", "asking the kernel"))?;
        let target = File::open(&to).map_err(failed("eth*", "opening its new namespace"))?;
        for name in names
            .iter()
            .map(|i| i.name().to_string_lossy().into_owned())
        {
            if name.starts_with("eth") {
                here.hand_over(&name, &target)
                    .map_err(failed(&name, "moving it into its new namespace"))?;
            }
        }
        Ok(())
    };
    netns::within(from, moved).await
}

/// Deletes a device of this host; fine if there is none.
pub fn remove(device: &str) -> Result<()> {
    Devices::here()
        .and_then(|mut d| d.remove(device))
        .map_err(failed(device, "deleting it"))
}

/// Gives a device of this host an address, if it has not got it.
pub fn address(device: &str, address: Ipv4Net) -> Result<()> {
    Devices::here()
        .and_then(|mut d| d.address(device, address))
        .map_err(failed(device, "setting its address"))
}

/// Makes the kernel's tunnel device of a network. It learns nothing: [`super::plan::forwarding`] says who is where.
pub fn tunnel(vni: u32, mtu: u32) -> Result<()> {
    let device = tunnel_device(vni);
    let make = || {
        let mut devices = Devices::here()?;
        if devices.index(&device)?.is_none() {
            devices.add_tunnel(&device, vni, mtu)?;
            features_off(&device, &["rx-gro"])?;
        }
        devices.set(&device, Some(mtu), None)
    };
    make().map_err(failed(&device, "making the tunnel"))
}

/// Makes the tunnel devices among those that are `there` know exactly `desired`. New entries go in before stale ones
/// go out.
pub fn forward(desired: &Forwarding, there: &Present) -> Result<()> {
    let vni = |d: &String| u32::from_str_radix(d.strip_prefix("skx")?, 16).ok();
    let tunnels: BTreeMap<u32, u32> = there
        .iter()
        .filter_map(|(d, index)| Some((*index, vni(d)?)))
        .collect();
    if tunnels.is_empty() {
        return Ok(());
    }
    let devices: BTreeMap<u32, u32> = tunnels.iter().map(|(index, vni)| (*vni, *index)).collect();
    let set = || -> io::Result<()> {
        let mut kernel = Devices::here()?;
        let present = kernel.forwarding(&tunnels)?;
        for (vni, mac, to) in desired.difference(&present) {
            if let Some(index) = devices.get(vni) {
                kernel.forward(*index, *mac, *to)?;
            }
        }
        let kept: BTreeSet<(u32, Mac)> = desired.iter().map(|(vni, mac, _)| (*vni, *mac)).collect();
        for (vni, mac, to) in present.iter().filter(|(v, m, _)| !kept.contains(&(*v, *m))) {
            if let Some(index) = devices.get(vni) {
                kernel.forget(*index, *mac, *to)?;
            }
        }
        Ok(())
    };
    set().map_err(failed("skx*", "setting who is where"))
}

/// Devices of a namespace with their indexes.
pub type Present = BTreeMap<String, u32>;

/// Every device of this host.
pub fn present() -> Result<Present> {
    Devices::here()
        .and_then(|mut d| d.all())
        .map_err(failed("*", "listing the devices"))
}

/// Whether a device bears a name that only we give.
pub fn is_ours(device: &str) -> bool {
    let own = ["skc", "sks", "skt", "skx"];
    let rest = own.iter().find_map(|p| device.strip_prefix(p));
    rest.is_some_and(|rest| !rest.is_empty() && hex(rest))
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
