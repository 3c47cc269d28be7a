//! Open vSwitch: its daemons, `br-int`, its ports and its flows.

mod daemons;
mod openflow;
mod ovsdb;
pub mod wire;

use super::datapath::Datapath;
use super::error::Result;
use super::flow::{Meters, Seen};
use super::plan::{self, Program};
use crate::command::Command;
use openflow::OpenFlow;
use ovsdb::Database;
use std::collections::BTreeMap;

/// The one bridge.
pub const BRIDGE: &str = "br-int";
const RUN: &str = "/run/openvswitch";
const OWNER: &str = "skysail";

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
    /// Index of the kernel device; none for a port that the switch makes itself.
    pub index: Option<u32>,
    /// Kind of interface; empty for a device of the kernel.
    pub kind: &'static str,
    /// Its options.
    pub options: Vec<(&'static str, &'static str)>,
}

/// The switch of this host, with held connections to both daemons.
#[derive(Default)]
pub struct Switch {
    database: Database,
    bridge: OpenFlow,
    /// The ports as they were last read or changed; none when that is not known.
    ports: Option<BTreeMap<String, Port>>,
    /// What the bridge contained when it was last read or changed; none when that is not known.
    contents: Option<(Vec<Seen>, Meters)>,
}

impl Switch {
    /// Makes sure that both daemons run and that `br-int` is there.
    ///
    /// # Errors
    /// Open vSwitch is not installed or does not start.
    pub async fn ensure(&mut self, datapath: Datapath) -> Result<()> {
        let started = daemons::ensure_running().await?;
        if started {
            self.distrust();
        }
        let there = !started && self.ports().await.is_ok_and(|p| p.contains_key(BRIDGE));
        if !there {
            self.contents = None;
            self.distrust();
            daemons::ensure_running().await?;
            ensure_bridge(datapath).await?;
        }
        Ok(())
    }

    /// Every port of the switch by name, as far as only we change them; [`Switch::distrust`] has them read anew. Fails
    /// if the database does not answer.
    pub async fn ports(&mut self) -> Result<BTreeMap<String, Port>> {
        if let Some(ports) = &self.ports {
            return Ok(ports.clone());
        }
        let ports = self.database.ports().await?;
        self.ports = Some(ports.clone());
        Ok(ports)
    }

    /// Somebody else may have changed the ports.
    pub fn distrust(&mut self) {
        self.ports = None;
    }

    /// Adds ports, and waits until the switch has them.
    pub async fn add_ports(&mut self, ports: &[NewPort]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        self.distrust();
        self.database.add(ports).await
    }

    /// Removes ports, and waits until the switch has let go of their devices.
    pub async fn remove_ports(&mut self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        self.distrust();
        self.database.remove(names).await
    }

    /// Makes the bridge contain `program`. `look` compares with what it really contains, otherwise with what it
    /// contained last: an own change needs no look. Returns how many flows and meters were changed.
    pub async fn program(&mut self, program: &Program, look: bool) -> Result<usize> {
        if let Some((seen, meters)) = self.contents.take().filter(|_| !look)
            && let Ok(changed) = self.change(program, seen, &meters).await
        {
            return Ok(changed);
        }
        let (seen, meters) = self.look().await?;
        self.change(program, seen, &meters).await
    }

    async fn change(
        &mut self,
        program: &Program,
        seen: Vec<Seen>,
        meters: &Meters,
    ) -> Result<usize> {
        let change = plan::change(program, &seen, meters);
        if !change.is_empty() {
            tracing::debug!(
                add = change.add.len(),
                remove = change.remove.len(),
                "flows"
            );
            self.bridge.apply(&change).await?;
        }
        self.contents = Some((plan::after(program, seen), program.meters.clone()));
        Ok(change.len())
    }

    async fn look(&mut self) -> Result<(Vec<Seen>, Meters)> {
        // The first use of a connection that the switch has closed fails; the second makes a new one.
        let flows = match self.bridge.flows().await {
            Ok(flows) => flows,
            Err(_) => self.bridge.flows().await?,
        };
        Ok((flows, self.bridge.meters().await?))
    }

    /// How many meters the datapath can have; none means that it cannot limit.
    pub async fn meter_count(&mut self) -> Result<u32> {
        self.bridge.meter_count().await
    }
}

/// Makes `br-int`: it forwards nothing that no flow says.
async fn ensure_bridge(datapath: Datapath) -> Result<()> {
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
