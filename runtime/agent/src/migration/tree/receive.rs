//! Makes a tree from what is sent.
//!
//! Whoever sends is not trusted with more than this tree: every path is resolved below its root, and no symbolic
//! link on the way is followed.

use super::scan::scan;
use super::{Entry, Raw, What, at, digest, hex};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    chownat, linkat, lremovexattr, lsetxattr, mkdirat, mknodat, openat2, symlinkat, syncfs,
    unlinkat, utimensat,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A tree in the making.
#[derive(Debug)]
pub struct Receiver {
    root: OwnedFd,
    entries: BTreeMap<Raw, Entry>,
    contents: BTreeMap<Raw, String>,
    open: Option<Open>,
}

/// The file whose bytes are arriving.
#[derive(Debug)]
struct Open {
    entry: Entry,
    file: File,
    hash: Sha256,
}

fn odd(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Receiver {
    /// A tree at `root`, an empty directory.
    pub fn new(root: OwnedFd) -> Self {
        Self {
            root,
            entries: BTreeMap::new(),
            contents: BTreeMap::new(),
            open: None,
        }
    }

    /// A directory below the root, and a path at which `path` is for calls that follow no link in its last part.
    fn place(&self, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = parent.unwrap_or(Path::new("."));
        let folder = openat2(&self.root, folder, flags, Mode::empty(), resolve)?;
        let name = match path.file_name() {
            Some(name) if name != ".." => name.to_owned(),
            None if path.as_os_str().is_empty() => ".".into(),
            _ => return Err(odd("a path that leads out of the tree")),
        };
        let full = Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(name);
        Ok((folder, full))
    }

    /// An entry that is new or other than it was.
    ///
    /// # Errors
    /// It cannot be made; or a file is still open.
    pub fn entry(&mut self, entry: Entry) -> io::Result<()> {
        let path = entry.path.path();
        if self.open.is_some() {
            return Err(odd("an entry inside of a file"));
        }
        let made = self.make(&entry, &path).map_err(|e| at(&path, e))?;
        match made {
            Some(file) => {
                let hash = Sha256::new();
                self.open = Some(Open { entry, file, hash });
            }
            None => {
                self.contents.remove(&entry.path);
                self.entries.insert(entry.path.clone(), entry);
            }
        }
        Ok(())
    }

    fn make(&self, entry: &Entry, path: &Path) -> io::Result<Option<File>> {
        let (_folder, full) = self.place(path)?;
        let there = std::fs::symlink_metadata(&full);
        let keep =
            matches!(entry.what, What::Directory) && there.as_ref().is_ok_and(|m| m.is_dir());
        if let Ok(there) = &there
            && !keep
        {
            let flags = if there.is_dir() {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            unlinkat(CWD, &full, flags)?;
        }
        match &entry.what {
            What::Directory if keep => {}
            What::Directory => mkdirat(CWD, &full, Mode::RWXU)?,
            What::File(_) => {
                let options = File::options().write(true).create_new(true).open(&full);
                return Ok(Some(options?));
            }
            What::Link(first) => {
                let (_first_folder, first) = self.place(&first.path())?;
                linkat(CWD, &first, CWD, &full, AtFlags::empty())?;
                return Ok(None);
            }
            What::Symlink(to) => symlinkat(to.path(), CWD, &full)?,
            What::Node(kind, device) => {
                let kind = FileType::from_raw_mode(*kind);
                mknodat(CWD, &full, kind, Mode::empty(), *device)?;
            }
        }
        dress(&full, entry)?;
        Ok(None)
    }

    /// Bytes of the file that was last announced.
    ///
    /// # Errors
    /// They cannot be written; or no file was.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let open = self.open.as_mut().ok_or_else(|| odd("bytes of no file"))?;
        open.hash.update(offset.to_be_bytes());
        open.hash.update(bytes);
        let written = open.file.write_all_at(bytes, offset);
        written.map_err(|e| at(&open.entry.path.path(), e))
    }

    /// The file is complete.
    ///
    /// # Errors
    /// Its bytes are not those that were sent; or there is none.
    pub fn end(&mut self, digest: &str) -> io::Result<()> {
        let Open { entry, file, hash } =
            self.open.take().ok_or_else(|| odd("the end of no file"))?;
        let path = entry.path.path();
        if hex(hash) != digest {
            return Err(odd(format!(
                "{}: what arrived is not what was sent",
                path.display()
            )));
        }
        if let What::File(size) = entry.what {
            file.set_len(size).map_err(|e| at(&path, e))?;
        }
        drop(file);
        let (_folder, full) = self.place(&path).map_err(|e| at(&path, e))?;
        dress(&full, &entry).map_err(|e| at(&path, e))?;
        self.contents.insert(entry.path.clone(), digest.to_owned());
        self.entries.insert(entry.path.clone(), entry);
        Ok(())
    }

    /// An entry is not there any more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&mut self, entry: &Entry) -> io::Result<()> {
        let path = entry.path.path();
        let remove = || {
            let (_folder, full) = self.place(&path)?;
            let flags = match entry.what {
                What::Directory => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            match unlinkat(CWD, &full, flags) {
                Err(rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
                Err(e) => Err(io::Error::from(e)),
            }
        };
        remove().map_err(|e| at(&path, e))?;
        self.entries.remove(&entry.path);
        self.contents.remove(&entry.path);
        Ok(())
    }

    /// A pass is complete: gives directories the times that work in them has changed.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn settle(&self) -> io::Result<()> {
        let folders = self.entries.values().rev();
        for entry in folders.filter(|e| matches!(e.what, What::Directory)) {
            let path = entry.path.path();
            let set = || {
                let (_folder, full) = self.place(&path)?;
                touch(&full, entry)
            };
            set().map_err(|e| at(&path, e))?;
        }
        Ok(())
    }

    /// Has it all on disk.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn sync(&self) -> io::Result<()> {
        // A descriptor that only names a place cannot be synced.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.root, ".", flags, Mode::empty())?;
        Ok(syncfs(folder)?)
    }

    /// Reads back what is on disk and compares it with the digest over everything at the source.
    ///
    /// # Errors
    /// They differ.
    pub fn verify(&self, wanted: &str) -> io::Result<()> {
        let root = PathBuf::from(format!("/proc/self/fd/{}/.", self.root.as_raw_fd()));
        let there = scan(&root, None)?;
        let all = there
            .iter()
            .map(|(path, known)| (&known.entry, self.contents.get(path).map(String::as_str)));
        if digest(all) == wanted {
            return Ok(());
        }
        let other = there
            .iter()
            .find(|(path, known)| self.entries.get(*path) != Some(&known.entry));
        let gone = self.entries.keys().find(|path| !there.contains_key(path));
        let example = other.map(|(path, _)| path).or(gone);
        let example = example.map_or("the list of files".into(), |p| {
            p.path().display().to_string()
        });
        Err(odd(format!(
            "what is on the target's disk is not what the source has: {example}"
        )))
    }
}

/// Owner, attributes, permissions and times of what is at `full`, in this order: a change of owner takes
/// capabilities and special permissions away.
fn dress(full: &Path, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(CWD, full, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let mut names = vec![0_u8; 65536];
    let length = match rustix::fs::llistxattr(full, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if !entry.attributes.contains_key(&Raw(name.to_vec())) {
            lremovexattr(full, name)?;
        }
    }
    for (name, value) in &entry.attributes {
        lsetxattr(full, &name.0[..], &value.0, XattrFlags::empty())?;
    }
    if !matches!(entry.what, What::Symlink(_)) {
        std::fs::set_permissions(full, Permissions::from_mode(entry.mode))?;
    }
    touch(full, entry)
}

fn touch(full: &Path, entry: &Entry) -> io::Result<()> {
    let time = Timespec {
        tv_sec: entry.modified.0,
        tv_nsec: entry.modified.1,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, full, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
