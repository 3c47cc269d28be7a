//! The host's part of the tenants' networks: one Open vSwitch bridge, `br-int`, whose
//! flows are computed from Ports and repaired whenever they differ.
//!
//! Owner: everything on this host that is named `br-int` or begins with `sk` followed by
//! `c` (containers), `s` (services), `t` (transit) or `x` (tunnels), the namespaces `sky-svc-<vni>` and the
//! nftables table `skysail`. Nothing else is touched; the host's uplink stays in the kernel,
//! so that management does not depend on the switch.

mod error;

pub use error::{Error, Result};

use crate::ports::{PortError, PortPlane};
use skysail_schemas::PortSpec;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What the plane must know of the host it is on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the Host.
    pub host: String,
    /// The Host's Cloud: peers of the same cloud are reached by their internal address.
    pub cloud: Option<String>,
    /// Address of this host inside its cloud; decides the device and the MTU of the overlay.
    pub internal: Option<IpAddr>,
    /// Address of this host for other clouds, if it differs.
    pub external: Option<IpAddr>,
    /// Addresses that no container may reach through egress, beside the host's own: the API server's.
    pub protected: Vec<IpAddr>,
    /// Directory whose content may vanish with a restart of the host, for example `/run/skysail`.
    pub run_dir: PathBuf,
    /// Directory whose content stays, for example `/var/lib/skysail`: last known Ports are kept there.
    pub data_dir: PathBuf,
}

/// The host's network. Cheap to clone; it lives until the last clone is dropped.
#[derive(Clone)]
pub struct NetworkPlane;

impl NetworkPlane {
    /// Makes sure that the switch runs, adopts what exists and starts to follow Ports.
    pub async fn start(_settings: Settings, _client: kube::Client) -> Result<Self> {
        Ok(Self)
    }

    /// Gives a container its interfaces in the network namespace mounted at `netns`.
    /// Idempotent; returns when the flows are programmed.
    pub async fn attach(&self, _netns: &Path, _ports: &[PortSpec]) -> Result<()> {
        Err(Error::Stopped)
    }

    /// Takes interfaces away. Succeeds if there are none.
    pub async fn detach(&self, _ports: &[PortSpec]) -> Result<()> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl PortPlane for NetworkPlane {
    async fn attach(&self, netns: &Path, ports: &[PortSpec]) -> Result<(), PortError> {
        NetworkPlane::attach(self, netns, ports)
            .await
            .map_err(|e| PortError(e.to_string()))
    }

    async fn detach(&self, ports: &[PortSpec]) -> Result<(), PortError> {
        NetworkPlane::detach(self, ports)
            .await
            .map_err(|e| PortError(e.to_string()))
    }
}
