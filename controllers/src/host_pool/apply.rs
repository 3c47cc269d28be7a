//! Effects of pools.

use super::plan::{self, LEAVING, Plan, Seen};
use crate::Context;
use crate::placement::apply::{filled, objects};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use skysail_reconcile::{
    Error, Made, Next, Steps, Sweep, create_if_absent, delete_if_present, patch_meta, write_status,
};
use skysail_schemas::{Host, HostPool};
use std::sync::Arc;
use std::time::Duration;

/// How often is looked whether an empty Host is to go.
const LOOK: Duration = Duration::from_secs(10);

pub(super) struct Pools {
    context: Arc<Context>,
}

impl Pools {
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    async fn create(&self, host: &Host) -> Result<(), Error> {
        let made = create_if_absent(&self.context.client, Self::NAME, host).await?;
        // Taken by somebody else meanwhile: the next turn sees it and takes another number.
        let (Made::New(there) | Made::Taken(there)) = made;
        self.context.hosts.wrote(there);
        Ok(())
    }

    async fn cordon(&self, host: &Host, closed: bool) -> Result<(), Error> {
        let mark = if closed { json!("true") } else { json!(null) };
        let patch = json!({
            "metadata": { "annotations": { LEAVING: mark } },
            "spec": { "unschedulable": closed }
        });
        let written = patch_meta(&self.context.client, Self::NAME, host, patch).await?;
        self.context.hosts.wrote(written);
        Ok(())
    }

    async fn say(
        &self,
        pool: &HostPool,
        status: &skysail_schemas::host_pool::HostPoolStatus,
    ) -> Result<(), Error> {
        if let Some(written) = write_status(&self.context.client, Self::NAME, pool, status).await? {
            self.context.host_pools.wrote(written);
        }
        Ok(())
    }
}

impl Sweep for Pools {
    type View = Seen;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "host-pool";

    async fn observe(&self) -> Result<Seen, Error> {
        let c = &self.context;
        c.host_pools.ready().await;
        let pools = c.host_pools.list();
        if pools.is_empty() {
            return Ok(Seen::default());
        }
        filled(c).await;
        Ok(Seen {
            pools,
            objects: objects(c),
        })
    }

    fn plan(seen: &Seen, now: Timestamp) -> Plan {
        plan::plan(seen, now)
    }

    async fn apply(&self, _seen: &Seen, plan: &Plan) -> Steps {
        let mut steps = Steps::default();
        for (host, closed) in &plan.cordon {
            let word = if *closed { "cordon" } else { "uncordon" };
            let what = format!("{word} {}", host.name_any());
            steps.run(what, self.cordon(host, *closed)).await;
        }
        for host in &plan.remove {
            let what = format!("give back {}", host.name_any());
            steps
                .run(what, delete_if_present(&self.context.client, &**host))
                .await;
        }
        for host in &plan.create {
            let what = format!("buy {}", host.name_any());
            steps.run(what, self.create(host)).await;
        }
        for (pool, status) in &plan.status {
            let what = format!("say what is known of {}", pool.name_any());
            steps.run(what, self.say(pool, status)).await;
        }
        steps
    }

    fn next(seen: &Seen, _plan: &Plan, report: &Steps) -> Next {
        // Nothing tells when a Host has been empty long enough.
        let calm = if seen.pools.is_empty() {
            Next::OnChange
        } else {
            Next::After(LOOK)
        };
        report.next(calm)
    }
}
