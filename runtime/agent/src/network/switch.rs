//! Open vSwitch: its daemons, `br-int`, its ports and its flows.

use super::error::{Error, Result};
use super::flow::Seen;
use super::plan::Change;
use crate::command::Command;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The one bridge.
pub const BRIDGE: &str = "br-int";
const RUN: &str = "/run/openvswitch";
const LOG: &str = "/var/log/openvswitch";
const DATABASE: &str = "/etc/openvswitch/conf.db";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const OWNER: &str = "skysail";
const INDEX: &str = "skysail-index";

/// Which of its two data paths Open vSwitch uses here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    /// The kernel's module.
    System,
    /// Userspace: packets pass through `ovs-vswitchd`.
    Netdev,
}

impl Datapath {
    /// The kernel's, where the module is there or can be loaded.
    pub async fn detect() -> Self {
        let module = Path::new("/sys/module/openvswitch");
        if !module.exists() {
            // Absent modprobe or module is the answer that is asked for.
            let _ = Command::new("modprobe")
                .args(["-q", "openvswitch"])
                .run()
                .await;
        }
        if module.exists() {
            Self::System
        } else {
            Self::Netdev
        }
    }

    /// Its name in Open vSwitch.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Netdev => "netdev",
        }
    }
}

/// A port as the switch has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// OpenFlow number; none while the device could not be opened.
    pub number: Option<u32>,
    /// Index of the kernel device when it was connected. The switch's own column follows the name: it shows the
    /// index of a device that was made again, while the switch still listens on the dead one.
    pub index: Option<u32>,
    /// The object that it is for, if it is ours.
    pub owner: Option<String>,
}

/// A port to add.
#[derive(Debug, Clone)]
pub struct NewPort {
    /// Name of the device.
    pub name: String,
    /// The object that it is for.
    pub owner: String,
    /// Interface settings, `column=value`.
    pub settings: Vec<String>,
}

/// Whether a daemon runs. One that has died and waits to be reaped does not.
fn alive(daemon: &str) -> bool {
    let pid = std::fs::read_to_string(format!("{RUN}/{daemon}.pid")).unwrap_or_default();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !pid.trim().is_empty() && stat.contains(&format!("({daemon}) ")) && !stat.contains(") Z ")
}

/// Makes sure that both daemons run; returns whether one had to be started.
pub async fn ensure_running() -> Result<bool> {
    if alive("ovsdb-server") && alive("ovs-vswitchd") {
        return Ok(false);
    }
    if Path::new("/run/systemd/system").exists()
        && Path::new("/usr/lib/systemd/system/openvswitch-switch.service").exists()
    {
        Command::new("systemctl")
            .args(["restart", "openvswitch-switch"])
            .limit(Duration::from_secs(60))
            .run()
            .await?;
        return Ok(true);
    }
    for directory in [RUN, LOG, "/etc/openvswitch"] {
        std::fs::create_dir_all(directory).map_err(|source| Error::File {
            path: directory.into(),
            source,
        })?;
    }
    let log = |name: &str| format!("--log-file={LOG}/{name}.log");
    if !alive("ovsdb-server") {
        if !Path::new(DATABASE).exists() {
            Command::new("ovsdb-tool")
                .args(["create", DATABASE, SCHEMA])
                .run()
                .await?;
        }
        let remote = format!("--remote=punix:{RUN}/db.sock");
        let pid = format!("--pidfile={RUN}/ovsdb-server.pid");
        Command::new("ovsdb-server")
            .args([
                DATABASE,
                &remote,
                &pid,
                "--overwrite-pidfile",
                "--detach",
                "--no-chdir",
                &log("ovsdb-server"),
            ])
            .run()
            .await?;
        Command::new("ovs-vsctl")
            .args(["--no-wait", "init"])
            .run()
            .await?;
    }
    if !alive("ovs-vswitchd") {
        let pid = format!("--pidfile={RUN}/ovs-vswitchd.pid");
        Command::new("ovs-vswitchd")
            .args([
                &pid,
                "--overwrite-pidfile",
                "--detach",
                "--no-chdir",
                &log("ovs-vswitchd"),
            ])
            .limit(Duration::from_secs(30))
            .run()
            .await?;
    }
    tracing::info!("started Open vSwitch");
    Ok(true)
}

/// Makes `br-int`: it forwards nothing that no flow says.
pub async fn ensure_bridge(datapath: Datapath) -> Result<()> {
    let kind = format!("datapath_type={}", datapath.name());
    let owner = format!("external_ids:{OWNER}=bridge");
    let options = [
        "fail_mode=secure",
        "other_config:disable-in-band=true",
        "mcast_snooping_enable=false",
    ];
    vsctl(
        [
            "--may-exist",
            "add-br",
            BRIDGE,
            "--",
            "set",
            "bridge",
            BRIDGE,
            &kind,
            &owner,
        ]
        .into_iter()
        .chain(options),
    )
    .await?;
    Ok(())
}

async fn vsctl<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<String> {
    Ok(Command::new("ovs-vsctl")
        .arg("--timeout=8")
        .args(args)
        .run()
        .await?)
}

#[derive(Deserialize)]
struct Listing {
    data: Vec<Vec<serde_json::Value>>,
}

/// Every port of the switch by name. Fails if the database does not answer.
pub async fn ports() -> Result<BTreeMap<String, Port>> {
    let text = vsctl([
        "--no-wait",
        "--format=json",
        "--columns=name,ofport,external_ids",
        "list",
        "Interface",
    ])
    .await?;
    read_ports(&text)
        .ok_or_else(|| Error::Switch(format!("ovs-vsctl printed what is not understood: {text}")))
}

fn read_ports(text: &str) -> Option<BTreeMap<String, Port>> {
    let listing: Listing = serde_json::from_str(text).ok()?;
    let port = |row: Vec<serde_json::Value>| {
        let [name, number, ids] = <[serde_json::Value; 3]>::try_from(row).ok()?;
        let number = number
            .as_i64()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0);
        let pairs = ids.get(1)?.as_array()?.clone();
        let id = |key: &str| {
            let pair = pairs.iter().find(|p| p[0] == key);
            pair.and_then(|p| p[1].as_str()).map(str::to_owned)
        };
        let index = id(INDEX).and_then(|i| i.parse().ok());
        let owner = id(OWNER);
        Some((
            name.as_str()?.to_owned(),
            Port {
                number,
                index,
                owner,
            },
        ))
    };
    listing.data.into_iter().map(port).collect()
}

/// Adds ports, and waits until the switch has them.
pub async fn add_ports(ports: &[NewPort]) -> Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    let mut args: Vec<String> = Vec::new();
    for port in ports {
        args.extend(
            [
                "--",
                "--may-exist",
                "add-port",
                BRIDGE,
                &port.name,
                "--",
                "set",
                "Interface",
                &port.name,
            ]
            .map(str::to_owned),
        );
        args.push(format!("external_ids:{OWNER}=\"{}\"", port.owner));
        args.extend(super::links::index(&port.name).map(|i| format!("external_ids:{INDEX}={i}")));
        args.extend(port.settings.iter().cloned());
    }
    vsctl(args.iter().map(String::as_str)).await?;
    Ok(())
}

/// Removes ports, and waits until the switch has let go of their devices.
pub async fn remove_ports(names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let args: Vec<&str> = names
        .iter()
        .flat_map(|n| ["--", "--if-exists", "del-port", BRIDGE, n])
        .collect();
    vsctl(args).await?;
    Ok(())
}

/// Every flow of the switch.
pub async fn flows() -> Result<Vec<Seen>> {
    let args = [
        "-O",
        "OpenFlow14",
        "--timeout=8",
        "--no-stats",
        "--no-names",
        "dump-flows",
        BRIDGE,
    ];
    let text = Command::new("ovs-ofctl").args(args).run().await?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Applies a change as one bundle: all of it or nothing.
pub async fn apply(change: &Change) -> Result<()> {
    let args = [
        "-O",
        "OpenFlow14",
        "--timeout=8",
        "--bundle",
        "add-flows",
        BRIDGE,
        "-",
    ];
    Command::new("ovs-ofctl")
        .args(args)
        .input(change.bundle())
        .run()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_with_its_owner_and_one_without_device_has_no_number() {
        let text = r#"{"data":[["skc1",2,["map",[["skysail","7/10.0.0.2"],["skysail-index","7"]]]],["skx7",-1,["map",[]]]],"headings":[]}"#;
        let ports = read_ports(text).unwrap();
        assert_eq!(
            ports["skc1"],
            Port {
                number: Some(2),
                index: Some(7),
                owner: Some("7/10.0.0.2".into())
            }
        );
        assert_eq!(
            ports["skx7"],
            Port {
                number: None,
                index: None,
                owner: None
            }
        );
    }
}
