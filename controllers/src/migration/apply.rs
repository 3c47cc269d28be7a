//! Effects of the Migration controller.

use super::plan::{self, Observed, Plan};
use crate::Context;
use crate::placement::apply::objects;
use crate::placement::snapshot::Snapshot;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use skysail_reconcile::{Error, Outcome, Reconciler, Steps, delete_if_present, patch_meta};
use skysail_schemas::Migration;
use skysail_schemas::migration::{MIGRATION_FINALIZER, MigrationStatus};
use std::sync::Arc;

pub(super) struct MigrationReconciler {
    pub context: Arc<Context>,
}

impl Reconciler for MigrationReconciler {
    type Kind = Migration;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "migration";
    const FINALIZER: Option<&'static str> = Some(MIGRATION_FINALIZER);

    async fn observe(&self, migration: &Migration) -> Result<Observed, Error> {
        let c = &self.context;
        tokio::join!(c.containers.ready(), c.hosts.ready(), c.migrations.ready());
        let namespace = migration.namespace();
        let name = &migration.spec.container;
        let status = migration.status.clone().unwrap_or_default();
        let host = |name: Option<&String>| name.and_then(|h| c.hosts.get(None, h));
        let others = c.migrations.list().into_iter().filter(|m| {
            m.namespace() == namespace && m.spec.container == *name && m.uid() != migration.uid()
        });
        let container = c.containers.get(namespace.as_deref(), name);
        let mut observed = Observed {
            others: others.collect(),
            source: host(status.source.as_ref()),
            target: host(status.target.as_ref()),
            ..Observed::default()
        };
        if status.source.is_none() && !plan::is_finished(migration) {
            tokio::join!(
                c.instance_types.ready(),
                c.clouds.ready(),
                c.machine_types.ready(),
                c.container_sets.ready(),
                c.images.ready(),
                c.namespaces.ready()
            );
            let on = container.as_ref().and_then(|c| c.status.as_ref());
            observed.source = host(on.and_then(|s| s.host.as_ref()));
            observed.hosts = c.hosts.list();
            observed.snapshot = Some(self.snapshot());
            observed.busy = plan::busy(&c.migrations.list());
        }
        observed.container = container;
        Ok(observed)
    }

    fn plan(migration: &Migration, observed: &Observed, now: Timestamp) -> Plan {
        plan::plan(migration, observed, now)
    }

    async fn apply(&self, migration: &Migration, plan: &Plan) -> Steps {
        let mut steps = Steps::default();
        match plan {
            Plan::Expire => {
                let delete = delete_if_present(&self.context.client, migration);
                steps.run("delete what is long finished", delete).await;
            }
            Plan::Cancel(_) => {
                let patch = json!({ "spec": { "cancel": true } });
                let cancel = patch_meta(&self.context.client, Self::NAME, migration, patch);
                if let Some(written) = steps.run("cancel it", cancel).await {
                    self.context.migrations.wrote(written);
                }
            }
            _ => {}
        }
        steps
    }

    fn status(
        migration: &Migration,
        _observed: &Observed,
        plan: &Plan,
        report: &Steps,
        now: Timestamp,
    ) -> Outcome<MigrationStatus> {
        plan::status(migration, plan, report, now)
    }
}

impl MigrationReconciler {
    fn snapshot(&self) -> Snapshot {
        Snapshot::new(objects(&self.context), Timestamp::now())
    }
}
