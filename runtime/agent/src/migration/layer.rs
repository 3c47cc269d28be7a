//! Where the private layer of a container is read on its source and made on its target.

use crate::container::idmap::IdRange;
use crate::container::mount;
use crate::container::record::Id;
use crate::container::site::Site;
use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use skysail_reconcile::Error;
use skysail_schemas::quantity::Bytes;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

/// Directory of the layer that has what the container wrote; the other belongs to the overlay.
const UPPER: &str = "upper";

/// A directory that is held open, and with it what it is mounted from.
pub struct Held {
    /// What is below must outlive the directory.
    _mount: Option<OwnedFd>,
    upper: OwnedFd,
    /// The ids that it shows instead of those on disk.
    pub ids: Option<IdRange>,
}

impl Held {
    /// A path to it, for as long as this is held.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/.", self.upper.as_raw_fd()))
    }

    /// Another descriptor of it.
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.upper.try_clone()
    }
}

fn folder() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// The layer of a container of this host, running or not. While it is held, the layer cannot be mounted again.
///
/// # Errors
/// It cannot be reached.
pub async fn read(site: &Site, id: &Id) -> Result<Held, Error> {
    let record = site.record(id);
    let wrong = |e: std::io::Error| {
        Error::Transient(format!("container {id}: its layer cannot be read: {e}"))
    };
    let mounted = site.paths.private(id);
    if mount::is_mounted(&mounted).map_err(wrong)? {
        let upper = open(mounted.join(UPPER), folder(), Mode::empty());
        return Ok(Held {
            _mount: None,
            upper: upper.map_err(|e| wrong(e.into()))?,
            ids: record.ids,
        });
    }
    make(site, id, record.desired.allocation.disk).await
}

/// The layer of a container that is not mounted here, with ids as they are on disk; made if there is none.
///
/// # Errors
/// The disk is full, or the layer is in use.
pub async fn make(site: &Site, id: &Id, disk: Bytes) -> Result<Held, Error> {
    let wrong = |e: std::io::Error| {
        Error::Transient(format!("container {id}: its layer cannot be opened: {e}"))
    };
    let layer = site.layers.ensure(id, disk).await?;
    let mount = site.layers.mount(id, &layer).await?;
    match mkdirat(&mount, UPPER, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(wrong(e.into())),
    }
    let upper = openat(&mount, UPPER, folder(), Mode::empty()).map_err(|e| wrong(e.into()))?;
    Ok(Held {
        _mount: Some(mount),
        upper,
        ids: None,
    })
}
