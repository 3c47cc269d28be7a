//! A running container as files, and files as a running container: CRIU under LXC.
//!
//! Owner of: what CRIU leaves while a container is frozen (its tasks held by the
//! freezer, its network locked), the images in the directory that it is given, and
//! nothing else. The private layer, the mounts, the namespaces and the ports of a
//! container are the caller's on both sides.
//!
//! The order that neither loses nor doubles, for the caller:
//! source [`freeze`] → images and the rest of the layer go over → target [`restore`]
//! → the commit is put on record → source [`Frozen::end`] → target [`Parked::resume`].
//! Before the commit any failure is [`Frozen::resume`] and [`Parked::discard`].
//!
//! Invariants:
//! - From [`freeze`] on no task runs until one of the two ends of [`Frozen`] was
//!   asked for, even if CRIU or this agent is killed: the freezer holds them.
//! - The caller holds the container's turn from before [`freeze`] or [`restore`] until
//!   the end that it chose, so nobody starts, stops or counts what is half there.

mod error;

pub use error::Error;

use crate::container::record::{Id, Init};
use crate::container::site::Site;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How to freeze or restore.
#[derive(Debug, Clone)]
pub struct Options {
    /// Longer than this and the attempt is given up and undone.
    pub limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(30),
        }
    }
}

/// What CRIU could not dump, found without touching the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// A CamelCase word that programs can test, such as `NestedNamespace`.
    pub reason: &'static str,
    /// Process, descriptor or feature, for people: `process 41 (gdb), descriptor 7`.
    pub subject: String,
    /// What of it cannot be moved, and the way out.
    pub message: String,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

/// A container whose tasks are alive, stand still and are in the images too. Dropped, it stays so: see [`frozen`].
#[derive(Debug)]
pub struct Frozen {
    /// Which container.
    pub id: Id,
    /// The images.
    pub dir: PathBuf,
    /// How long the tasks have been standing when the images were complete.
    pub took: Duration,
}

/// A container that is restored and stands before its first instruction. Dropped, it stays so: see [`parked`].
#[derive(Debug)]
pub struct Parked {
    /// Which container.
    pub id: Id,
    /// Its new init.
    pub init: Init,
    /// How long it took to come here.
    pub took: Duration,
}

/// Stops all tasks of `id`, locks its network and writes everything that it is into `dir`, an existing empty
/// directory on a tmpfs. The private layer does not change any more when this returns.
///
/// # Errors
/// The container runs on as before.
pub async fn freeze(site: &Site, id: &Id, dir: &Path, opts: &Options) -> Result<Frozen, Error> {
    let _ = (site, id, dir, opts);
    Err(Error::NotSupported)
}

/// The container that an earlier agent, or an earlier call, left frozen with its images in `dir`; none if it is not.
pub async fn frozen(site: &Site, id: &Id, dir: &Path) -> Option<Frozen> {
    let _ = (site, id, dir);
    None
}

impl Frozen {
    /// Undoes [`freeze`]: the network is unlocked, the tasks run on, no file in `dir` is left.
    ///
    /// # Errors
    /// Something is still held; call [`frozen`] and try again.
    pub async fn resume(self, site: &Site) -> Result<(), Error> {
        let _ = site;
        Err(Error::NotSupported)
    }

    /// After the commit: kills every task, and returns when none is left. The images stay, for they are the
    /// caller's to send again; layer, mounts, namespaces and ports are the caller's to remove.
    ///
    /// # Errors
    /// Something still lives; call [`frozen`] and try again. Never resumes anything.
    pub async fn end(self, site: &Site) -> Result<(), Error> {
        let _ = site;
        Err(Error::NotSupported)
    }
}

/// Makes the container in `dir` again, up to just before its first instruction, with its network locked.
///
/// Before: its record has `desired`, `ids` and `layer`; its root is mounted, with the private layer as it was after
/// the freeze; its namespaces exist and its ports are attached (the steps `TakeIds`, `Namespaces`, `Root`, `Ports` of
/// [`crate::container::apply`]). After: the namespaces at [`crate::container::paths::Paths`] are those that it lives
/// in, and its record has the new init, with no restart counted.
///
/// # Errors
/// Nothing of it is left but what was there before the call.
pub async fn restore(site: &Site, id: &Id, dir: &Path, opts: &Options) -> Result<Parked, Error> {
    let _ = (site, id, dir, opts);
    Err(Error::NotSupported)
}

/// The container that an earlier agent, or an earlier call, left parked; none if it is not.
pub async fn parked(site: &Site, id: &Id) -> Option<Parked> {
    let _ = (site, id);
    None
}

impl Parked {
    /// Unlocks its network and lets it run. From here on it is a container like any other.
    ///
    /// # Errors
    /// It could not be let go; nothing of it ran, and [`parked`] finds it, or it is gone and may be restored again.
    pub async fn resume(self, site: &Site) -> Result<(), Error> {
        let _ = site;
        Err(Error::NotSupported)
    }

    /// Undoes [`restore`].
    ///
    /// # Errors
    /// Something is still there; call [`parked`] and try again.
    pub async fn discard(self, site: &Site) -> Result<(), Error> {
        let _ = site;
        Err(Error::NotSupported)
    }
}

/// What stands against freezing `id` as it is now; empty if nothing is known to. Only looks.
pub async fn preflight(site: &Site, id: &Id) -> Vec<Obstacle> {
    let _ = (site, id);
    vec![Obstacle {
        reason: "NotSupported",
        subject: "this host".into(),
        message: Error::NotSupported.to_string(),
    }]
}
