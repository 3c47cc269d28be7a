//! Effects of the Cloud controller.

use super::plan::{self, Observed, Plan};
use crate::Context;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde_json::json;
use skysail_clouds::Driver;
use skysail_reconcile::{Error, Outcome, Reconciler, Steps};
use skysail_schemas::{Cloud, CloudStatus, Host};
use std::sync::Arc;

pub(super) struct CloudReconciler {
    pub context: Arc<Context>,
}

impl CloudReconciler {
    fn driver(&self, cloud: &Cloud) -> Result<Box<dyn Driver>, Error> {
        crate::account::open(&self.context, cloud)
    }

    /// Machines whose Host certainly does not exist, and those of which their Host has another
    /// one that is there. A Host of that name keeps its machine, whatever cloud it is of: the
    /// machine may be what it was made from.
    async fn unowned(&self, machines: &[skysail_clouds::Machine]) -> Result<Vec<String>, Error> {
        let mut found = vec![];
        for machine in machines {
            let twins = machines.iter().filter(|m| m.name == machine.name);
            if twins.count() > 1 && self.is_spare(machine, machines).await? {
                found.push(machine.id.clone());
                continue;
            }
            let known = self.context.hosts.get(None, &machine.name).is_some();
            if !known
                && skysail_reconcile::get::<Host>(&self.context.client, None, &machine.name)
                    .await?
                    .is_none()
            {
                found.push(machine.id.clone());
            }
        }
        Ok(found)
    }

    /// Whether the Host of `machine` has written down that another of `machines` is its own.
    async fn is_spare(
        &self,
        machine: &skysail_clouds::Machine,
        machines: &[skysail_clouds::Machine],
    ) -> Result<bool, Error> {
        let host =
            skysail_reconcile::get::<Host>(&self.context.client, None, &machine.name).await?;
        let own = host.and_then(|h| h.status?.machine_id);
        let there = |id: &String| machines.iter().any(|m| m.id == *id);
        Ok(own.is_some_and(|own| own != machine.id && there(&own)))
    }
}

impl Reconciler for CloudReconciler {
    type Kind = Cloud;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "cloud";
    const FINALIZER: Option<&'static str> = Some("skysail.dev/cloud");

    async fn observe(&self, cloud: &Cloud) -> Result<Observed, Error> {
        let name = cloud.name_any();
        let mut hosts = self.context.hosts.list();
        hosts.retain(|h| h.spec.cloud.as_deref() == Some(&name));
        hosts.sort_by_key(|h| h.name_any());
        let mut types = self.context.machine_types.list();
        types.retain(|t| t.spec.cloud == name);
        let mut observed = Observed {
            hosts,
            types,
            ..Observed::default()
        };
        let asked = async {
            let driver = self.driver(cloud)?;
            let offers = driver
                .offers()
                .await
                .map_err(|e| crate::host::reaction(&e))?;
            let machines = driver.list().await.map_err(|e| crate::host::reaction(&e))?;
            Ok((offers, machines))
        };
        match asked.await {
            Ok((offers, machines)) => {
                observed.unowned = self.unowned(&machines).await?;
                (observed.offers, observed.machines) = (Some(Ok(offers)), machines);
            }
            Err(e) => observed.offers = Some(Err(e)),
        }
        Ok(observed)
    }

    fn plan(cloud: &Cloud, observed: &Observed, _now: Timestamp) -> Plan {
        plan::plan(cloud, observed)
    }

    async fn apply(&self, cloud: &Cloud, plan: &Plan) -> Steps {
        let mut steps = Steps::default();
        let client = &self.context.client;
        for wanted in &plan.create {
            let made = async {
                let made = skysail_reconcile::create_if_absent(client, Self::NAME, wanted).await?;
                self.context.machine_types.wrote(made.into_object());
                Ok(())
            };
            steps
                .run(format!("make MachineType {}", wanted.name_any()), made)
                .await;
        }
        for (there, spec) in &plan.update {
            let patch = json!({ "spec": spec });
            let changed = skysail_reconcile::patch_meta(client, Self::NAME, &**there, patch);
            if let Some(changed) = steps
                .run(format!("change MachineType {}", there.name_any()), changed)
                .await
            {
                self.context.machine_types.wrote(changed);
            }
        }
        for there in &plan.withdraw {
            steps
                .run(
                    format!("withdraw MachineType {}", there.name_any()),
                    skysail_reconcile::delete_if_present(client, &**there),
                )
                .await;
        }
        for id in &plan.reap {
            let given_back = async {
                self.driver(cloud)?
                    .delete(id)
                    .await
                    .map_err(|e| crate::host::reaction(&e))
            };
            steps
                .run(
                    format!("give back machine {id}, which has no Host"),
                    given_back,
                )
                .await;
        }
        if plan.retire {
            let retired = async {
                self.driver(cloud)?
                    .retire()
                    .await
                    .map_err(|e| crate::host::reaction(&e))
            };
            steps.run("remove the cloud's networks", retired).await;
        }
        steps
    }

    fn status(
        cloud: &Cloud,
        observed: &Observed,
        plan: &Plan,
        report: &Steps,
        now: Timestamp,
    ) -> Outcome<CloudStatus> {
        debug_assert!(!plan.retire || cloud.meta().deletion_timestamp.is_some());
        plan::status(cloud, observed, plan, report, now)
    }
}
