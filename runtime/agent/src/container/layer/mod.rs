//! The private layer of a container: what it wrote. Owner of: the image file that
//! holds it, the loop device under it, and how large it may become.
//!
//! Where the host can, a layer is a sparse file `layer.img` with an ext4 of the
//! container's size, so that writing beyond it is ENOSPC inside and nobody else
//! notices. Where it cannot, a layer is a plain directory `layer`, and the container
//! and the host say that it has no limit. Which of the two is decided once, when the
//! layer is made: what a container wrote is never left behind for an empty one.
//!
//! Invariants:
//! - An image is mounted at most once. The descriptor that the loop device holds
//!   carries a lock, so this is true across agents and across mounts that are not
//!   gone yet, and the kernel lets go of it, whoever was killed.
//! - A loop device goes with its last mount (autoclear); nobody has to remember it.
//!
//! Why not project quotas: the overlay writes with the rights of the one who mounted
//! it, whom quotas of ext4 do not bind, and quotas of XFS are not in every kernel.

mod device;
mod image;
/// A failure of the disk, told by its cause.
pub fn disk_error(id: &Id, what: &str, e: &std::io::Error) -> Error {
    match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Error::Refused {
            reason: "DiskFull".into(),
            message: format!("container {id}: {what}: this host's disk is full; free some"),
        },
        _ => Error::Transient(format!("container {id}: {what}: {e}")),
    }
}

#[cfg(test)]
mod tests;

use super::id::Id;
use super::paths::Paths;
use crate::command::Command;
use serde::{Deserialize, Serialize};
use skysail_reconcile::Error;
use skysail_schemas::condition::Fact;
use skysail_schemas::quantity::Bytes;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use image::length;

/// The condition of a Container that tells of its disk.
const CONTAINER: &str = "DiskLimited";
/// The condition of a Host that tells whether it can limit disks.
const HOST: &str = "DiskLimits";
/// How long an image may still be held by a mount that is on its way out.
const HELD: Duration = Duration::from_secs(5);
/// Size of the image that shows whether images work here.
const TRIAL: u64 = 16 << 20;

/// What the layer of a container is. Kept on record.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Layer {
    /// A file system of its own in an image of this length.
    Image {
        /// Bytes of the image; [`length`] tells which disk that is.
        length: u64,
    },
    /// A directory, without a limit.
    Directory {
        /// CamelCase word for the condition.
        reason: String,
        /// Why, and the way out.
        message: String,
    },
}

impl Layer {
    /// What the API is told, of a container that shall have `disk`.
    pub fn fact(&self, disk: Bytes) -> Fact {
        let (has, shall) = match self {
            Self::Directory { reason, message } => {
                return Fact::no(CONTAINER, reason.clone(), message.clone());
            }
            Self::Image { length: has } => (*has, length(disk)),
        };
        if has > shall {
            let message = format!(
                "its disk was larger and does not shrink to {disk}; make another Container"
            );
            return Fact::yes(CONTAINER, "DoesNotShrink", message);
        }
        if has < shall {
            let message = format!("its disk grows to {disk} when it is stopped and started");
            return Fact::yes(CONTAINER, "GrowsAtNextStart", message);
        }
        Fact::yes(CONTAINER, "Enforced", format!("{disk} at the most"))
    }
}

/// Where layers of this host are made.
#[derive(Debug)]
pub struct Layers {
    paths: Paths,
    /// Empty file systems by their size, copied for each container.
    templates: PathBuf,
    /// Why images do not work here, if they do not.
    trouble: Option<String>,
}

impl Layers {
    /// Finds out what this host can do, by doing it.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub async fn open(paths: Paths) -> io::Result<Self> {
        let templates = paths.templates();
        std::fs::create_dir_all(&templates)?;
        let mut this = Self {
            paths,
            templates,
            trouble: None,
        };
        this.trouble = this.trial().await.err().map(|e| e.to_string());
        if let Some(trouble) = &this.trouble {
            tracing::warn!(trouble, "disks of containers have no limit on this host");
        }
        Ok(this)
    }

    /// What the host's status says.
    pub fn fact(&self) -> Fact {
        match &self.trouble {
            None => Fact::yes(HOST, "Enforced", ""),
            Some(trouble) => Fact::no(
                HOST,
                "NotPossibleHere",
                format!(
                    "containers made here may fill the host's disk: {trouble}; a host needs loop devices, ext4 and e2fsprogs"
                ),
            ),
        }
    }

    async fn trial(&self) -> Result<(), Error> {
        let template = self.template(TRIAL).await?;
        let wrong = |e: io::Error| Error::Transient(format!("an image cannot be mounted: {e}"));
        let file = tempfile::tempfile_in(&self.templates).map_err(wrong)?;
        image::copy(&template, &file).map_err(wrong)?;
        let mounted = tokio::task::spawn_blocking(move || device::mount(file)).await;
        mounted
            .map_err(|e| Error::Transient(e.to_string()))?
            .map(drop)
            .map_err(wrong)
    }

    /// An empty file system of `length` bytes, made once.
    async fn template(&self, length: u64) -> Result<PathBuf, Error> {
        let path = self.templates.join(format!("{length}.ext4"));
        if path.exists() {
            return Ok(path);
        }
        let wrong = |e: io::Error| Error::Transient(format!("{}: {e}", path.display()));
        let draft = tempfile::NamedTempFile::new_in(&self.templates).map_err(wrong)?;
        draft.as_file().set_len(length).map_err(wrong)?;
        Command::new("mke2fs")
            .args(image::FORMAT)
            .arg(draft.path())
            .limit(Duration::from_secs(60))
            .run()
            .await
            .map_err(|e| Error::Transient(e.to_string()))?;
        draft.persist(&path).map_err(|e| wrong(e.error))?;
        Ok(path)
    }

    /// What the layer of a container is; none if it has none yet.
    ///
    /// # Errors
    /// It cannot be seen: then nothing may be made in its place.
    pub fn state(&self, id: &Id) -> io::Result<Option<Layer>> {
        match std::fs::metadata(self.paths.image(id)) {
            Ok(meta) => return Ok(Some(Layer::Image { length: meta.len() })),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(_) => {}
        }
        Ok(self.paths.layer(id).try_exists()?.then(|| self.directory()))
    }

    fn directory(&self) -> Layer {
        let (reason, message) = match &self.trouble {
            Some(trouble) => (
                "NotPossibleHere",
                format!("its disk has no limit, for this host cannot set one: {trouble}"),
            ),
            None => (
                "MadeWithoutLimit",
                "its disk has no limit, for it was made without one; make another Container".into(),
            ),
        };
        Layer::Directory {
            reason: reason.into(),
            message,
        }
    }

    /// Makes the layer of a container that shall have `disk` unless it has one, and lets an image grow to it.
    ///
    /// # Errors
    /// The disk is full, or the file system could not be made.
    pub async fn ensure(&self, id: &Id, disk: Bytes) -> Result<Layer, Error> {
        let wrong = |e: io::Error| disk_error(id, "its disk could not be prepared", &e);
        let wanted = length(disk);
        match self.state(id).map_err(wrong)? {
            Some(Layer::Image { length }) if length < wanted => {
                let file = File::options().write(true).open(self.paths.image(id));
                file.and_then(|f| f.set_len(wanted)).map_err(wrong)?;
                Ok(Layer::Image { length: wanted })
            }
            Some(layer) => Ok(layer),
            None if self.trouble.is_some() || disk.0 == 0 => {
                std::fs::create_dir_all(self.paths.layer(id)).map_err(wrong)?;
                Ok(self.directory())
            }
            None => {
                let template = self.template(wanted).await?;
                let directory = self.paths.container(id);
                image::place(&template, &directory, &self.paths.image(id)).map_err(wrong)?;
                Ok(Layer::Image { length: wanted })
            }
        }
    }

    /// Lets the disk of a container that runs grow to `disk`; its layer then.
    ///
    /// # Errors
    /// The host's kernel lets nobody resize what is mounted: then it grows at the next start.
    pub async fn grow(&self, id: &Id, disk: Bytes) -> io::Result<Option<Layer>> {
        let wanted = length(disk);
        let Some(Layer::Image { length }) = self.state(id)? else {
            return Ok(None);
        };
        let (image, mounted) = (self.paths.image(id), self.paths.private(id));
        let grown = tokio::task::spawn_blocking(move || {
            let file = File::options().read(true).write(true).open(image)?;
            if length < wanted {
                file.set_len(wanted)?;
            }
            device::grow(&file, &mounted)
        });
        grown.await.map_err(io::Error::other)??;
        Ok(Some(Layer::Image {
            length: length.max(wanted),
        }))
    }

    /// The layer as a mount that is attached nowhere yet, with `upper` and `work` in it.
    ///
    /// # Errors
    /// The image is still in use, or damaged.
    pub async fn mount(&self, id: &Id, layer: &Layer) -> Result<OwnedFd, Error> {
        let wrong = |e: &dyn std::fmt::Display| {
            Error::Transient(format!(
                "container {id}: its disk could not be mounted: {e}"
            ))
        };
        let path = match layer {
            Layer::Directory { .. } => {
                return super::mount::clone(&self.paths.layer(id)).map_err(|e| wrong(&e));
            }
            Layer::Image { .. } => self.paths.image(id),
        };
        let file = lock(&path).await.map_err(|e| wrong(&e))?;
        grow(&file, &path).await;
        tokio::task::spawn_blocking(move || device::mount(file))
            .await
            .map_err(|e| wrong(&e))?
            .map_err(|e| wrong(&format_args!("{}: {e}", path.display())))
    }
}

/// Makes the file system as large as its image, which nobody has mounted. Not every host lets a mounted one be resized.
async fn grow(file: &File, path: &Path) {
    let whole = file.metadata().map(|m| m.len() / image::BLOCK);
    let grown = match (image::blocks(file), whole) {
        (Ok(has), Ok(whole)) => has >= whole,
        // Mounting it will tell what is wrong with it.
        _ => true,
    };
    if grown {
        return;
    }
    for (program, flags) in [("e2fsck", "-fp"), ("resize2fs", "-f")] {
        let run = Command::new(program).arg(flags).arg(path);
        if let Err(error) = run.limit(Duration::from_secs(300)).run().await {
            // What was repaired is no failure; whether it has grown is seen when it is mounted.
            tracing::info!(path = %path.display(), %error, "growing a disk");
        }
    }
}

/// Opens an image that nobody has mounted; waits for a mount that is on its way out.
async fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).open(path)?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < HELD => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let message = format!("{} is still mounted: a process holds it", path.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Err(e) => return Err(e.into()),
        }
    }
}
