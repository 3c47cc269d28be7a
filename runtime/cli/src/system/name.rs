//! The name of a server process among all over one store, under which it holds Leases.
//!
//! A name must never be used by two processes at a time, and a server that was killed
//! and started again should have its old one: then it goes on at once, where another
//! name would wait until the Lease ends. So a name is a locked file, which the kernel
//! unlocks when the process is gone, however it ended; it consists of what makes that
//! file one of a kind: the kernel's boot, the file system and the inode.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// More servers over one data directory than anybody has.
const MOST: u32 = 64;

/// A name, this process's own while it is kept.
pub struct Name {
    /// As it stands in Leases.
    pub text: String,
    _lock: File,
}

/// Takes the first free name of those in `<data-dir>/servers`.
///
/// # Errors
/// When the files there cannot be made or locked.
pub fn take(data_dir: &Path) -> Result<Name> {
    let folder = data_dir.join("servers");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("boot_id")?;
    for number in 0..MOST {
        let path = folder.join(number.to_string());
        let place = || path.display().to_string();
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&path);
        let file = file.with_context(place)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(e)) => return Err(e).with_context(place),
        }
        let (device, inode) = file.metadata().map(|m| (m.dev(), m.ino()))?;
        let boot: String = boot.chars().take(8).collect();
        let text = format!("{}-{boot}-{device:x}-{inode:x}", hostname());
        return Ok(Name { text, _lock: file });
    }
    bail!(
        "all {MOST} names in {} are in use; end a server",
        folder.display()
    )
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .map(|h| h.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_had_by_one_at_a_time_and_again_by_who_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (take(dir.path()).unwrap(), take(dir.path()).unwrap());
        assert_ne!(one.text, two.text);
        let before = one.text.clone();
        drop(one);
        assert_eq!(take(dir.path()).unwrap().text, before);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(take(other.path()).unwrap().text, two.text);
    }
}
