//! Which of its two data paths Open vSwitch uses on this host, and what follows from it.

use crate::command::Command;
use std::path::Path;

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

    /// Whether checksums may be left to the devices: the userspace datapath would forward packets without one.
    pub fn offloads(self) -> bool {
        self == Self::System
    }
}
