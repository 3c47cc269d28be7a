//! Effects of rebalancing.

use super::plan::{self, Plan, Seen, Turn};
use super::signals::Signals;
use crate::Context;
use crate::placement::apply::{filled, objects};
use jiff::Timestamp;
use kube::ResourceExt;
use skysail_reconcile::{
    Error, Made, Next, Steps, Sweep, create_if_absent, get, publish, write_status,
};
use skysail_schemas::{Container, Migration};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often is looked, once there is a policy: use that does not change is not reported again.
const LOOK: Duration = Duration::from_secs(1);

pub(super) struct Rebalance {
    context: Arc<Context>,
    signals: Mutex<Signals>,
}

impl Rebalance {
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            signals: Mutex::default(),
        }
    }

    async fn turn(&self, turn: &Turn, steps: &mut Steps) {
        let name = turn.policy.name_any();
        let written = self.say(turn).await;
        let lost = written.is_err();
        let what = format!("say what is known of {name}");
        steps.run(what, async { written }).await;
        // Somebody else was first, or nobody knows: what was decided on this view is void.
        if lost {
            return;
        }
        for (container, migration) in &turn.make {
            let what = format!(
                "move {}/{}",
                container.namespace().unwrap_or_default(),
                container.name_any()
            );
            steps.run(what, self.make(container, migration)).await;
        }
        for note in &turn.notes {
            let now = Timestamp::now();
            publish(&self.context.client, Self::NAME, &*turn.policy, note, now).await;
        }
    }

    async fn say(&self, turn: &Turn) -> Result<(), Error> {
        let client = &self.context.client;
        if let Some(written) = write_status(client, Self::NAME, &*turn.policy, &turn.status).await?
        {
            self.context.rebalance_policies.wrote(written);
        }
        Ok(())
    }

    async fn make(&self, container: &Container, migration: &Migration) -> Result<(), Error> {
        let c = &self.context;
        let namespace = container.namespace();
        let name = container.name_any();
        let newest = get::<Container>(&c.client, namespace.as_deref(), &name).await?;
        if let Some(newest) = newest {
            c.containers.wrote(newest);
        }
        let good = plan::still_good(&objects(c), container, migration, Timestamp::now());
        good.map_err(|changed| Error::refused("WorldChanged", changed))?;
        let made = create_if_absent(&c.client, Self::NAME, migration).await?;
        let (Made::New(there) | Made::Taken(there)) = made;
        c.migrations.wrote(there);
        Ok(())
    }
}

impl Sweep for Rebalance {
    type View = Seen;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "rebalance";

    async fn observe(&self) -> Result<Seen, Error> {
        let c = &self.context;
        c.rebalance_policies.ready().await;
        let policies = c.rebalance_policies.list();
        if policies.is_empty() {
            return Ok(Seen::default());
        }
        filled(c).await;
        c.host_pools.ready().await;
        let objects = objects(c);
        let signals = {
            let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
            signals.observe(&objects, Timestamp::now());
            signals.clone()
        };
        Ok(Seen {
            policies,
            pools: c.host_pools.list(),
            objects,
            signals,
        })
    }

    fn plan(seen: &Seen, now: Timestamp) -> Plan {
        plan::plan(seen, now)
    }

    async fn apply(&self, _seen: &Seen, plan: &Plan) -> Steps {
        let mut steps = Steps::default();
        for turn in &plan.turns {
            self.turn(turn, &mut steps).await;
        }
        steps
    }

    fn next(seen: &Seen, _plan: &Plan, report: &Steps) -> Next {
        // Nothing tells when something has been so for long enough.
        let calm = if seen.policies.is_empty() {
            Next::OnChange
        } else {
            Next::After(LOOK)
        };
        report.next(calm)
    }
}
