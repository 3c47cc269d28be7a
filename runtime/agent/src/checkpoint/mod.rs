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

mod arrivals;
mod console;
mod dump;
mod error;
mod freezer;
mod images;
mod lock;
mod preflight;
mod pressure;
mod restore;
mod tasks;
mod timers;
mod watches;
mod work;

pub use arrivals::{Arrivals, Entry, Packet};
pub use error::Error;
pub use preflight::{fact, host_fact};

use crate::container::record::{Id, Init};
use crate::container::site::Site;
use freezer::Group;
use jiff::Timestamp;
use lock::Lock;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use work::{Phase, Work};

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
    /// Since when the tasks stand; none for one that was found.
    pub since: Option<Instant>,
    /// What has arrived for it since then, if that is kept.
    pub arrivals: Option<Arrivals>,
}

/// A container that is restored and stands before its first instruction. Dropped, it stays so: see [`parked`].
#[derive(Debug)]
pub struct Parked {
    /// Which container.
    pub id: Id,
    /// Its new init.
    pub init: Init,
    /// What has arrived for it here since its interfaces are up, if that is kept.
    arrivals: Option<Arrivals>,
    /// What opens its network, got ready.
    unlock: Option<Lock>,
}

/// A container that goes on after it was restored.
#[derive(Debug)]
pub struct Resumed(Id);

/// Stops all tasks of `id`, locks its network and writes everything that it is into `dir`, an existing empty
/// directory on a tmpfs. The private layer does not change any more when this returns.
///
/// # Errors
/// The container runs on as before.
pub async fn freeze(site: &Site, id: &Id, dir: &Path, opts: &Options) -> Result<Frozen, Error> {
    let standing = dump::freeze(site, id, dir, opts).await?;
    Ok(Frozen {
        id: id.clone(),
        dir: dir.to_owned(),
        since: Some(standing.since),
        arrivals: standing.arrivals,
    })
}

/// The container that an earlier agent, or an earlier call, left frozen with its images in `dir`; none if it is not.
/// What was left half dumped is undone first: then it runs.
pub async fn frozen(site: &Site, id: &Id, dir: &Path) -> Option<Frozen> {
    let state = Work::of(id).load().filter(|s| s.dir == dir)?;
    match state.phase {
        Phase::Frozen => Some(Frozen {
            id: id.clone(),
            dir: dir.to_owned(),
            since: None,
            arrivals: None,
        }),
        Phase::Parked => None,
        Phase::Dumping => {
            if let Ok(group) = Group::of(state.init.pid, site.version) {
                let undone = dump::undo(id, &group, &site.paths.netns(id), dir).await;
                if let Err(error) = undone {
                    tracing::warn!(container = %id, %error, "what an earlier agent began could not be undone");
                }
            }
            None
        }
    }
}

impl Frozen {
    /// Undoes [`freeze`]: the network is unlocked, the tasks run on, no file in `dir` is left.
    ///
    /// # Errors
    /// Something is still held; call [`frozen`] and try again.
    pub async fn resume(self, site: &Site) -> Result<(), Error> {
        let state = Work::of(&self.id).load().ok_or(Error::Gone("frozen"))?;
        let group = Group::of(state.init.pid, site.version).map_err(|_| Error::Gone("frozen"))?;
        dump::undo(&self.id, &group, &site.paths.netns(&self.id), &self.dir).await
    }

    /// After the commit: kills every task, and returns when none is left. [`Self::end`] is still to come.
    ///
    /// # Errors
    /// Something still lives.
    pub async fn kill(&self, site: &Site) -> Result<(), Error> {
        let state = Work::of(&self.id).load();
        match state.and_then(|s| Group::of(s.init.pid, site.version).ok()) {
            Some(group) => group
                .kill()
                .await
                .map_err(Error::file(format!("ending container {}", self.id))),
            None => Ok(()),
        }
    }

    /// After the commit: kills every task, and returns when none is left. The images stay, for they are the
    /// caller's to send again; layer, mounts, namespaces and ports are the caller's to remove. The record has no
    /// init any more: the caller keeps the container's turn until the API says that it is another host's.
    ///
    /// # Errors
    /// Something still lives; call [`frozen`] and try again. Never resumes anything.
    pub async fn end(self, site: &Site) -> Result<(), Error> {
        let state = Work::of(&self.id).load();
        let group = state.and_then(|s| Group::of(s.init.pid, site.version).ok());
        dump::end_for_good(&self.id, group).await?;
        let mut record = site.record(&self.id);
        (record.launched, record.init) = (false, None);
        site.save(&self.id, &record)
            .map_err(|e| Error::Record(e.to_string()))
    }
}

/// Makes the container in `dir` again, up to just before its first instruction, with its network locked.
///
/// Before: its record has `desired`, `ids`, `layer`, `attached` and `bandwidth`; its root is mounted, with the private
/// layer as it was after the freeze; its namespaces exist and its ports are attached (the steps `TakeIds`,
/// `Namespaces`, `Root`, `Ports` of [`crate::container::apply`]). After: the namespaces at
/// [`crate::container::paths::Paths`] are those that it lives in. The images may have been changed.
///
/// # Errors
/// Nothing of it runs; what was prepared can be used again, and is locked.
pub async fn restore(site: &Site, id: &Id, dir: &Path, opts: &Options) -> Result<Parked, Error> {
    let (init, arrivals) = restore::restore(site, id, dir, opts).await?;
    Ok(Parked {
        id: id.clone(),
        init,
        arrivals,
        unlock: Lock::ready(&site.paths.netns(id)).await.ok(),
    })
}

/// Locks the namespace in which `id` will be restored, before its ports are attached: what comes for it until it runs
/// is dropped, and so is sent again, not refused. It stays locked until [`Parked::resume`], or goes with the namespace.
///
/// # Errors
/// nftables does not work there.
pub async fn lock(site: &Site, id: &Id) -> Result<(), Error> {
    lock::close(&site.paths.netns(id)).await
}

/// The container that an earlier agent, or an earlier call, left parked; none if it is not. What was left half
/// restored is taken away first.
pub async fn parked(site: &Site, id: &Id) -> Option<Parked> {
    let state = Work::of(id).load()?;
    if state.phase == Phase::Parked && state.init.lives() {
        return Some(Parked {
            id: id.clone(),
            init: state.init,
            arrivals: None,
            unlock: None,
        });
    }
    if state.phase != Phase::Frozen && site.record(id).init != Some(state.init) {
        let undone = restore::undo(site, id).await;
        if let Err(error) = undone {
            tracing::warn!(container = %id, %error, "what an earlier agent restored could not be taken away");
        }
    }
    None
}

impl Parked {
    /// Unlocks its network and lets it run. Its record then has the new init, and no restart is counted. What has
    /// arrived for it here is put in.
    ///
    /// # Errors
    /// It could not be let go; [`parked`] finds it, or it is gone and may be restored again.
    pub async fn resume(self, site: &Site) -> Result<Resumed, Error> {
        let state = Work::of(&self.id).load().ok_or(Error::Gone("parked"))?;
        let mut record = site.record(&self.id);
        (record.launched, record.init, record.ended_at) = (true, Some(self.init), None);
        record.started_at = record.started_at.or(Some(Timestamp::now()));
        site.save(&self.id, &record)
            .map_err(|e| Error::Record(e.to_string()))?;
        restore::release(site, &self.id, &state).await?;
        let unlock = match self.unlock {
            Some(ready) => ready,
            None => Lock::ready(&site.paths.netns(&self.id)).await?,
        };
        unlock.open().await?;
        if let (Some(arrivals), Ok(entry)) = (&self.arrivals, Entry::of(&record.attached)) {
            arrivals.so_far().iter().for_each(|p| entry.put(p));
        }
        restore::thaw(site, &self.id, &state)?;
        site.connect(&self.id, true);
        site.watch(&self.id, self.init);
        Ok(Resumed(self.id))
    }

    /// Undoes [`restore`].
    ///
    /// # Errors
    /// Something is still there; call [`parked`] and try again.
    pub async fn discard(self, site: &Site) -> Result<(), Error> {
        restore::undo(site, &self.id).await
    }
}

impl Resumed {
    /// Takes away what restored it. From here on it is a container like any other.
    ///
    /// # Errors
    /// `/run` cannot be written.
    pub async fn settle(self) -> Result<(), Error> {
        restore::settle(&self.0).await
    }
}

/// What stands against freezing `id` as it is now; empty if nothing is known to. Only looks.
pub async fn preflight(site: &Site, id: &Id) -> Vec<Obstacle> {
    preflight::look(site, id).await
}
