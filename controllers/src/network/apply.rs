//! Effects of the Network controller.

use super::plan::{self, Observed, Plan};
use crate::{Context, owner};
use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use skysail_reconcile::{
    Error, Made, Next, Outcome, Reconciler, Steps, Sweep, create_if_absent, delete_if_present, get,
};
use skysail_schemas::{Network, NetworkStatus, Port, Segment};
use std::sync::Arc;

pub(super) struct NetworkReconciler {
    pub context: Arc<Context>,
}

impl Reconciler for NetworkReconciler {
    type Kind = Network;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "network";
    const FINALIZER: Option<&'static str> = Some("skysail.dev/segment");

    async fn observe(&self, network: &Network) -> Result<Observed, Error> {
        let uid = network.uid().unwrap_or_default();
        let segments = self.context.segments.list();
        Ok(Observed {
            own: segments
                .iter()
                .filter(|s| s.spec.network_uid == uid)
                .cloned()
                .collect(),
            taken: segments.iter().map(|s| s.spec.vni).collect(),
            ports: owner::ports_on(&self.context.ports, network),
        })
    }

    fn plan(network: &Network, observed: &Observed, _now: Timestamp) -> Plan {
        plan::plan(network, observed)
    }

    async fn apply(&self, _network: &Network, plan: &Plan) -> Steps {
        let mut steps = Steps::default();
        for segment in &plan.release {
            steps
                .run(
                    format!("give back VNI {}", segment.spec.vni),
                    self.release(segment),
                )
                .await;
        }
        if let Some(claim) = &plan.claim {
            steps
                .run(format!("claim VNI {}", claim.spec.vni), self.claim(claim))
                .await;
        }
        steps
    }

    fn status(
        network: &Network,
        observed: &Observed,
        plan: &Plan,
        report: &Steps,
        now: Timestamp,
    ) -> Outcome<NetworkStatus> {
        plan::status(network, observed, plan, report, now)
    }
}

impl NetworkReconciler {
    /// The cache may lag behind, so the server is asked whether a Port still carries the number.
    /// Whoever makes a Port later sees the Network's deletion mark and takes it back.
    async fn release(&self, segment: &Segment) -> Result<(), Error> {
        let carriers = ListParams::default()
            .fields(&format!("spec.vni={}", segment.spec.vni))
            .limit(1);
        if let Some(port) = Api::<Port>::all(self.context.client.clone())
            .list(&carriers)
            .await?
            .items
            .first()
        {
            return Err(Error::Conflict(format!(
                "Port {} still carries VNI {}",
                port.name_any(),
                segment.spec.vni
            )));
        }
        delete_if_present(&self.context.client, segment).await
    }

    async fn claim(&self, segment: &Segment) -> Result<(), Error> {
        let made = create_if_absent(&self.context.client, Self::NAME, segment).await?;
        let (own, segment) = match made {
            Made::New(segment) => (true, segment),
            // An answer that was lost, or somebody else's claim.
            Made::Taken(there) => (there.spec.network_uid == segment.spec.network_uid, there),
        };
        let vni = segment.spec.vni;
        self.context.segments.wrote(segment);
        if own {
            Ok(())
        } else {
            Err(Error::Conflict(format!(
                "VNI {vni} was taken by another Network a moment ago"
            )))
        }
    }
}

/// Gives back the claims of Networks that are gone.
pub(super) struct SegmentReaper {
    pub context: Arc<Context>,
}

impl Sweep for SegmentReaper {
    type View = Vec<Arc<Segment>>;
    type Plan = Vec<Arc<Segment>>;
    type Report = Steps;
    const NAME: &'static str = "network-reaper";

    async fn observe(&self) -> Result<Self::View, Error> {
        let context = &self.context;
        tokio::join!(
            context.networks.ready(),
            context.ports.ready(),
            context.segments.ready()
        );
        Ok(plan::orphans(
            &context.segments.list(),
            &context.networks.list(),
            &context.ports.list(),
        ))
    }

    fn plan(orphans: &Self::View, _now: Timestamp) -> Self::Plan {
        orphans.clone()
    }

    async fn apply(&self, _view: &Self::View, orphans: &Self::Plan) -> Steps {
        let mut steps = Steps::default();
        for segment in orphans {
            steps
                .run(format!("reap VNI {}", segment.spec.vni), self.reap(segment))
                .await;
        }
        steps
    }

    fn next(_view: &Self::View, _plan: &Self::Plan, report: &Steps) -> Next {
        report.next(Next::OnChange)
    }
}

impl SegmentReaper {
    /// The cache may lag behind, so the owner is asked for before its claim goes.
    async fn reap(&self, segment: &Segment) -> Result<(), Error> {
        let owner = get::<Network>(
            &self.context.client,
            Some(&segment.spec.namespace),
            &segment.spec.network,
        )
        .await?;
        if owner.is_some_and(|n| n.uid().as_deref() == Some(segment.spec.network_uid.as_str())) {
            return Ok(());
        }
        delete_if_present(&self.context.client, segment).await
    }
}
