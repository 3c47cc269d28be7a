//! Containers that are being deleted and whose host is gone for good: nobody is left
//! to remove what is on it, and nothing is, so their agent's finalizer is released.

use crate::Context;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde_json::json;
use skysail_reconcile::{Error, Next, Steps, Sweep};
use skysail_schemas::{Container, Host, container::AGENT_FINALIZER};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The sweep.
pub struct Orphans {
    pub(super) context: Arc<Context>,
}

/// What was seen.
pub struct View {
    /// Containers.
    pub containers: Vec<Arc<Container>>,
    /// Hosts that exist.
    pub hosts: BTreeSet<String>,
}

/// The containers to release.
pub fn orphans(view: &View) -> Vec<Arc<Container>> {
    let gone = |c: &&Arc<Container>| {
        c.status
            .as_ref()
            .and_then(|s| s.host.as_ref())
            .is_some_and(|h| !view.hosts.contains(h))
    };
    let held = |c: &&Arc<Container>| {
        c.meta().deletion_timestamp.is_some() && c.finalizers().iter().any(|f| f == AGENT_FINALIZER)
    };
    view.containers
        .iter()
        .filter(held)
        .filter(gone)
        .cloned()
        .collect()
}

impl Sweep for Orphans {
    type View = View;
    type Plan = Vec<Arc<Container>>;
    type Report = Steps;
    const NAME: &'static str = "host-orphans";

    fn resync(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn observe(&self) -> Result<View, Error> {
        tokio::join!(self.context.hosts.ready(), self.context.containers.ready());
        let containers = self.context.containers.list();
        let mut hosts: BTreeSet<String> = self
            .context
            .hosts
            .list()
            .iter()
            .map(|h| h.name_any())
            .collect();
        // A cache may lag; that a host is gone must be certain.
        let named: BTreeSet<String> = containers
            .iter()
            .filter_map(|c| c.status.as_ref()?.host.clone())
            .collect();
        for name in named {
            if !hosts.contains(&name)
                && skysail_reconcile::get::<Host>(&self.context.client, None, &name)
                    .await?
                    .is_some()
            {
                hosts.insert(name);
            }
        }
        Ok(View { containers, hosts })
    }

    fn plan(view: &View, _now: Timestamp) -> Self::Plan {
        orphans(view)
    }

    async fn apply(&self, _view: &View, plan: &Self::Plan) -> Steps {
        let mut steps = Steps::default();
        for container in plan {
            let left: Vec<&String> = container
                .finalizers()
                .iter()
                .filter(|f| *f != AGENT_FINALIZER)
                .collect();
            let patch = json!({ "metadata": { "finalizers": left } });
            let release = async {
                match skysail_reconcile::patch_meta(
                    &self.context.client,
                    Self::NAME,
                    &**container,
                    patch,
                )
                .await
                {
                    Ok(_) => Ok(()),
                    Err(Error::Refused { reason, .. }) if reason == "NotFound" => Ok(()),
                    Err(e) => Err(e),
                }
            };
            steps
                .run(format!("release {}", container.name_any()), release)
                .await;
        }
        steps
    }

    fn next(_view: &View, _plan: &Self::Plan, report: &Steps) -> Next {
        report.next(Next::OnChange)
    }
}
