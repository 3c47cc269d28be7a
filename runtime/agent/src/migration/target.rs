//! The half of a migration that takes the container.

mod receive;

use super::api::{Owner, advance, say_lost};
use super::machine::{Target, TargetEvent};
use super::record::{self, Record, Role};
use super::stream::{Frame, Lost, Message, Session};
use super::{LOOK, Migrations, images, target_state, tls};
use crate::checkpoint::{self, Entry, Parked, Resumed};
use crate::container::apply;
use crate::container::plan::{Plan, Step};
use crate::container::record as container;
use crate::container::site::Turn;
use skysail_reconcile::Error;
use skysail_schemas::migration::{MigrationMode, MigrationPhase, STREAM_PORT};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// How long a source may take to say what it wants.
const GREETING: Duration = Duration::from_secs(10);
/// How long a Migration that a source speaks of may take to be known here.
const KNOWN: Duration = Duration::from_secs(10);
/// Between two attempts of the same thing.
const AGAIN: Duration = Duration::from_millis(500);
/// How often a container that is ours is let go on before it is started anew.
const ATTEMPTS: u32 = 3;

/// Takes connections of sources, for ever.
pub async fn listen(all: Arc<Migrations>) {
    if let Err(error) = all.identity() {
        tracing::warn!(%error, "no container can move here");
        return std::future::pending().await;
    }
    let listener = loop {
        let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, STREAM_PORT)).await;
        let bound = match both {
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, STREAM_PORT)).await,
            bound => bound,
        };
        match bound {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(port = STREAM_PORT, %error, "no container can move here yet; tried again");
                sleep(Duration::from_secs(5)).await;
            }
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let this = all.clone();
                all.spawn(async move {
                    let greet = timeout(GREETING, greet(&this, stream)).await;
                    match greet {
                        Ok(Ok(greeted)) => take(this, greeted).await,
                        Ok(Err(error)) => tracing::warn!(%peer, %error, "a connection is refused"),
                        Err(_) => tracing::warn!(%peer, "a connection says nothing"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(AGAIN).await;
            }
        }
    }
}

/// A source that has said what it wants.
struct Greeted {
    peer: String,
    session: Session,
    namespace: String,
    name: String,
    uid: String,
    mode: MigrationMode,
}

async fn greet(all: &Migrations, stream: TcpStream) -> io::Result<Greeted> {
    stream.set_nodelay(true)?;
    let connection = all.identity()?.acceptor().accept(stream).await?;
    let peer = tls::host(connection.get_ref().1.peer_certificates());
    let peer = peer.ok_or_else(|| io::Error::other("its certificate is no host's"))?;
    let mut session = Session::new(connection, None);
    match session.next().await {
        Ok(Frame::Said(Message::Hello {
            namespace,
            name,
            uid,
            mode,
        })) => Ok(Greeted {
            peer,
            session,
            namespace,
            name,
            uid,
            mode,
        }),
        _ => Err(io::Error::other("it did not say what it wants")),
    }
}

/// Why a source is refused.
struct No(&'static str, String);

async fn take(all: Arc<Migrations>, greeted: Greeted) {
    match admit(&all, &greeted).await {
        Ok(record) => {
            let mut arrive = Arrive {
                all,
                record,
                session: Some(greeted.session),
                parked: None,
                turn: None,
            };
            let role = arrive.record.role.clone();
            let all = arrive.all.clone();
            all.settle(&mut arrive.record, role).await;
            arrive.run().await;
        }
        Err(No(reason, message)) => {
            tracing::warn!(peer = greeted.peer, reason, message, "a source is refused");
            let reason = reason.to_owned();
            let _ = greeted.session.say(Message::No { reason, message }).await;
            // Until it has read that.
            sleep(AGAIN).await;
        }
    }
}

/// The Migration that a source speaks of, if it is to come from that source to here, and nobody has it in hand.
async fn admit(all: &Migrations, greeted: &Greeted) -> Result<Record, No> {
    let begun = Instant::now();
    let record = loop {
        let found = all.arriving.get(Some(&greeted.namespace), &greeted.name);
        let found = found.filter(|m| m.metadata.uid.as_ref() == Some(&greeted.uid));
        let open = found.filter(|m| m.status.as_ref().is_some_and(|s| !s.phase.is_finished()));
        match open.and_then(|m| all.record(&m, Role::Target(Target::Receiving))) {
            Some(record) => {
                let mode = greeted.mode;
                break Record { mode, ..record };
            }
            None if begun.elapsed() > KNOWN => {
                let message = "the target's agent knows no such Migration".to_owned();
                return Err(No("UnknownMigration", message));
            }
            None => sleep(LOOK).await,
        }
    };
    if record.source != greeted.peer || record.target != all.host {
        let message = format!("the Migration is not from {} to {}", greeted.peer, all.host);
        return Err(No("WrongPeer", message));
    }
    // An earlier attempt may still be on its way out.
    while !all.take(&record.uid, &record.container) {
        if begun.elapsed() > KNOWN {
            let message = "the target's agent has another attempt in hand".to_owned();
            return Err(No("Busy", message));
        }
        sleep(LOOK).await;
    }
    Ok(record)
}

/// Goes on with a migration after the agent was started again.
pub async fn go_on(all: Arc<Migrations>, mut record: Record) {
    let state = target_state(&record).next(TargetEvent::Restarted);
    all.settle(&mut record, Role::Target(state)).await;
    let session = None;
    Arrive {
        all,
        record,
        session,
        parked: None,
        turn: None,
    }
    .run()
    .await;
}

/// One migration to here.
struct Arrive {
    all: Arc<Migrations>,
    record: Record,
    session: Option<Session>,
    /// What this agent has restored.
    parked: Option<Parked>,
    /// Nobody else acts on the container until it runs.
    turn: Option<Turn>,
}

impl Arrive {
    async fn run(mut self) {
        loop {
            let state = target_state(&self.record);
            if self.turn.is_none() && !matches!(state, Target::Receiving | Target::Over) {
                self.turn = Some(self.all.site.turn(&self.record.container).await);
            }
            if state == Target::Over {
                self.turn = None;
                let _ = std::fs::remove_dir_all(images(&self.record));
            }
            let event = match state {
                Target::Receiving => self.receive().await,
                Target::Prepared => self.wait().await,
                Target::Starting => self.start().await,
                Target::Discarding => self.discard().await,
                Target::Over => {
                    self.all.over(&self.record);
                    // The source may come again.
                    let record = &self.record;
                    self.all.give_back(&record.uid, &record.container, true);
                    return;
                }
            };
            let all = self.all.clone();
            all.settle(&mut self.record, Role::Target(state.next(event)))
                .await;
        }
    }

    async fn wait(&mut self) -> TargetEvent {
        if let Some(session) = &self.session {
            let _ = session.say(Message::Prepared).await;
        }
        self.all.arriving.ready().await;
        self.all.containers.ready().await;
        loop {
            match &mut self.session {
                Some(session) => match timeout(LOOK, session.next()).await {
                    Ok(Err(Lost)) => self.session = None,
                    // Said only after it is written.
                    Ok(Ok(Frame::Said(Message::Go))) => return TargetEvent::Owner,
                    Ok(Ok(_)) | Err(_) => {}
                },
                None => sleep(LOOK).await,
            }
            if self.all.is_owner(&self.record) {
                return TargetEvent::Owner;
            }
            let known = Migrations::find(&self.all.arriving, &self.record);
            let open =
                known.is_some_and(|m| m.status.as_ref().is_some_and(|s| !s.phase.is_finished()));
            if !open && self.is_not_ours().await {
                return TargetEvent::Abandoned;
            }
        }
    }

    /// Asks, since the two things that are watched may be told in any order. Not knowing is no answer.
    async fn is_not_ours(&self) -> bool {
        match self.all.api.owner(&self.record).await {
            Ok(Owner::Source(_) | Owner::Gone) => true,
            Ok(Owner::Other(c)) => {
                c.status.as_ref().and_then(|s| s.host.as_ref()) != Some(&self.all.host)
            }
            // Only those of this host may be read.
            Err(Error::Refused { reason, .. }) => {
                matches!(reason.as_str(), "Forbidden" | "NotFound")
            }
            Err(_) => {
                sleep(AGAIN).await;
                false
            }
        }
    }

    async fn start(&mut self) -> TargetEvent {
        let (site, id) = (self.all.site.clone(), self.record.container.clone());
        if self.record.mode == MigrationMode::Live
            && self.record.lost.is_none()
            && let Some(resumed) = self.resume().await
        {
            self.runs().await;
            if let Err(error) = resumed.settle().await {
                tracing::warn!(container = %id, %error, "something of its restore is left");
            }
        }
        self.turn = None;
        // The hold is for the old epoch only, so the reconcile loop starts it: have it look at once.
        site.release(&id);
        self.until_it_runs().await;
        if self.record.lost.is_some() {
            // Before the source hears that it runs, and says that all is well.
            self.tell_that_it_runs().await;
        }
        self.runs().await;
        if self.record.lost.is_none() {
            self.tell_that_it_runs().await;
        }
        TargetEvent::Done
    }

    async fn until_it_runs(&mut self) {
        let (site, id) = (self.all.site.clone(), self.record.container.clone());
        let live = self.record.mode == MigrationMode::Live && self.record.lost.is_none();
        loop {
            let record = site.record(&id);
            let newer = live || record.desired.epoch > self.record.epoch;
            let runs = record.init.is_some() || !record.desired.runs();
            let gone = record.desired.uid != self.record.container_uid;
            if (newer && runs) || gone {
                return;
            }
            if let Some(session) = &mut self.session
                && let Ok(Err(Lost)) = timeout(Duration::from_millis(1), session.next()).await
            {
                self.session = None;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn tell_that_it_runs(&self) {
        loop {
            let told = self.all.api.tell(&self.record, |status, generation, now| {
                let message = "it runs on the target; the source removes its files";
                advance(status, MigrationPhase::CleaningUp, message, generation, now);
                say_lost(status, &self.record, generation, now);
            });
            match told.await {
                // Finished, so nobody waits for this any more.
                Ok(()) | Err(Error::Refused { .. }) => return,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    /// Says once that it runs. From then on what the source sends is what arrived for it there.
    async fn runs(&mut self) {
        let Some(mut session) = self.session.take() else {
            return;
        };
        let _ = session.say(Message::Runs).await;
        let ports = self.all.site.record(&self.record.container).attached;
        let Ok(entry) = Entry::of(&ports) else { return };
        tokio::spawn(async move {
            while let Ok(frame) = session.next().await {
                if let Frame::Packet(packet) = frame {
                    entry.put(&packet);
                }
            }
        });
    }

    /// Lets what is parked go on. What cannot be is started anew by the reconcile loop, for its files are here; and
    /// that is said.
    async fn resume(&mut self) -> Option<Resumed> {
        let (site, id) = (self.all.site.clone(), self.record.container.clone());
        let mut trouble = String::new();
        for attempt in 0..ATTEMPTS {
            match self.try_resume().await {
                Ok(resumed) => return resumed,
                Err(error) => {
                    tracing::error!(container = %id, attempt, %error, "could not be resumed");
                    trouble = error.to_string();
                }
            }
        }
        tracing::error!(container = %id, "its memory is lost; it is started anew");
        while let Some(parked) = checkpoint::parked(&site, &id).await {
            if let Err(error) = parked.discard(&site).await {
                tracing::error!(container = %id, %error, "could not be discarded; tried again");
                sleep(AGAIN).await;
            }
        }
        // In new namespaces: these are locked.
        let steps = [Step::DetachPorts, Step::DropNamespaces];
        if let Err(error) = act(&self.all, &id, &steps).await {
            tracing::warn!(container = %id, %error, "could not be taken down");
        }
        self.record.lost = Some(record::Lost {
            reason: "MemoryLost".to_owned(),
            message: format!(
                "{} could not let it go on after it had become its owner, so it was started anew from its files: {trouble}",
                self.all.host
            ),
        });
        // Who is started again must not take what was started anew for what was moved.
        while let Err(error) = self.all.records.save(&self.record) {
            tracing::error!(container = %id, %error, "the record of a migration could not be written; tried again");
            sleep(AGAIN).await;
        }
        None
    }

    /// None if it runs already.
    async fn try_resume(&mut self) -> Result<Option<Resumed>, checkpoint::Error> {
        let all = self.all.clone();
        let (site, id) = (&all.site, self.record.container.clone());
        if all.points.fails("target.resuming") {
            return Err(checkpoint::Error::Gone("parked"));
        }
        let here = match self.parked.take() {
            Some(parked) => Some(parked),
            None => checkpoint::parked(site, &id).await,
        };
        let parked = match here {
            Some(parked) => parked,
            None if site.record(&id).init.is_some_and(|i| i.lives()) => return Ok(None),
            None => self.restore().await?,
        };
        parked.resume(site).await.map(Some)
    }

    async fn discard(&mut self) -> TargetEvent {
        // It holds the namespaces that go.
        self.parked = None;
        let id = &self.record.container;
        loop {
            if let Some(parked) = checkpoint::parked(&self.all.site, id).await
                && let Err(error) = parked.discard(&self.all.site).await
            {
                tracing::warn!(container = %id, %error, "could not be discarded; tried again");
                sleep(AGAIN).await;
                continue;
            }
            let steps = [
                Step::Kill,
                Step::DetachPorts,
                Step::Unmount,
                Step::DropNamespaces,
                Step::Forget,
            ];
            let _ = std::fs::remove_dir_all(images(&self.record));
            match act(&self.all, id, &steps).await {
                Ok(()) => return TargetEvent::Done,
                Err(error) => {
                    tracing::warn!(container = %id, %error, "could not be discarded; tried again");
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

/// Does steps of the container's own plan. The caller holds its turn.
async fn act(all: &Migrations, id: &container::Id, steps: &[Step]) -> Result<(), Error> {
    let plan = Plan {
        steps: steps.to_vec(),
        blocked: None,
    };
    let desired = all.site.record(id).desired;
    let report = apply::apply(&all.site, id, &desired, &plan).await;
    let failed = report.steps.first_failure();
    failed.map_or(Ok(()), |(_, error)| Err(error.clone()))
}
