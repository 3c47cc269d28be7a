//! Mounts of a container's root, by system call: no fork on the way to a start.
//!
//! Image and layer are mounted idmapped, so on disk they bear the ids that the
//! container sees and neither is ever rewritten for a range; the overlay joins them.

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether something is mounted on `path`; an error is no answer.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    let device = |p: &Path| match std::fs::symlink_metadata(p) {
        Ok(m) => Ok(Some(m.dev())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    let Some(here) = device(path)? else {
        return Ok(false);
    };
    Ok(path.parent().map(device).transpose()?.flatten() != Some(here))
}

/// The tree at `source` as a mount that is attached nowhere yet.
pub fn clone(source: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(
        CWD,
        source,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?)
}

/// Attaches `tree` at `target`, which must exist, with the ids that the user namespace `ids` maps.
fn attach(
    tree: &OwnedFd,
    target: &Path,
    ids: Option<BorrowedFd<'_>>,
    read_only: bool,
) -> io::Result<()> {
    set_attributes(tree, ids, read_only)?;
    rustix::mount::move_mount(
        tree,
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}

#[allow(unsafe_code)]
fn set_attributes(tree: &OwnedFd, ids: Option<BorrowedFd<'_>>, read_only: bool) -> io::Result<()> {
    let mut set = if read_only {
        libc::MOUNT_ATTR_RDONLY
    } else {
        0
    };
    let userns = ids.map_or(0, |fd| {
        set |= libc::MOUNT_ATTR_IDMAP;
        u64::from(fd.as_raw_fd().unsigned_abs())
    });
    if set == 0 {
        return Ok(());
    }
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns,
    };
    // SAFETY: `tree` and `ids` are open for the whole call, the path is a constant NUL-terminated string, and
    // `attributes` is a live, fully initialised mount_attr whose size is given. No crate wraps this system call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Mounts at `mounts/rootfs` the overlay of `image` and `layer`, each shown with the ids that `ids` maps. `layer` is
/// a mount that is attached nowhere; none where it is at `mounts/layer` already.
pub fn root(
    image: &Path,
    layer: Option<&OwnedFd>,
    mounts: &Path,
    ids: Option<&File>,
) -> io::Result<()> {
    let (lower, private, merged) = (
        mounts.join("image"),
        mounts.join("layer"),
        mounts.join("rootfs"),
    );
    for dir in [&lower, &private, &merged] {
        std::fs::create_dir_all(dir)?;
    }
    let ids = ids.map(AsFd::as_fd);
    if !is_mounted(&lower)? {
        attach(&clone(image)?, &lower, ids, true)?;
    }
    if let Some(layer) = layer {
        attach(layer, &private, ids, false)?;
    }
    if is_mounted(&merged)? {
        return Ok(());
    }
    // Names are DNS labels and fixed words, so no comma or colon can stand in a path.
    // xino: a file has the same device and inode wherever it is asked for, so that one that is watched can be found.
    let options = format!(
        "xino=on,lowerdir={},upperdir={p}/upper,workdir={p}/work",
        lower.display(),
        p = private.display()
    );
    nix::mount::mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        nix::mount::MsFlags::empty(),
        Some(options.as_str()),
    )?;
    Ok(())
}

/// Undoes [`root`], also half of it.
pub fn unroot(mounts: &Path) -> io::Result<()> {
    for name in ["rootfs", "layer", "image"] {
        let path = mounts.join(name);
        while is_mounted(&path)? {
            rustix::mount::unmount(&path, UnmountFlags::DETACH)?;
        }
    }
    match std::fs::remove_dir_all(mounts) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Keeps a namespace alive, and reachable, as a file.
pub fn keep_namespace(source: &Path, target: &Path) -> io::Result<()> {
    drop_namespace(target)?;
    if let Some(dir) = target.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::create(target)?;
    nix::mount::mount(
        Some(source),
        target,
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// Lets a namespace go, if it is held.
pub fn drop_namespace(target: &Path) -> io::Result<()> {
    while is_mounted(target)? {
        rustix::mount::unmount(target, UnmountFlags::DETACH)?;
    }
    match std::fs::remove_file(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
