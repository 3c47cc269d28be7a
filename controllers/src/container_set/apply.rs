//! Effects of the ContainerSet controller.

use super::plan::{self, Observed, Plan};
use crate::{Context, owner};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use skysail_reconcile::{
    Error, Made, Outcome, Reconciler, Steps, create_if_absent, delete_if_present, merge_diff,
    patch_meta,
};
use skysail_schemas::{Container, ContainerSet, ContainerSetStatus};
use std::sync::Arc;

pub(super) struct SetReconciler {
    pub context: Arc<Context>,
}

impl Reconciler for SetReconciler {
    type Kind = ContainerSet;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "container-set";
    const FINALIZER: Option<&'static str> = Some("skysail.dev/set");

    async fn observe(&self, set: &ContainerSet) -> Result<Observed, Error> {
        let (namespace, uid) = (set.namespace(), set.uid().unwrap_or_default());
        let prefix = format!("{}-", set.name_any());
        let mut containers = self.context.containers.list();
        containers.retain(|c| {
            c.namespace() == namespace
                && (owner::is_owned_by(&**c, &uid) || c.name_any().starts_with(&prefix))
        });
        Ok(containers)
    }

    fn plan(set: &ContainerSet, observed: &Observed, _now: Timestamp) -> Plan {
        plan::plan(set, observed)
    }

    async fn apply(&self, _set: &ContainerSet, plan: &Plan) -> Steps {
        let mut steps = Steps::default();
        for container in &plan.remove {
            steps
                .run(
                    format!("delete {}", container.name_any()),
                    delete_if_present(&self.context.client, &**container),
                )
                .await;
        }
        for (there, wish) in &plan.update {
            steps
                .run(
                    format!("update {}", there.name_any()),
                    self.update(there, wish),
                )
                .await;
        }
        for container in &plan.create {
            steps
                .run(
                    format!("create {}", container.name_any()),
                    self.create(container),
                )
                .await;
        }
        steps
    }

    fn status(
        set: &ContainerSet,
        observed: &Observed,
        _plan: &Plan,
        report: &Steps,
        now: Timestamp,
    ) -> Outcome<ContainerSetStatus> {
        plan::status(set, observed, report, now)
    }
}

impl SetReconciler {
    async fn create(&self, container: &Container) -> Result<(), Error> {
        let made = create_if_absent(&self.context.client, Self::NAME, container).await?;
        // Taken by a foreign one: the next turn sees it and says so.
        let (Made::New(there) | Made::Taken(there)) = made;
        self.context.containers.wrote(there);
        Ok(())
    }

    async fn update(&self, there: &Container, wish: &Container) -> Result<(), Error> {
        let value = |c: &Container| {
            serde_json::to_value(&c.spec).map_err(|e| Error::refused("Unwritable", e.to_string()))
        };
        let mut patch =
            json!({ "metadata": { "labels": wish.labels(), "annotations": wish.annotations() } });
        if let Some(diff) = merge_diff(&value(there)?, &value(wish)?) {
            patch["spec"] = diff;
        }
        let written = patch_meta(&self.context.client, Self::NAME, there, patch).await?;
        self.context.containers.wrote(written);
        Ok(())
    }
}
