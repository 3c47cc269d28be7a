//! The half of a migration that gives the container away: does what the machine's state says, and tells the machine
//! what came of it.

mod budget;
mod copy;
mod forward;
mod tell;

use super::api::Owner;
use super::machine::{Source, SourceEvent, Why};
use super::record::{Record, Role};
use super::stream::{Frame, Lost, Message, Session};
use super::tree::{self, Known, Raw};
use super::{LOOK, Migrations, empty, images, source_state, why};
use crate::checkpoint::{self, Arrivals, Entry, Options};
use crate::container::apply;
use crate::container::plan::{Plan, Step};
use crate::container::site::Turn;
use forward::Forwarding;
use jiff::Timestamp;
use skysail_reconcile::Error;
use skysail_schemas::duration::Span;
use skysail_schemas::migration::{FreezeParts, MigrationMode, MigrationPhase};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How long the target is looked for.
const FIND: Duration = Duration::from_secs(20);
/// Between two attempts of the same thing.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a commit is tried again after it was not known what came of it.
const ATTEMPTS: u32 = 5;

/// One migration from here.
struct Leave {
    all: Arc<Migrations>,
    record: Record,
    session: Option<Session>,
    pass: u32,
    known: BTreeMap<Raw, Known>,
    /// When [`Self::known`] was read, in seconds since 1970.
    read_at: i64,
    digests: BTreeMap<Raw, String>,
    sent: Arc<AtomicU64>,
    asked: u32,
    ran_after: Option<Span>,
    measured: budget::Measured,
    /// Since when it stands still.
    since: Option<Instant>,
    /// Where the time goes in which it stands, and up to when that is counted.
    parts: FreezeParts,
    counted: Option<Instant>,
    /// What arrives for it while it stands.
    arrivals: Option<Arrivals>,
    /// The target was told that it may let it run.
    gone: bool,
    forwarding: Option<Forwarding>,
    telling: Option<JoinHandle<()>>,
    /// Nobody else acts on the container from the stop on.
    turn: Option<Turn>,
}

/// Begins a migration.
pub async fn begin(all: Arc<Migrations>, mut record: Record) {
    let role = record.role.clone();
    all.settle(&mut record, role).await;
    Leave::new(all, record).run().await;
}

/// Goes on with a migration after the agent was started again.
pub async fn go_on(all: Arc<Migrations>, mut record: Record) {
    all.leaving.ready().await;
    all.containers.ready().await;
    let state = source_state(&record).next(SourceEvent::Restarted);
    all.settle(&mut record, Role::Source(state)).await;
    Leave::new(all, record).run().await;
}

impl Leave {
    fn new(all: Arc<Migrations>, record: Record) -> Self {
        Self {
            all,
            record,
            session: None,
            pass: 0,
            known: BTreeMap::new(),
            read_at: 0,
            digests: BTreeMap::new(),
            sent: Arc::default(),
            asked: 0,
            ran_after: None,
            measured: budget::Measured::default(),
            since: None,
            parts: FreezeParts::default(),
            counted: None,
            arrivals: None,
            gone: false,
            forwarding: None,
            telling: None,
            turn: None,
        }
    }

    async fn run(mut self) {
        loop {
            let state = source_state(&self.record);
            if state == Source::Over {
                return self.all.over(&self.record);
            }
            if state.holds() && self.turn.is_none() {
                self.turn = Some(self.all.site.turn(&self.record.container).await);
            }
            let event = self.effect(&state).await;
            let next = state.next(event);
            match &next {
                Source::Freezing => {
                    self.record.frozen_at = Some(Timestamp::now().as_millisecond());
                    self.since = (self.record.mode == MigrationMode::Live).then(Instant::now);
                }
                // Who gives up closes the connection.
                Source::Undoing(_) | Source::Fencing(_) | Source::Telling(Some(_)) => {
                    if let (Some(session), Some(why)) = (&self.session, given_up(&next)) {
                        let no = Message::No {
                            reason: why.reason.clone(),
                            message: why.message.clone(),
                        };
                        let _ = timeout(LOOK, session.say(no)).await;
                    }
                    self.session = None;
                }
                _ => {}
            }
            if !next.holds() {
                self.turn = None;
            }
            let all = self.all.clone();
            all.settle(&mut self.record, Role::Source(next)).await;
            self.tell_soon();
        }
    }

    async fn effect(&mut self, state: &Source) -> SourceEvent {
        let all = self.all.clone();
        match state {
            Source::Copying => event(self.unless_stopped(Self::copy).await),
            Source::Freezing => event(self.freeze().await),
            Source::Sending => event(self.unless_stopped(Self::finish).await),
            Source::Committing { .. } => {
                let (alive, early) = (self.session.as_ref().is_some_and(Session::is_alive), &*self);
                let stop = || {
                    let lost = || Why::failed("ConnectionLost", Lost.to_string());
                    let lost = (!alive).then(lost);
                    early.stopped().or(lost).or_else(|| early.over_time())
                };
                let id = &early.record.container;
                let known = all.containers.get(Some(&id.namespace), &id.name);
                let known = known.map(|c| (*c).clone());
                all.api.commit(&early.record, known, stop).await
            }
            Source::Asking => self.ask().await,
            Source::Fencing(_) => {
                let event = all.api.fence(&self.record).await;
                if event != SourceEvent::Done {
                    sleep(AGAIN).await;
                }
                event
            }
            Source::Undoing(_) => self.undo().await,
            Source::Leaving => self.leave().await,
            Source::Clearing => self.clear().await,
            Source::Telling(end) => self.tell(end.as_ref()).await,
            Source::Over => SourceEvent::Done,
        }
    }

    /// Why it should be given up, if somebody has said so.
    fn stopped(&self) -> Option<Why> {
        let all = &self.all;
        let Some(migration) = Migrations::find(&all.leaving, &self.record) else {
            return Some(Why::cancelled("Deleted", "the Migration was deleted"));
        };
        if migration.spec.cancel || migration.metadata.deletion_timestamp.is_some() {
            return Some(Why::cancelled(
                "Cancelled",
                "as spec.cancel, or its deletion, asks",
            ));
        }
        let finished = migration
            .status
            .as_ref()
            .is_some_and(|s| s.phase.is_finished());
        if finished {
            return Some(Why::failed(
                "Finished",
                "the Migration was finished by the controller",
            ));
        }
        let id = &self.record.container;
        let there = all.containers.get(Some(&id.namespace), &id.name);
        match there.filter(|c| c.metadata.uid.as_ref() == Some(&self.record.container_uid)) {
            None => Some(Why::failed(
                "OwnerChanged",
                "the container is not this host's any more",
            )),
            Some(c) if c.metadata.deletion_timestamp.is_some() => Some(Why::cancelled(
                "ContainerDeleted",
                "the container is being deleted",
            )),
            Some(_) => None,
        }
    }

    /// Does `work`, until it is done or somebody says that it should not be.
    async fn unless_stopped<'a, W>(
        &'a mut self,
        work: impl FnOnce(&'a mut Self) -> W,
    ) -> Result<(), Why>
    where
        W: Future<Output = Result<(), Why>> + 'a,
    {
        let mut watcher = Self::new(self.all.clone(), self.record.clone());
        watcher.since = self.since;
        let stopped = async {
            loop {
                if let Some(why) = watcher.stopped() {
                    return why;
                }
                sleep(LOOK).await;
            }
        };
        let work = watcher.in_time(work(self));
        tokio::select! {
            why = stopped => Err(why),
            result = work => result,
        }
    }

    async fn freeze(&mut self) -> Result<(), Why> {
        self.counted = Some(Instant::now());
        if self.record.mode != MigrationMode::Live {
            self.act(&[Step::Stop]).await.map_err(|e| why(&e))?;
            self.parts.dump = self.count();
            return Ok(());
        }
        let (site, id) = (&self.all.site, &self.record.container);
        let dir = images(&self.record);
        let failed = |e: &dyn std::fmt::Display| Why::failed("FreezeFailed", e.to_string());
        // What an earlier attempt left would be taken for a part of this.
        empty(&dir).map_err(|e| failed(&e))?;
        let options = Options::default();
        let limit = self.limit().unwrap_or(options.limit).min(options.limit);
        let options = Options { limit };
        let frozen = checkpoint::freeze(site, id, &dir, &options).await;
        if let (Err(_), Some(late)) = (&frozen, self.over_time()) {
            return Err(late);
        }
        let frozen = frozen.map_err(|e| failed(&e))?;
        if let Some(since) = frozen.since {
            let stood = since.elapsed().as_millis();
            let stood = i64::try_from(stood).unwrap_or_default();
            self.record.frozen_at = Some(Timestamp::now().as_millisecond() - stood);
            self.counted = Some(since.into());
            self.since = self.counted;
        }
        self.arrivals = frozen.arrivals;
        self.parts.dump = self.count();
        Ok(())
    }

    /// The time since this was last asked.
    fn count(&mut self) -> Span {
        let now = Instant::now();
        let before = self.counted.replace(now).unwrap_or(now);
        now.duration_since(before).into()
    }

    /// Lets it go on here. What is not running by then is started by the reconcile loop, for it is still ours.
    async fn undo(&mut self) -> SourceEvent {
        let (site, id) = (&self.all.site, &self.record.container);
        let dir = images(&self.record);
        while let Some(frozen) = checkpoint::frozen(site, id, &dir).await {
            if let Err(error) = frozen.resume(site).await {
                tracing::error!(container = %id, %error, "could not be let go on; tried again");
                sleep(AGAIN).await;
            }
        }
        let ports = site.record(id).attached;
        if let (Some(arrivals), Ok(entry)) = (self.arrivals.take(), Entry::of(&ports)) {
            arrivals.so_far().iter().for_each(|p| entry.put(p));
        }
        let _ = std::fs::remove_dir_all(dir);
        SourceEvent::Done
    }

    /// Does steps of the container's own plan, in its turn, which is held.
    async fn act(&self, steps: &[Step]) -> Result<(), Error> {
        let (site, id) = (&self.all.site, &self.record.container);
        let plan = Plan {
            steps: steps.to_vec(),
            blocked: None,
        };
        let report = apply::apply(site, id, &site.record(id).desired, &plan).await;
        let failed = report.steps.first_failure();
        failed.map_or(Ok(()), |(_, error)| Err(error.clone()))
    }

    async fn finish(&mut self) -> Result<(), Why> {
        self.pass(true).await?;
        let digest = tree::seal(&self.known, &mut self.digests);
        let images = match self.record.mode {
            MigrationMode::Live => Some(self.images().await?),
            _ => None,
        };
        self.say(Message::Seal { digest, images }).await?;
        self.said(Message::Arrived).await?;
        self.parts.transfer = self.count();
        self.said(Message::Prepared).await?;
        self.parts.restore = self.count();
        Ok(())
    }

    async fn ask(&mut self) -> SourceEvent {
        self.asked += 1;
        let prepared = self.session.as_ref().is_some_and(Session::is_alive);
        loop {
            match self.all.api.owner(&self.record).await {
                Ok(Owner::Other(_) | Owner::Gone) => return SourceEvent::Theirs,
                Ok(Owner::Source(container)) => {
                    let stopped = self.stopped();
                    let deleted = container.metadata.deletion_timestamp.is_some();
                    let again = prepared && !deleted && stopped.is_none() && self.asked < ATTEMPTS;
                    let message = "the change of owner could not be written";
                    let why = stopped.unwrap_or_else(|| Why::failed("CommitFailed", message));
                    return SourceEvent::Ours { again, why };
                }
                // It stands still until that is known.
                Err(error) => {
                    tracing::warn!(migration = self.record.name, %error, "it is not known whose the container is");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn leave(&mut self) -> SourceEvent {
        // Nothing of it runs here when the target is told.
        let dir = images(&self.record);
        while let Some(frozen) =
            checkpoint::frozen(&self.all.site, &self.record.container, &dir).await
        {
            let mut ended = frozen.kill(&self.all.site).await;
            if ended.is_ok() {
                self.go().await;
                ended = frozen.end(&self.all.site).await;
            }
            if let Err(error) = ended {
                tracing::error!(container = %self.record.container, %error, "could not be ended; tried again");
                sleep(AGAIN).await;
                continue;
            }
            break;
        }
        while let Err(error) = self.act(&[Step::Kill]).await {
            tracing::error!(container = %self.record.container, %error, "could not be killed; tried again");
            sleep(AGAIN).await;
        }
        self.go().await;
        self.confirmed().await;
        if let Some(forwarding) = self.forwarding.take() {
            forwarding.end().await;
        }
        let steps = [Step::DetachPorts, Step::Unmount, Step::DropNamespaces];
        while let Err(error) = self.act(&steps).await {
            tracing::warn!(container = %self.record.container, %error, "could not be taken down; tried again");
            sleep(AGAIN).await;
        }
        SourceEvent::Done
    }

    /// Tells the target once that it may let the container run, and sends it what has arrived for it here.
    async fn go(&mut self) {
        let Some(session) = self.session.as_ref().filter(|_| !self.gone) else {
            return;
        };
        let _ = session.say(Message::Go).await;
        let forward = |arrivals| Forwarding::begin(arrivals, session.outgoing());
        self.forwarding = self.arrivals.take().map(forward);
        self.gone = true;
        self.parts.commit = self.count();
    }

    /// Waits until the container runs on the target, or there is none any more.
    async fn confirmed(&mut self) {
        let mut asked = Instant::now();
        loop {
            match &mut self.session {
                Some(session) => match timeout(LOOK, session.next()).await {
                    Ok(Ok(Frame::Said(Message::Runs))) => {
                        self.ran_after = self.stood();
                        self.parts.resume = self.count();
                        return;
                    }
                    Ok(Ok(_)) | Err(_) => {}
                    Ok(Err(Lost)) => self.session = None,
                },
                None => sleep(LOOK).await,
            }
            let said = Migrations::find(&self.all.leaving, &self.record);
            let phase = said.and_then(|m| m.status.as_ref().map(|s| s.phase));
            if phase.is_none_or(|p| p >= MigrationPhase::CleaningUp) {
                return;
            }
            if asked.elapsed() > FIND {
                asked = Instant::now();
                if matches!(self.all.api.owner(&self.record).await, Ok(Owner::Gone)) {
                    return;
                }
            }
        }
    }

    /// How long the container has been standing still.
    fn stood(&self) -> Option<Span> {
        tell::since(self.record.frozen_at, Timestamp::now())
    }

    async fn clear(&self) -> SourceEvent {
        let _ = std::fs::remove_dir_all(images(&self.record));
        while let Err(error) = self.act(&[Step::Forget]).await {
            tracing::warn!(container = %self.record.container, %error, "its files could not be removed; tried again");
            sleep(AGAIN).await;
        }
        SourceEvent::Done
    }
}

fn given_up(state: &Source) -> Option<&Why> {
    match state {
        Source::Undoing(why) | Source::Fencing(why) | Source::Telling(Some(why)) => Some(why),
        _ => None,
    }
}

fn event(result: Result<(), Why>) -> SourceEvent {
    result.map_or_else(SourceEvent::Failed, |()| SourceEvent::Done)
}
