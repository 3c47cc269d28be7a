//! What arrives, until the target holds everything: image, ids, an empty layer; the files; in a live move the
//! container itself, before its first instruction.

use super::{Arrive, act};
use crate::checkpoint::{self, Options, Parked};
use crate::container::plan::{ImageState, Step};
use crate::container::record as container;
use crate::migration::layer::{self, Held};
use crate::migration::machine::TargetEvent;
use crate::migration::stream::{Frame, Lost, Message, Session};
use crate::migration::tree::Receiver;
use crate::migration::{empty, images};
use skysail_reconcile::Error;
use skysail_schemas::migration::MigrationMode;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
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
        let dir = (self.record.mode == MigrationMode::Live).then(|| images(&self.record));
        let disk = self.all.site.paths.containers();
        let received = tokio::task::spawn_blocking(move || copy(session, &held, dir, &disk)).await;
        match received {
            Ok(Ok(session)) => self.park(session).await,
            Ok(Err(error)) => {
                tracing::warn!(migration = self.record.name, %error, "a container did not arrive");
                TargetEvent::Failed
            }
            Err(error) => {
                tracing::error!(%error, "a mistake in the program");
                TargetEvent::Failed
            }
        }
    }

    /// Makes all that a live container needs, and restores it up to its first instruction.
    async fn park(&mut self, session: Session) -> TargetEvent {
        if self.record.mode != MigrationMode::Live {
            self.session = Some(session);
            return TargetEvent::Done;
        }
        let id = self.record.container.clone();
        self.turn = Some(self.all.site.turn(&id).await);
        let parked = match checkpoint::lock(&self.all.site, &id).await {
            Ok(()) => match act(&self.all, &id, &[Step::Root, Step::Ports]).await {
                Ok(()) => self.restore().await.map(drop).map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            },
            Err(e) => Err(e.to_string()),
        };
        match parked {
            Ok(()) => {
                self.session = Some(session);
                TargetEvent::Done
            }
            Err(e) => {
                tracing::warn!(container = %id, error = e, "could not be restored");
                let reason = "RestoreFailed".to_owned();
                let message = format!("on the target: {e}");
                let _ = session.say(Message::No { reason, message }).await;
                sleep(AGAIN).await;
                TargetEvent::Failed
            }
        }
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

/// Takes files until they are sealed; then everything is on disk and as the source has it. Blocks.
fn copy(
    mut session: Session,
    held: &Held,
    images: Option<PathBuf>,
    disk: &Path,
) -> io::Result<Session> {
    let images = images.map(|dir| {
        empty(&dir)?;
        Ok::<_, io::Error>(Receiver::new(File::open(dir)?.into()))
    });
    let mut trees = Trees {
        layer: Receiver::new(held.descriptor()?),
        images: images.transpose()?,
        at_images: false,
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

/// A disk with less room than this is full.
const FULL: u64 = 1 << 20;

/// What is wrong, with its word. A layer is a file system in a file: where the disk under it is full, the kernel
/// says no more of it than that it cannot be written.
fn trouble(e: &io::Error, disk: &Path) -> (&'static str, String) {
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
                let lost = |e| io::Error::new(io::ErrorKind::BrokenPipe, e);
                session.say_blocking(Message::Applied(pass)).map_err(lost)?;
            }
            Frame::Said(Message::Images) => self.at_images = true,
            Frame::Said(Message::Seal { digest, images }) => {
                self.layer.settle()?;
                self.layer.verify(&digest)?;
                match (&self.images, images) {
                    (Some(there), Some(digest)) => {
                        there.settle()?;
                        there.verify(&digest)?;
                    }
                    (None, None) => {}
                    _ => return Err(io::Error::other("sealed without what it was dumped into")),
                }
                return Ok(true);
            }
            Frame::Said(other) => {
                return Err(io::Error::other(format!("said out of turn: {other:?}")));
            }
        }
        Ok(false)
    }
}
