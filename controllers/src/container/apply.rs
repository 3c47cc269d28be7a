//! Effects of the Container controller.

use super::claim::Addresses;
use super::plan::{self, Observed, Plan};
use crate::{Context, owner};
use jiff::Timestamp;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use skysail_reconcile::{
    Error, Made, Next, Outcome, Reconciler, Steps, Sweep, create_if_absent, delete_if_present, get,
    merge_diff, patch_meta,
};
use skysail_schemas::container::NETWORK_FINALIZER;
use skysail_schemas::{Container, ContainerStatus, Network, Port, PortSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) struct ContainerReconciler {
    pub context: Arc<Context>,
}

impl Reconciler for ContainerReconciler {
    type Kind = Container;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "container";
    const FINALIZER: Option<&'static str> = Some(NETWORK_FINALIZER);

    async fn observe(&self, container: &Container) -> Result<Observed, Error> {
        let (namespace, uid) = (container.namespace(), container.uid().unwrap_or_default());
        let context = &self.context;
        let host = container.status.as_ref().and_then(|s| s.host.as_deref());
        let mut observed = Observed {
            host: host.and_then(|h| context.hosts.get(None, h)),
            ..Observed::default()
        };
        for wish in &container.spec.networks {
            if let Some(network) = context.networks.get(namespace.as_deref(), &wish.name) {
                observed.networks.insert(wish.name.clone(), network);
                observed
                    .addresses
                    .insert(wish.name.clone(), Addresses::default());
            }
        }
        let ports: Vec<_> = context
            .ports
            .list()
            .into_iter()
            .filter(|p| p.namespace() == namespace)
            .collect();
        for port in &ports {
            if owner::is_owned_by(&**port, &uid) {
                observed.ports.push(port.clone());
            } else if let Some(addresses) = observed.addresses.get_mut(&port.spec.network) {
                addresses
                    .taken
                    .insert(port.spec.address, port.spec.container.clone());
            }
        }
        // Who has all its addresses needs not know of those that others ask for.
        if observed.ports.len() < container.spec.networks.len() {
            self.others(container, &ports, &mut observed.addresses);
        }
        Ok(observed)
    }

    fn plan(container: &Container, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(container, observed, now)
    }

    async fn apply(&self, _container: &Container, plan: &Plan) -> Steps {
        let mut steps = Steps::default();
        for port in &plan.release {
            steps
                .run(
                    format!("give back {}", port.name_any()),
                    release(&self.context.client, port),
                )
                .await;
        }
        for (port, wanted) in &plan.update {
            steps
                .run(
                    format!("update Port {}", port.name_any()),
                    self.update(port, wanted),
                )
                .await;
        }
        for port in &plan.claim {
            steps
                .run(format!("claim {}", port.name_any()), self.claim(port))
                .await;
        }
        steps
    }

    fn status(
        container: &Container,
        observed: &Observed,
        plan: &Plan,
        report: &Steps,
        now: Timestamp,
    ) -> Outcome<ContainerStatus> {
        plan::status(container, observed, plan, report, now)
    }
}

impl ContainerReconciler {
    /// Adds what the other Containers of the namespace ask and wait for.
    fn others(
        &self,
        container: &Container,
        ports: &[Arc<Port>],
        addresses: &mut BTreeMap<String, Addresses>,
    ) {
        let age = |c: &Container| (c.creation_timestamp().map(|t| t.0), c.name_any());
        let (namespace, mine) = (container.namespace(), age(container));
        let has: BTreeSet<(&str, &str)> = ports
            .iter()
            .map(|p| (p.spec.network.as_str(), p.spec.container.as_str()))
            .collect();
        let all = self.context.containers.list();
        for other in all
            .iter()
            .filter(|c| c.namespace() == namespace && c.uid() != container.uid())
        {
            let name = other.name_any();
            let ahead = plan::may_claim(other) && age(other) < mine;
            for wish in &other.spec.networks {
                let Some(addresses) = addresses.get_mut(&wish.name) else {
                    continue;
                };
                match wish.address {
                    Some(address) => {
                        addresses.asked_for.insert(address);
                    }
                    None if ahead && !has.contains(&(wish.name.as_str(), name.as_str())) => {
                        addresses.ahead += 1
                    }
                    None => {}
                }
            }
        }
    }

    async fn claim(&self, port: &Port) -> Result<(), Error> {
        let client = &self.context.client;
        let (own, there) = match create_if_absent(client, Self::NAME, port).await? {
            Made::New(made) => (true, made),
            // An answer that was lost, or somebody else's claim.
            Made::Taken(there) => (
                there.metadata.owner_references == port.metadata.owner_references,
                there,
            ),
        };
        self.context.ports.wrote(there.clone());
        if !own {
            return Err(Error::Conflict(format!(
                "{} was taken by Container {:?} a moment ago",
                port.name_any(),
                there.spec.container
            )));
        }
        // The Network may have been deleted between our look and our claim; it goes only while no Port is there.
        let network =
            get::<Network>(client, port.namespace().as_deref(), &port.spec.network).await?;
        if network.is_none_or(|n| n.meta().deletion_timestamp.is_some()) {
            release(client, &there).await?;
            return Err(Error::Conflict(format!(
                "Network {:?} was deleted a moment ago",
                port.spec.network
            )));
        }
        Ok(())
    }

    async fn update(&self, port: &Port, wanted: &PortSpec) -> Result<(), Error> {
        let value = |spec: &PortSpec| {
            serde_json::to_value(spec).map_err(|e| Error::refused("Unwritable", e.to_string()))
        };
        if let Some(diff) = merge_diff(&value(&port.spec)?, &value(wanted)?) {
            let written = patch_meta(
                &self.context.client,
                Self::NAME,
                port,
                json!({ "spec": diff }),
            )
            .await?;
            self.context.ports.wrote(written);
        }
        Ok(())
    }
}

/// Gives an address back. The Port's own finalizer goes first: it only keeps a deletion of
/// the Container "in the foreground" from taking the address from under a running host.
async fn release(client: &Client, port: &Port) -> Result<(), Error> {
    if !port.finalizers().is_empty() {
        let none = json!({ "metadata": { "finalizers": null } });
        match patch_meta(client, ContainerReconciler::NAME, port, none).await {
            Ok(_) => {}
            Err(Error::Refused { reason, .. }) if reason == "NotFound" => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    delete_if_present(client, port).await
}

/// Gives back the addresses of Containers that are gone.
pub(super) struct PortReaper {
    pub context: Arc<Context>,
}

impl Sweep for PortReaper {
    type View = Vec<Arc<Port>>;
    type Plan = Vec<Arc<Port>>;
    type Report = Steps;
    const NAME: &'static str = "container-reaper";

    async fn observe(&self) -> Result<Self::View, Error> {
        tokio::join!(self.context.containers.ready(), self.context.ports.ready());
        Ok(plan::orphans(
            &self.context.ports.list(),
            &self.context.containers.list(),
        ))
    }

    fn plan(orphans: &Self::View, _now: Timestamp) -> Self::Plan {
        orphans.clone()
    }

    async fn apply(&self, _view: &Self::View, orphans: &Self::Plan) -> Steps {
        let mut steps = Steps::default();
        for port in orphans {
            steps
                .run(format!("reap {}", port.name_any()), self.reap(port))
                .await;
        }
        steps
    }

    fn next(_view: &Self::View, _plan: &Self::Plan, report: &Steps) -> Next {
        report.next(Next::OnChange)
    }
}

impl PortReaper {
    /// The cache may lag behind, so the owner is asked for before its claim goes.
    async fn reap(&self, port: &Port) -> Result<(), Error> {
        let owner = get::<Container>(
            &self.context.client,
            port.namespace().as_deref(),
            &port.spec.container,
        )
        .await?;
        if owner
            .and_then(|c| c.uid())
            .is_some_and(|uid| owner::is_owned_by(port, &uid))
        {
            return Ok(());
        }
        release(&self.context.client, port).await
    }
}
