//! The loop around a [`Reconciler`]: queue, one turn per object at a time, backoff,
//! resync, wake-ups from other kinds, finalizer, status, events, one log line.

use crate::next::backoff;
use crate::{Cache, Error, Next, Object, Reconciler, Resource, api, events};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt};
use jiff::Timestamp;
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource as _, ResourceExt};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Names one object of a kind.
pub type Key<K> = ObjectRef<K>;

type Wakes<K> = BoxStream<'static, (Key<K>, String)>;

/// A reconciler with what wakes it.
pub struct Loop<R: Reconciler> {
    turn: Arc<Turn<R>>,
    wakes: SelectAll<Wakes<R::Kind>>,
    ready: Vec<BoxFuture<'static, ()>>,
    concurrency: u16,
}

/// What one turn needs.
struct Turn<R: Reconciler> {
    reconciler: R,
    client: Client,
    cache: Arc<Cache<R::Kind>>,
    memory: Mutex<HashMap<Key<R::Kind>, Memory>>,
}

/// What the loop remembers of an object between turns; losing it costs time only.
#[derive(Default)]
struct Memory {
    /// Failed turns in a row.
    failures: u32,
    /// Turns in a row that lost a race.
    conflicts: u32,
    /// Why the next turn happens, for the log.
    reason: Option<String>,
}

impl<R: Reconciler> Loop<R> {
    /// A loop over the objects in `cache`.
    pub fn new(reconciler: R, client: Client, cache: Arc<Cache<R::Kind>>) -> Self {
        let own = cache
            .changes()
            .map(|o| (Key::from_obj(&*o), "changed".to_owned()));
        let ready = cache.clone();
        let turn = Turn {
            reconciler,
            client,
            cache,
            memory: Mutex::new(HashMap::new()),
        };
        let mut wakes = SelectAll::new();
        wakes.push(own.boxed());
        Self {
            turn: Arc::new(turn),
            wakes,
            ready: vec![async move { ready.ready().await }.boxed()],
            concurrency: 32,
        }
    }

    /// Wakes the objects that `map` names whenever an object of another kind changes. `map` may look at the cache of the own kind.
    pub fn watches<Other: Resource>(
        mut self,
        other: &Arc<Cache<Other>>,
        map: impl Fn(&Other, &Cache<R::Kind>) -> Vec<Key<R::Kind>> + Send + 'static,
    ) -> Self {
        let own = self.turn.cache.clone();
        let wakes = other.changes().flat_map(move |o| {
            let reason = format!("{} {} changed", Other::kind(&()), o.name_any());
            futures::stream::iter(
                map(&o, &own)
                    .into_iter()
                    .map(move |key| (key, reason.clone())),
            )
        });
        self.wakes.push(wakes.boxed());
        let other = other.clone();
        self.ready.push(async move { other.ready().await }.boxed());
        self
    }

    /// Like [`Loop::watches`], but only when what `part` shows of the other object differs from what it showed the
    /// last time, or the object is gone: for kinds that change often in ways that matter to nobody here.
    pub fn watches_part<Other: Resource, P: PartialEq + Send + 'static>(
        self,
        other: &Arc<Cache<Other>>,
        part: impl Fn(&Other) -> P + Send + 'static,
        map: impl Fn(&Other, &Cache<R::Kind>) -> Vec<Key<R::Kind>> + Send + 'static,
    ) -> Self {
        let (cache, last) = (other.clone(), Mutex::new(HashMap::new()));
        self.watches(other, move |o, own| {
            let key = ObjectRef::from_obj(o);
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let now = cache.find(&key).is_some().then(|| part(o));
            let same = now.is_some() && last.get(&key) == now.as_ref();
            match now {
                Some(now) => last.insert(key, now),
                None => last.remove(&key),
            };
            if same { vec![] } else { map(o, own) }
        })
    }

    /// Like [`Loop::watches`], for what only counts or sums up: of many changes those within `gather` are looked at
    /// together, so that each object is woken once for them.
    pub fn watches_together<Other: Resource>(
        mut self,
        other: &Arc<Cache<Other>>,
        gather: Duration,
        map: impl Fn(&Other, &Cache<R::Kind>) -> Vec<Key<R::Kind>> + Send + 'static,
    ) -> Self {
        let own = self.turn.cache.clone();
        let gathered = other
            .changes()
            .ready_chunks(4096)
            .then(move |chunk| async move {
                tokio::time::sleep(gather).await;
                chunk
            });
        let wakes = gathered.flat_map(move |chunk| {
            let reason = format!("{} changed", Other::plural(&()));
            let keys: HashSet<_> = chunk.iter().flat_map(|o| map(o, &own)).collect();
            futures::stream::iter(keys.into_iter().map(move |key| (key, reason.clone())))
        });
        self.wakes.push(wakes.boxed());
        let other = other.clone();
        self.ready.push(async move { other.ready().await }.boxed());
        self
    }

    /// Wakes objects for other reasons: an alarm of the world outside. The text is for the log.
    pub fn wakes(
        mut self,
        wakes: impl Stream<Item = (Key<R::Kind>, String)> + Send + 'static,
    ) -> Self {
        self.wakes.push(wakes.boxed());
        self
    }

    /// How many turns (of different objects) run at once.
    pub fn concurrency(mut self, turns: u16) -> Self {
        self.concurrency = turns;
        self
    }

    /// Runs until `shutdown`; turns that have begun are finished.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self {
            turn,
            wakes,
            ready,
            concurrency,
        } = self;
        tokio::select! {
            _ = futures::future::join_all(ready) => {}
            () = shutdown.cancelled() => return,
        }
        let remember = turn.clone();
        let queue = wakes
            .take_until(shutdown.cancelled_owned())
            .map(move |(key, reason)| {
                remember.remember(&key, |m| m.reason = Some(reason));
                Ok::<_, Infallible>(key)
            });
        let store = turn.cache.store();
        let reconcile = |object: Arc<R::Kind>, turn: Arc<Turn<R>>| {
            let task = tokio::spawn(async move { turn.guarded(&Key::from_obj(&*object)).await });
            let task = AbortOnDrop(task);
            async move {
                Ok::<_, Infallible>(
                    task.await
                        .unwrap_or_else(|_| Action::requeue(Duration::from_secs(5))),
                )
            }
            .boxed()
        };
        let never = |_: Arc<R::Kind>, e: &Infallible, _: Arc<Turn<R>>| match *e {};
        let config = Config::default().concurrency(concurrency);
        let mut done = std::pin::pin!(applier(
            reconcile,
            never,
            turn.clone(),
            store,
            queue,
            config
        ));
        while let Some(result) = done.next().await {
            if let Err(kube::runtime::controller::Error::ObjectNotFound(key)) = &result {
                turn.forget(&Key::new(&key.name).within_option(key.namespace.as_deref()));
            }
        }
    }
}

trait WithinOption {
    fn within_option(self, namespace: Option<&str>) -> Self;
}
impl<K: Object> WithinOption for Key<K> {
    fn within_option(self, namespace: Option<&str>) -> Self {
        match namespace {
            Some(namespace) => self.within(namespace),
            None => self,
        }
    }
}

/// A turn that stops when the loop is dropped (its lease was lost).
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);
impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, tokio::task::JoinError>;
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx)
    }
}

/// What a turn came to.
enum Turned {
    /// Nothing to do, now or later, until a change.
    Idle,
    /// Wait for this.
    Wait(Next),
}

impl<R: Reconciler> Turn<R> {
    fn remember<T>(&self, key: &Key<R::Kind>, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(
            self.memory
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(key.clone())
                .or_default(),
        )
    }

    fn forget(&self, key: &Key<R::Kind>) {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }

    /// One turn; a panic in it is a failure of this object only.
    async fn guarded(&self, key: &Key<R::Kind>) -> Action {
        let result = match AssertUnwindSafe(self.turn(key)).catch_unwind().await {
            Ok(result) => result,
            Err(_) => Err(Error::Transient(
                "the turn panicked; the log has the place".to_owned(),
            )),
        };
        let resync = self.reconciler.resync();
        match result {
            Ok(Turned::Idle) | Ok(Turned::Wait(Next::Finished)) => {
                self.forget(key);
                Action::await_change()
            }
            Ok(Turned::Wait(Next::OnChange)) => {
                self.forget(key);
                Action::requeue(resync)
            }
            Ok(Turned::Wait(Next::After(d))) => {
                self.forget(key);
                Action::requeue(d.min(resync))
            }
            Ok(Turned::Wait(Next::Retry)) => self.later(key),
            Err(Error::Conflict(message)) => {
                // The next turn reads afresh; a hot object still must not spin.
                let conflicts = self.remember(key, |m| {
                    m.conflicts += 1;
                    m.conflicts
                });
                tracing::debug!(controller = R::NAME, object = %key, conflicts, message, "somebody else wrote first");
                if conflicts > 10 {
                    self.later(key)
                } else {
                    Action::requeue(Duration::from_millis(5) * conflicts)
                }
            }
            Err(e) => {
                tracing::warn!(controller = R::NAME, object = %key, error = %e, "turn failed");
                match e.next() {
                    Next::After(d) => Action::requeue(d),
                    Next::OnChange => Action::requeue(resync.min(Duration::from_secs(60))),
                    Next::Retry | Next::Finished => self.later(key),
                }
            }
        }
    }

    fn later(&self, key: &Key<R::Kind>) -> Action {
        let failures = self.remember(key, |m| {
            m.failures += 1;
            m.conflicts = 0;
            m.failures
        });
        Action::requeue(backoff(failures))
    }

    /// The newest version of the object: from the cache, or from the server after a lost race or a failure.
    async fn read(&self, key: &Key<R::Kind>) -> Result<Option<Arc<R::Kind>>, Error> {
        let afresh = self.remember(key, |m| m.failures + m.conflicts > 0);
        if !afresh {
            return Ok(self.cache.find(key));
        }
        Ok(
            api::get::<R::Kind>(&self.client, key.namespace.as_deref(), &key.name)
                .await?
                .map(Arc::new),
        )
    }

    async fn turn(&self, key: &Key<R::Kind>) -> Result<Turned, Error> {
        let begun = Instant::now();
        let reason = self
            .remember(key, |m| m.reason.take())
            .unwrap_or_else(|| "timer".to_owned());
        let Some(object) = self.read(key).await? else {
            return Ok(Turned::Idle);
        };
        let Some(object) = self.hold(object).await? else {
            return Ok(Turned::Idle);
        };
        let object = &*object;
        let observed = match self.reconciler.observe(object).await {
            Ok(observed) => observed,
            Err(e) => {
                if let Some(status) = R::unobserved(object, &e, Timestamp::now()) {
                    self.write(object, &status).await?;
                }
                return Err(e);
            }
        };
        let plan = R::plan(object, &observed, Timestamp::now());
        let active = plan != R::Plan::default();
        let report = if active {
            tracing::debug!(controller = R::NAME, object = %key, ?plan, "plan");
            self.reconciler.apply(object, &plan).await
        } else {
            R::Report::default()
        };
        let outcome = R::status(object, &observed, &plan, &report, Timestamp::now());
        if active {
            let took = begun.elapsed();
            tracing::info!(controller = R::NAME, object = %key, reason, ?plan, next = ?outcome.next, ?took, "reconciled");
        }
        // The status first: somebody may wait for it, and nobody waits for an event.
        let written = if outcome.next == Next::Finished {
            self.release(object).await
        } else {
            self.write(object, &outcome.status).await
        };
        for note in &outcome.notes {
            events::publish(&self.client, R::NAME, object, note, Timestamp::now()).await;
        }
        written.map(|()| Turned::Wait(outcome.next))
    }

    async fn write(
        &self,
        object: &R::Kind,
        status: &<R::Kind as kube::core::object::HasStatus>::Status,
    ) -> Result<(), Error> {
        match api::write_status(&self.client, R::NAME, object, status).await {
            Ok(Some(written)) => self.cache.wrote(written),
            Ok(None) => {}
            Err(Error::Refused { reason, .. }) if reason == "NotFound" => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Sees to the finalizer before any effect. `None` where the object is not ours any more.
    async fn hold(&self, object: Arc<R::Kind>) -> Result<Option<Arc<R::Kind>>, Error> {
        let Some(finalizer) = R::FINALIZER else {
            return Ok(Some(object));
        };
        let held = object.finalizers().iter().any(|f| f == finalizer);
        let deleting = object.meta().deletion_timestamp.is_some();
        match (held, deleting) {
            (true, _) => Ok(Some(object)),
            (false, true) => Ok(None),
            (false, false) if !R::ADDS_FINALIZER => Ok(Some(object)),
            (false, false) => {
                let finalizers = object
                    .finalizers()
                    .iter()
                    .map(String::as_str)
                    .chain([finalizer])
                    .collect::<Vec<_>>();
                let patch = json!({ "metadata": { "finalizers": finalizers } });
                let held = api::patch_meta(&self.client, R::NAME, &*object, patch).await?;
                self.cache.wrote(held.clone());
                Ok(Some(Arc::new(held)))
            }
        }
    }

    /// Lets a deleted object go.
    async fn release(&self, object: &R::Kind) -> Result<(), Error> {
        let Some(finalizer) = R::FINALIZER else {
            return Ok(());
        };
        if object.meta().deletion_timestamp.is_none()
            || !object.finalizers().iter().any(|f| f == finalizer)
        {
            return Ok(());
        }
        let left = object
            .finalizers()
            .iter()
            .filter(|f| *f != finalizer)
            .collect::<Vec<_>>();
        match api::patch_meta(
            &self.client,
            R::NAME,
            object,
            json!({ "metadata": { "finalizers": left } }),
        )
        .await
        {
            Ok(_) => Ok(()),
            Err(Error::Refused { reason, .. }) if reason == "NotFound" => Ok(()),
            Err(e) => Err(e),
        }
    }
}
