//! The on-host daemon: makes what is bound to this host so, and keeps it running
//! while the control plane is away.
//!
//! It owns everything that precedes or outlives a container's processes: the
//! unpacked images, the overlay root, the user and network namespaces, the switch
//! ports. LXC only joins them. That is what lets a container be frozen here and
//! resumed on another host, and what lets the agent itself be killed and replaced
//! without a container noticing.

pub mod command;
pub mod network;
pub mod ports;
pub mod usage;

use std::path::PathBuf;

/// The version that the agent reports.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What an agent needs to know to start.
#[derive(Clone)]
pub struct Settings {
    /// The Host object that this machine is.
    pub host: String,
    /// Speaks to the API server with the host's own identity.
    pub client: kube::Client,
    /// Where images, layers and records live; must not be on an overlay.
    pub data_dir: PathBuf,
}
