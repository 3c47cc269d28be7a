//! The host's part of the tenants' networks: one Open vSwitch bridge, `br-int`, whose
//! flows are computed from Ports and repaired whenever they differ.
//!
//! Owner: everything on this host that is named `br-int` or begins with `sk` followed by
//! `c` (containers), `s` (services), `t` (transit) or `x` (tunnels), the namespaces `sky-svc-<vni>` and the
//! nftables table `skysail`. Nothing else is touched; the host's uplink stays in the kernel,
//! so that management does not depend on the switch.

mod datapath;
mod devices;
mod dns;
mod error;
mod flow;
pub(crate) mod links;
mod netlink;
pub(crate) mod netns;
mod plan;
mod plane;
mod policy;
mod record;
mod registers;
mod service;
mod switch;
mod tables;
#[cfg(test)]
mod tests;
mod trouble;
mod watch;

pub use error::{Error, Result};

use crate::ports::{PortError, PortPlane};
use datapath::Datapath;
use plane::{Plane, Request, Tenants};
use skysail_schemas::PortSpec;
use skysail_schemas::quantity::Bandwidth;
use skysail_schemas::security_policy::ProgrammedPolicy;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch::Receiver;
use tokio::sync::{mpsc, oneshot};
use trouble::Troubles;

/// The name of a table of the pipeline, for people.
pub fn table_name(number: u8) -> Option<String> {
    let table = tables::Table::from_number(number)?;
    Some(format!("{table:?}").to_lowercase())
}

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

/// The host's network. Cheap to clone; it follows and repairs until the last clone is dropped.
#[derive(Clone)]
pub struct NetworkPlane {
    requests: mpsc::Sender<Request>,
    datapath: Datapath,
    limits: bool,
    tenants: Arc<Tenants>,
    programmed: Receiver<Vec<ProgrammedPolicy>>,
    troubles: Arc<Troubles>,
}

impl NetworkPlane {
    /// Makes sure that the switch runs, adopts what exists and starts to follow Ports. Works without the API server.
    ///
    /// # Errors
    /// If Open vSwitch is not installed or does not start.
    pub async fn start(settings: Settings, client: kube::Client) -> Result<Self> {
        let datapath = Datapath::detect().await;
        let plane = Plane::prepare(settings, client, datapath).await?;
        let (tenants, programmed) = (plane.tenants(), plane.programmed());
        let (limits, troubles) = (plane.can_limit(), plane.troubles());
        let (requests, received) = mpsc::channel(64);
        tokio::spawn(plane.run(received));
        Ok(Self {
            requests,
            datapath,
            limits,
            tenants,
            programmed,
            troubles,
        })
    }

    /// Gives a container its interfaces in the network namespace mounted at `netns`, which together carry at
    /// most `bandwidth` in each direction.
    /// Idempotent; returns when the flows are programmed, with all that the tenant's policies asked for when this was
    /// called.
    ///
    /// # Errors
    /// If the namespace is not there or the switch does not take the ports; ask again.
    pub async fn attach(
        &self,
        netns: &Path,
        ports: &[PortSpec],
        bandwidth: Option<Bandwidth>,
    ) -> Result<()> {
        let tenants = ports.iter().map(|p| p.namespace.clone()).collect();
        self.tenants.settle(tenants).await;
        self.ask(|reply| Request::Attach {
            netns: netns.to_owned(),
            ports: ports.to_vec(),
            bandwidth,
            reply,
        })
        .await
    }

    /// Takes interfaces away. Succeeds if there are none.
    ///
    /// # Errors
    /// If the switch does not answer; they go as soon as it does.
    pub async fn detach(&self, ports: &[PortSpec]) -> Result<()> {
        self.ask(|reply| Request::Detach {
            ports: ports.to_vec(),
            reply,
        })
        .await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<()>>) -> Request,
    ) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}

#[async_trait::async_trait]
impl PortPlane for NetworkPlane {
    async fn attach(
        &self,
        netns: &Path,
        ports: &[PortSpec],
        bandwidth: Option<Bandwidth>,
    ) -> Result<(), PortError> {
        NetworkPlane::attach(self, netns, ports, bandwidth)
            .await
            .map_err(|e| PortError(e.to_string()))
    }

    async fn detach(&self, ports: &[PortSpec]) -> Result<(), PortError> {
        NetworkPlane::detach(self, ports)
            .await
            .map_err(|e| PortError(e.to_string()))
    }

    fn trouble(&self, ports: &[PortSpec]) -> Option<String> {
        self.troubles.with(ports, std::time::Instant::now())
    }

    fn limits_bandwidth(&self) -> bool {
        self.limits
    }

    fn datapath(&self) -> Option<String> {
        Some(self.datapath.name().to_owned())
    }

    fn policies(&self) -> Receiver<Vec<ProgrammedPolicy>> {
        self.programmed.clone()
    }
}
