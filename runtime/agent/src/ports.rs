//! The seam between containers and the switch.

use skysail_schemas::PortSpec;
use skysail_schemas::quantity::Bandwidth;
use skysail_schemas::security_policy::ProgrammedPolicy;
use std::path::Path;
use tokio::sync::watch;

/// Why a port could not be attached or detached.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

/// Gives a container's network namespace its interfaces.
#[async_trait::async_trait]
pub trait PortPlane: Send + Sync + 'static {
    /// Makes eth0, eth1, … (by `PortSpec::interface`) in the namespace at `netns`, with address, MAC, MTU,
    /// route and link up, loopback too, and connects them to the switch. Idempotent: what is there already and
    /// right is left alone. All ports together carry at most `bandwidth` in each direction; none is no limit.
    async fn attach(
        &self,
        netns: &Path,
        ports: &[PortSpec],
        bandwidth: Option<Bandwidth>,
    ) -> Result<(), PortError>;

    /// Takes the ports off the switch and deletes their interfaces. Fine if they are absent.
    async fn detach(&self, ports: &[PortSpec]) -> Result<(), PortError>;

    /// What is wrong, for more than a moment, with ports that were attached; none while they are as they must be.
    fn trouble(&self, _ports: &[PortSpec]) -> Option<String> {
        None
    }

    /// Whether the switch can keep a bandwidth limit.
    fn limits_bandwidth(&self) -> bool {
        true
    }

    /// Open vSwitch datapath in use: `system` or `netdev`; none while it is not known.
    fn datapath(&self) -> Option<String> {
        None
    }

    /// The security policies that are in the switch. A plane that has none never tells of any.
    fn policies(&self) -> watch::Receiver<Vec<ProgrammedPolicy>> {
        watch::channel(Vec::new()).1
    }
}
