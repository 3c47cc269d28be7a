//! Open vSwitch's two daemons.

use super::RUN;
use crate::command::Command;
use crate::network::error::{Error, Result};
use std::path::Path;
use std::time::Duration;

const LOG: &str = "/var/log/openvswitch";
const DATABASE: &str = "/etc/openvswitch/conf.db";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

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
