//! What arrives, until the target holds everything: image, ids, an empty layer; the files; in a live move the
//! container itself, before its first instruction.

use super::{Arrive, act};
use crate::checkpoint::{self, Options, Parked};
use crate::container::plan::Step;
use crate::container::record as container;
use crate::image::ImageState;
use crate::migration::layer::{self, Held};
use crate::migration::machine::TargetEvent;
use crate::migration::stream::{Frame, Lost, Message, Session};
use crate::migration::tree::Receiver;
use crate::migration::{empty, images};
use rustix::fs::syncfs;
use skysail_reconcile::Error;
use skysail_schemas::migration::MigrationMode;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long an image may take to come.
const FETCH: Duration = Duration::from_secs(600);
/// Between two attempts of the same thing.
const AGAIN: Duration = Duration::from_millis(500);

impl Arrive {
    pub(super) async fn receive(&mut self) -> TargetEvent {
        let Some(session) = self.session.take() else {
            return TargetEvent::Failed;
        };
        let held = match self.prepare(&session).await {
            Ok(held) => held,
            Err(e) => {
                let (reason, message) = (e.reason().to_owned(), format!("on the target: {e}"));
                tracing::warn!(
                    migration = self.record.name,
                    reason,
                    message,
                    "a container cannot come here"
                );
                let _ = session.say(Message::No { reason, message }).await;
                sleep(AGAIN).await;
                return TargetEvent::Failed;
            }
        };
        let live = self.record.mode == MigrationMode::Live;
        let dir = live.then(|| images(&self.record));
        if live {
            self.turn = Some(self.all.site.turn(&self.record.container).await);
        }
        let disk = self.all.site.paths.containers();
        let (dumped, stands) = oneshot::channel();
        let received =
            tokio::task::spawn_blocking(move || copy(session, &held, dir, &disk, dumped));
        // Not before it stands: to others on this host it would be here.
        let ports = async {
            match stands.await {
                Ok(()) => act(&self.all, &self.record.container, &[Step::Ports]).await,
                Err(_) => Ok(()),
            }
        };
        let (received, ports) = tokio::join!(received, ports);
        let result = match received {
            Ok(Ok(session)) => {
                let parked = match ports {
                    Ok(()) => self.park(&session).await,
                    Err(e) => Err(("RestoreFailed", e.to_string())),
                };
                self.told(session, parked).await
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(format!("a mistake in the program: {error}")),
        };
        match result {
            Ok(()) => TargetEvent::Done,
            Err(error) => {
                tracing::warn!(
                    migration = self.record.name,
                    error,
                    "a container did not arrive"
                );
                TargetEvent::Failed
            }
        }
    }

    /// Restores a live container up to its first instruction.
    async fn park(&mut self, session: &Session) -> Result<(), Trouble> {
        let _ = session.say(Message::Arrived).await;
        if self.record.mode != MigrationMode::Live {
            return Ok(());
        }
        let id = &self.record.container;
        let root = act(&self.all, id, &[Step::Root]).await;
        root.map_err(|e| ("RestoreFailed", e.to_string()))?;
        let layer = self.all.site.paths.private(id);
        // While it is restored, which writes nothing.
        let synced = tokio::task::spawn_blocking(move || Ok(syncfs(File::open(layer)?)?));
        let parked = self.restore().await;
        self.parked = Some(parked.map_err(|e| ("RestoreFailed", e.to_string()))?);
        let synced = synced.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        synced.map_err(|e: io::Error| trouble(&e, &self.all.site.paths.containers()))
    }

    /// Keeps the connection, or ends it with the reason.
    async fn told(&mut self, session: Session, parked: Result<(), Trouble>) -> Result<(), String> {
        let Err((reason, message)) = parked else {
            self.session = Some(session);
            return Ok(());
        };
        let (reason, message) = (reason.to_owned(), format!("on the target: {message}"));
        let no = Message::No {
            reason,
            message: message.clone(),
        };
        let _ = session.say(no).await;
        // Until it has read that.
        sleep(AGAIN).await;
        Err(message)
    }

    pub(super) async fn restore(&self) -> Result<Parked, checkpoint::Error> {
        let (site, id) = (&self.all.site, &self.record.container);
        checkpoint::restore(site, id, &images(&self.record), &Options::default()).await
    }

    /// Everything that can be there before the first file: image, ids, an empty layer.
    async fn prepare(&self, session: &Session) -> Result<Held, Error> {
        let (site, id) = (&self.all.site, &self.record.container);
        let (desired, status) = self.all.api.desired(&self.record).await?;
        let image = desired.image.clone();
        let image = image.ok_or_else(|| Error::refused("NoImage", "it has no image"))?;
        self.fetch(session, &image.name, &image.digest).await?;
        let _turn = site.turn(id).await;
        let old = site.record(id);
        if old.launched || old.init.is_some() {
            let message = format!("container {id} runs here already, of an earlier time");
            return Err(Error::refused("StillHere", message));
        }
        act(&self.all, id, &[Step::DetachPorts, Step::Forget]).await?;
        let ids = match desired.spec.privileged {
            true => None,
            false => Some(site.take_ids()?),
        };
        let disk = desired.allocation.disk;
        let mut record = container::Record {
            id: Some(id.clone()),
            desired,
            ids,
            restarts: status.restarts,
            ..container::Record::default()
        };
        // On record before there is anything, so that it is found again.
        site.save(id, &record)?;
        record.layer = Some(site.layers.ensure(id, disk).await?);
        site.save(id, &record)?;
        if self.record.mode == MigrationMode::Live {
            act(&self.all, id, &[Step::Namespaces]).await?;
            let locked = checkpoint::lock(site, id).await;
            locked.map_err(|e| Error::Transient(e.to_string()))?;
        }
        let held = layer::make(site, id, disk).await?;
        let gone = |_| Error::Transient(Lost.to_string());
        session.say(Message::Welcome).await.map_err(gone)?;
        Ok(held)
    }

    async fn fetch(&self, session: &Session, name: &str, digest: &str) -> Result<(), Error> {
        let images = &self.all.site.images;
        let (mut changed, begun) = (images.changed(), Instant::now());
        let mut asked = false;
        loop {
            match images.state(digest) {
                ImageState::Present => return Ok(()),
                ImageState::Failed {
                    reason, message, ..
                } if asked => return Err(Error::Refused { reason, message }),
                ImageState::Absent | ImageState::Failed { .. } => {
                    images.fetch(name, digest);
                    asked = true;
                }
                ImageState::Fetching(_) => {}
            }
            if begun.elapsed() > FETCH || !session.is_alive() {
                return Err(Error::Transient(format!(
                    "image {name} did not come in time"
                )));
            }
            let _ = timeout(AGAIN, changed.changed()).await;
        }
    }
}

/// Takes files until they are sealed; then everything is as the source has it and, in a cold move, on disk. Blocks.
/// `dumped` is told when the container stands.
fn copy(
    mut session: Session,
    held: &Held,
    images: Option<PathBuf>,
    disk: &Path,
    dumped: oneshot::Sender<()>,
) -> io::Result<Session> {
    let images = images.map(|dir| {
        empty(&dir)?;
        Ok::<_, io::Error>(Receiver::new(File::open(dir)?.into()))
    });
    let mut trees = Trees {
        layer: Receiver::new(held.descriptor()?),
        images: images.transpose()?,
        at_images: false,
        dumped: Some(dumped),
    };
    let result = loop {
        let frame = session
            .next_blocking()
            .map_err(|e| io::Error::new(io::ErrorKind::BrokenPipe, e))?;
        match trees.step(&session, frame) {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    match result {
        Ok(()) => Ok(session),
        Err(e) => {
            let (reason, message) = trouble(&e, disk);
            let no = Message::No {
                reason: reason.to_owned(),
                message: format!("on the target: {message}"),
            };
            let _ = session.say_blocking(no);
            // Until it has read that.
            std::thread::sleep(AGAIN);
            Err(e)
        }
    }
}

/// A CamelCase word, and why.
type Trouble = (&'static str, String);

/// A disk with less room than this is full.
const FULL: u64 = 1 << 20;

/// What is wrong, with its word. A layer is a file system in a file: where the disk under it is full, the kernel
/// says no more of it than that it cannot be written.
fn trouble(e: &io::Error, disk: &Path) -> Trouble {
    let room = rustix::fs::statvfs(disk).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ("TargetDiskFull", e.to_string())
        }
        _ if room.is_ok_and(|room| room < FULL) => {
            let message = format!(
                "its disk, with {}, is full ({e}); free some",
                disk.display()
            );
            ("TargetDiskFull", message)
        }
        _ => ("CopyFailed", e.to_string()),
    }
}

/// What arrives: files, and what the container was dumped into.
struct Trees {
    layer: Receiver,
    images: Option<Receiver>,
    at_images: bool,
    dumped: Option<oneshot::Sender<()>>,
}

impl Trees {
    /// Takes one frame; whether it was the last.
    fn step(&mut self, session: &Session, frame: Frame) -> io::Result<bool> {
        let receiver = match &mut self.images {
            Some(images) if self.at_images => images,
            _ => &mut self.layer,
        };
        match frame {
            Frame::Data(offset, bytes) => receiver.data(offset, &bytes)?,
            Frame::Said(Message::Entry(entry)) => receiver.entry(entry)?,
            Frame::Said(Message::End { digest }) => receiver.end(&digest)?,
            Frame::Said(Message::Remove(entry)) => receiver.remove(&entry)?,
            Frame::Said(Message::Pass(pass)) => {
                receiver.settle()?;
                receiver.sync()?;
                let lost = |e| io::Error::new(io::ErrorKind::BrokenPipe, e);
                session.say_blocking(Message::Applied(pass)).map_err(lost)?;
            }
            Frame::Said(Message::Images) => {
                self.at_images = true;
                if let Some(dumped) = self.dumped.take() {
                    // Nobody listens only when the agent ends.
                    let _ = dumped.send(());
                }
            }
            Frame::Said(Message::Seal { digest, images }) => {
                self.layer.settle()?;
                self.layer.verify(&digest)?;
                match (&self.images, images) {
                    (Some(there), Some(digest)) => {
                        there.settle()?;
                        there.verify(&digest)?;
                    }
                    (None, None) => self.layer.sync()?,
                    _ => return Err(io::Error::other("sealed without what it was dumped into")),
                }
                return Ok(true);
            }
            Frame::Packet(_) => return Err(io::Error::other("a packet out of turn")),
            Frame::Said(other) => {
                return Err(io::Error::other(format!("said out of turn: {other:?}")));
            }
        }
        Ok(false)
    }
}
