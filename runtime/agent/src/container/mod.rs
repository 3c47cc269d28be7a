//! Containers of this host. Owner of: their records, layers, mounts, namespaces and
//! LXC containers, and of `phase`, `pid`, `startedAt`, `restarts`, `usage` and the
//! condition `Running` in their status.
//!
//! Invariants:
//! - A container runs here only while the API says that this host has it, at the
//!   newest epoch that was seen; turns of one container never overlap.
//! - What a turn needs to go on is on record before it is done, so an agent that is
//!   killed at any point goes on where it was, and never touches what runs.
//! - Two callers take turns: the reconcile loop, when the API changes, and the
//!   [`keeper`], when the host does. Both use the same plan, so a container is kept
//!   running while the control plane is away.

pub mod apply;
pub mod config;
pub mod files;
pub mod id;
pub mod idmap;
pub mod init;
pub mod keeper;
pub mod layer;
pub mod lxc;
pub mod mount;
pub mod paths;
pub mod plan;
pub mod record;
pub mod resize;
pub mod site;
pub mod status;
#[cfg(test)]
mod tests;

use apply::Report;
use jiff::Timestamp;
use plan::{Plan, Seen};
use record::{Desired, Id};
use site::{Site, Turn};
use skysail_reconcile::{Cache, Error, Outcome, Reconciler};
use skysail_schemas::container::{Container, ContainerStatus, ContainerUsage};
use skysail_schemas::{Port, PortSpec};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The reconciler of this host's containers.
pub struct Containers {
    site: Arc<Site>,
    ports: Arc<Cache<Port>>,
}

/// What one turn saw.
pub struct Observed {
    desired: Desired,
    seen: Seen,
    usage: Option<ContainerUsage>,
    /// Held from reading the world until the plan is done; given back before the API is told, which may be away.
    turn: Mutex<Option<Turn>>,
}

impl Containers {
    /// Containers of `site`, whose ports are in `ports`.
    pub fn new(site: Arc<Site>, ports: Arc<Cache<Port>>) -> Self {
        Self { site, ports }
    }

    /// What `container` should be here.
    pub fn desired(&self, container: &Container) -> Desired {
        let id = Id::of(container);
        let mine = |p: &&Arc<Port>| {
            p.metadata.namespace.as_deref() == Some(&id.namespace) && p.spec.container == id.name
        };
        let ports: Vec<PortSpec> = self
            .ports
            .list()
            .iter()
            .filter(mine)
            .map(|p| p.spec.clone())
            .collect();
        Desired::of(container, ports)
    }
}

impl Reconciler for Containers {
    type Kind = Container;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Report;

    const NAME: &'static str = "agent";
    const FINALIZER: Option<&'static str> = Some("skysail.dev/agent");
    const ADDS_FINALIZER: bool = false;

    fn resync(&self) -> Duration {
        Duration::from_secs(15)
    }

    async fn observe(&self, container: &Container) -> Result<Observed, Error> {
        let id = Id::of(container);
        let turn = self.site.turn(&id).await;
        let desired = self.desired(container);
        let seen = self.site.see(&id, &desired).await?;
        let usage = seen.process.and_then(|init| self.site.usage(&id, init));
        Ok(Observed {
            desired,
            seen,
            usage,
            turn: Mutex::new(Some(turn)),
        })
    }

    fn plan(_container: &Container, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(&observed.desired, &observed.seen, now)
    }

    async fn apply(&self, container: &Container, plan: &Plan) -> Report {
        apply::apply(
            &self.site,
            &Id::of(container),
            &self.desired(container),
            plan,
        )
        .await
    }

    fn status(
        container: &Container,
        observed: &Observed,
        plan: &Plan,
        report: &Report,
        now: Timestamp,
    ) -> Outcome<ContainerStatus> {
        drop(
            observed
                .turn
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        status::status(
            container,
            &observed.desired,
            &observed.seen,
            observed.usage.as_ref(),
            plan,
            report,
            now,
        )
    }
}
