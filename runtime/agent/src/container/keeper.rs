//! Looks after containers when the host changes: an init ended, a pause is over, an
//! image arrived, the agent started. It takes the same turns as the reconcile loop
//! but needs no control plane: what should be is in the cache or, before the first
//! listing, on record.

use super::record::Id;
use super::site::{Site, pause};
use super::{Containers, apply, plan};
use futures::StreamExt;
use jiff::Timestamp;
use skysail_reconcile::{Cache, CancellationToken, Error, Key};
use skysail_schemas::Container;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// How long a starting agent waits for the control plane before it starts what is on record.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often containers that left are looked at.
const SWEEP: Duration = Duration::from_secs(300);

/// Wakes the reconcile loop, with a reason for the log.
pub type Wake = futures::channel::mpsc::UnboundedSender<(Key<Container>, String)>;

/// The keeper of one host.
pub struct Keeper {
    site: Arc<Site>,
    containers: Containers,
    cache: Arc<Cache<Container>>,
    listed: AtomicBool,
    wake: Wake,
}

impl Keeper {
    /// A keeper that tells the loop of what it did by `wake`.
    pub fn new(
        site: Arc<Site>,
        containers: Containers,
        cache: Arc<Cache<Container>>,
        wake: Wake,
    ) -> Arc<Self> {
        Arc::new(Self {
            site,
            containers,
            cache,
            listed: AtomicBool::new(false),
            wake,
        })
    }

    /// Runs until `shutdown`. `alarms` names containers that need a look.
    pub async fn run(
        self: Arc<Self>,
        mut alarms: UnboundedReceiver<Id>,
        shutdown: CancellationToken,
    ) {
        let mut images = self.site.images.changed();
        let mut changes = self.cache.changes().boxed();
        let mut sweep = tokio::time::interval(SWEEP);
        tokio::spawn(self.clone().first_look());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(id) = alarms.recv() => self.look(id),
                Some(container) = changes.next() => {
                    let id = Id::of(&container);
                    if self.find(&id).is_none() {
                        self.look(id);
                    }
                }
                _ = images.changed() => self.site.recorded().into_iter().for_each(|id| self.look(id)),
                _ = sweep.tick() => {
                    let left = self.site.recorded().into_iter().filter(|id| self.site.record(id).left_at.is_some());
                    left.for_each(|id| self.look(id));
                }
            }
        }
    }

    /// Watches what runs; starts what is on record once the control plane spoke, or does not.
    async fn first_look(self: Arc<Self>) {
        for id in self.site.recorded() {
            if let Some(init) = self
                .site
                .record(&id)
                .init
                .filter(super::record::Init::lives)
            {
                self.site.watch(&id, init);
            }
        }
        if tokio::time::timeout(PATIENCE, self.ready()).await.is_err() {
            tracing::warn!("the control plane does not answer; containers run on as last known");
            self.site
                .recorded()
                .into_iter()
                .for_each(|id| self.look(id));
            self.ready().await;
        }
        self.listed.store(true, Ordering::Release);
        self.site
            .recorded()
            .into_iter()
            .for_each(|id| self.look(id));
    }

    /// Waits until containers and their ports are listed. Before, "absent" means nothing.
    async fn ready(&self) {
        tokio::join!(self.cache.ready(), self.containers.ports.ready());
    }

    fn find(&self, id: &Id) -> Option<Arc<Container>> {
        self.cache.get(Some(&id.namespace), &id.name)
    }

    fn look(self: &Arc<Self>, id: Id) {
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.turn(&id).await {
                tracing::warn!(container = %id, %error, "could not be looked after; tried again");
                this.site.look_again(&id, Duration::from_secs(2));
            }
        });
    }

    async fn turn(&self, id: &Id) -> Result<(), Error> {
        let _turn = self.site.turn(id).await;
        let record = self.site.record(id);
        let listed = self.listed.load(Ordering::Acquire);
        let desired = match self.find(id).filter(|_| listed) {
            Some(container) => self.containers.desired(&container),
            // A migration decides what becomes of it.
            None if self.site.is_held(id, &record.desired) => return Ok(()),
            None if listed => return self.leave(id).await,
            None => record.desired,
        };
        if desired.removed {
            // The loop sees to it: a removal ends with the object's finalizer.
            self.wake(id);
            return Ok(());
        }
        let seen = self.site.see(id, &desired).await?;
        let now = Timestamp::now();
        let plan = plan::plan(&desired, &seen, now);
        if let Some(pause) = pause(plan.blocked.as_ref(), now) {
            self.site.look_again(id, pause);
        }
        if plan.steps.is_empty() {
            return Ok(());
        }
        let report = apply::apply(&self.site, id, &desired, &plan).await;
        tracing::info!(container = %id, ?plan, failed = ?report.steps.first_failure(), "kept");
        self.wake(id);
        match report.steps.first_failure() {
            Some((_, error)) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn wake(&self, id: &Id) {
        // Nobody listens only when the agent ends.
        let _ = self.wake.unbounded_send((
            Key::new(&id.name).within(&id.namespace),
            "the host changed".to_owned(),
        ));
    }

    /// The control plane listed what this host has, and this is not in it.
    async fn leave(&self, id: &Id) -> Result<(), Error> {
        let mut record = self.site.record(id);
        if record.id.is_none() {
            return Ok(());
        }
        let now = Timestamp::now();
        if record.left_at.is_none() {
            tracing::warn!(container = %id, "is not this host's any more; it is stopped");
            record.left_at = Some(now);
            self.site.save(id, &record)?;
        }
        let desired = record.desired;
        let seen = self.site.see(id, &desired).await?;
        let report = apply::apply(&self.site, id, &desired, &plan::leave(&seen, now)).await;
        report
            .steps
            .first_failure()
            .map_or(Ok(()), |(_, error)| Err(error.clone()))
    }
}
