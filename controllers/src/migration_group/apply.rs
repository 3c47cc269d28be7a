//! Effects of the MigrationGroup controller.

use super::plan::{self, Observed, Plan};
use crate::Context;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use skysail_reconcile::{
    Error, Made, Outcome, Reconciler, Steps, create_if_absent, delete_if_present, patch_meta,
};
use skysail_schemas::migration_group::MigrationGroupStatus;
use skysail_schemas::{Migration, MigrationGroup};
use std::sync::Arc;

pub(super) struct GroupReconciler {
    pub context: Arc<Context>,
}

impl Reconciler for GroupReconciler {
    type Kind = MigrationGroup;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "migration-group";

    async fn observe(&self, group: &MigrationGroup) -> Result<Observed, Error> {
        let c = &self.context;
        tokio::join!(c.containers.ready(), c.hosts.ready(), c.migrations.ready());
        let namespace = group.namespace();
        let mut containers = c.containers.list();
        containers.retain(|c| c.namespace() == namespace);
        let cloud = |h: Arc<skysail_schemas::Host>| Some((h.name_any(), h.spec.cloud.clone()?));
        Ok(Observed {
            containers,
            migrations: c.migrations.list(),
            clouds: c.hosts.list().into_iter().filter_map(cloud).collect(),
        })
    }

    fn plan(group: &MigrationGroup, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(group, observed, now)
    }

    async fn apply(&self, group: &MigrationGroup, plan: &Plan) -> Steps {
        let mut steps = Steps::default();
        for migration in &plan.cancel {
            let what = format!("cancel {}", migration.name_any());
            steps.run(what, self.cancel(migration)).await;
        }
        for migration in &plan.make {
            let what = format!("create {}", migration.name_any());
            steps.run(what, self.make(migration)).await;
        }
        if plan.expire {
            let delete = delete_if_present(&self.context.client, group);
            steps.run("delete what is long finished", delete).await;
        }
        steps
    }

    fn status(
        group: &MigrationGroup,
        _observed: &Observed,
        plan: &Plan,
        report: &Steps,
        now: Timestamp,
    ) -> Outcome<MigrationGroupStatus> {
        plan::status(group, plan, report, now)
    }
}

impl GroupReconciler {
    async fn make(&self, migration: &Migration) -> Result<(), Error> {
        let made = create_if_absent(&self.context.client, Self::NAME, migration).await?;
        // Taken by a foreign one: the next turn sees it and says so.
        let (Made::New(there) | Made::Taken(there)) = made;
        self.context.migrations.wrote(there);
        Ok(())
    }

    async fn cancel(&self, migration: &Migration) -> Result<(), Error> {
        let patch = json!({ "spec": { "cancel": true } });
        let written = patch_meta(&self.context.client, Self::NAME, migration, patch).await?;
        self.context.migrations.wrote(written);
        Ok(())
    }
}
