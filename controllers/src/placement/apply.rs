//! Effects of placement.

use super::plan::{self, Plan, Step};
use super::resize;
use super::snapshot::{Objects, Snapshot};
use crate::Context;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use skysail_reconcile::{Error, Next, Note, Steps, Sweep, get, patch_meta, publish, write_status};
use skysail_schemas::Container;
use skysail_schemas::container::{AGENT_FINALIZER, NETWORK_FINALIZER};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Statuses written at once.
const CONCURRENCY: usize = 32;

pub(super) struct Placement {
    context: Arc<Context>,
    /// Containers whose write may or may not have happened, and at the start all of them.
    doubtful: Mutex<Doubt>,
}

enum Doubt {
    All,
    Some(Vec<Arc<Container>>),
}

impl Placement {
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            doubtful: Mutex::new(Doubt::All),
        }
    }

    fn doubt(&self) -> std::sync::MutexGuard<'_, Doubt> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is placed while it is not known what is bound: a leader that was here
    /// before, or an own write whose answer was lost, may have taken the room.
    async fn settle(&self) -> Result<(), Error> {
        let doubtful = match &*self.doubt() {
            Doubt::All => None,
            Doubt::Some(those) => Some(those.clone()),
        };
        match doubtful {
            None => {
                self.context
                    .containers
                    .catch_up(&self.context.client)
                    .await?
            }
            Some(those) => {
                for container in those {
                    if let Some(now) = get(
                        &self.context.client,
                        container.namespace().as_deref(),
                        &container.name_any(),
                    )
                    .await?
                    {
                        self.context.containers.wrote(now);
                    }
                }
            }
        }
        *self.doubt() = Doubt::Some(vec![]);
        Ok(())
    }

    async fn bind(&self, step: &Step) -> Result<(), Error> {
        let held = self.hold(&step.container).await?;
        self.write(&held, step).await
    }

    /// The finalizers come before the binding, so that a deletion waits for the host.
    async fn hold(&self, container: &Arc<Container>) -> Result<Arc<Container>, Error> {
        let wanted = [AGENT_FINALIZER, NETWORK_FINALIZER];
        let there = container.finalizers();
        if wanted.iter().all(|w| there.iter().any(|f| f == w)) {
            return Ok(container.clone());
        }
        let missing = wanted.iter().filter(|w| !there.iter().any(|f| f == *w));
        let all: Vec<&str> = there
            .iter()
            .map(String::as_str)
            .chain(missing.copied())
            .collect();
        let patch = json!({ "metadata": { "finalizers": all } });
        let held = patch_meta(&self.context.client, Self::NAME, &**container, patch).await?;
        self.context.containers.wrote(held.clone());
        Ok(Arc::new(held))
    }

    async fn write(&self, container: &Container, step: &Step) -> Result<(), Error> {
        match write_status(&self.context.client, Self::NAME, container, &step.status).await {
            Ok(Some(written)) => self.context.containers.wrote(written),
            Ok(None) => {}
            Err(e) => {
                if let Doubt::Some(doubtful) = &mut *self.doubt() {
                    doubtful.push(step.container.clone());
                }
                return Err(e);
            }
        }
        Ok(())
    }
}

/// All that is known now.
pub(crate) fn objects(context: &Context) -> Objects {
    Objects {
        hosts: context.hosts.list(),
        containers: context.containers.list(),
        container_sets: context.container_sets.list(),
        images: context.images.list(),
        instance_types: context.instance_types.list(),
        machine_types: context.machine_types.list(),
        clouds: context.clouds.list(),
        namespaces: context.namespaces.list(),
        migrations: context.migrations.list(),
    }
}

/// Waits until everything that [`objects`] reads is known.
pub(crate) async fn filled(c: &Context) {
    tokio::join!(
        c.containers.ready(),
        c.hosts.ready(),
        c.images.ready(),
        c.instance_types.ready(),
        c.container_sets.ready(),
        c.machine_types.ready(),
        c.clouds.ready(),
        c.namespaces.ready(),
        c.migrations.ready()
    );
}

impl Sweep for Placement {
    type View = Snapshot;
    type Plan = Plan;
    type Report = Steps;
    const NAME: &'static str = "placement";

    async fn observe(&self) -> Result<Snapshot, Error> {
        let c = &self.context;
        filled(c).await;
        self.settle().await?;
        let containers = c.containers.list();
        let waits = |c: &Arc<Container>| c.status.as_ref().is_none_or(|s| s.host.is_none());
        let of = |namespace: &str, name: &str| c.instance_types.get(Some(namespace), name);
        if !containers.iter().any(waits) && !resize::asks(&containers, of) {
            return Ok(Snapshot::default());
        }
        Ok(Snapshot::new(objects(c), Timestamp::now()))
    }

    fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
        plan::plan(snapshot, now)
    }

    async fn apply(&self, _snapshot: &Snapshot, plan: &Plan) -> Steps {
        let name = |step: &Step| {
            format!(
                "{}/{}",
                step.container.namespace().unwrap_or_default(),
                step.container.name_any()
            )
        };
        let bind = plan.bind.iter().map(|step| {
            let what = format!(
                "bind {} to {}",
                name(step),
                step.status.host.as_deref().unwrap_or_default()
            );
            async move { (what, self.bind(step).await) }.boxed()
        });
        let explain = plan.explain.iter().map(|step| {
            let what = format!("explain {}", name(step));
            async move { (what, self.write(&step.container, step).await) }.boxed()
        });
        let resize = plan.resize.iter().map(|step| {
            let what = format!("resize {}", name(step));
            async move { (what, self.write(&step.container, step).await) }.boxed()
        });
        let all: Vec<_> = bind.chain(explain).chain(resize).collect();
        let steps: Vec<_> = futures::stream::iter(all)
            .buffered(CONCURRENCY)
            .collect()
            .await;
        // After all that somebody waits for.
        let said = plan.bind.iter().chain(&plan.explain).zip(&steps);
        let said = said.filter(|(_, (_, done))| done.is_ok());
        let notes = said.filter_map(|(step, _)| Some((step, plan::note(step)?)));
        let publish = |(step, note): (&Step, Note)| {
            let (client, container) = (self.context.client.clone(), step.container.clone());
            async move { publish(&client, Self::NAME, &*container, &note, Timestamp::now()).await }
                .boxed()
        };
        let events: Vec<_> = notes.map(publish).collect();
        futures::stream::iter(events)
            .buffer_unordered(CONCURRENCY)
            .collect::<()>()
            .await;
        Steps(steps)
    }

    fn next(snapshot: &Snapshot, _plan: &Plan, report: &Steps) -> Next {
        // What waits for a host that comes up is looked at again even if no event tells.
        let calm = if snapshot.waiting.is_empty() {
            Next::OnChange
        } else {
            Next::After(Duration::from_secs(30))
        };
        report.next(calm)
    }
}
