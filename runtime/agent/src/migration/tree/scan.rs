//! Reads what a tree consists of.

use super::{Entry, Raw, What, at};
use crate::container::idmap::{COUNT, IdRange};
use rustix::fs::{lgetxattr, llistxattr};
use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Attributes of the overlay that speak of the layer below on one host: elsewhere they would name nothing.
const LOCAL: [&[u8]; 4] = [
    b"trusted.overlay.origin",
    b"trusted.overlay.impure",
    b"trusted.overlay.nlink",
    b"trusted.overlay.uuid",
];
/// Capabilities of a file; version 3 names the root of a user namespace in its last four bytes.
const CAPABILITIES: &[u8] = b"security.capability";

/// Access lists: a version (4 bytes), then entries of a tag (2), permissions (2) and an id (4).
const ACCESS_LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// Tags of entries whose id counts: a user, a group.
const NAMED: [u16; 2] = [0x02, 0x08];

/// What is known of an entry, with what tells on this host that it has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The entry.
    pub entry: Entry,
    /// File system and inode number.
    pub identity: (u64, u64),
    /// When anything of it was last changed.
    pub changed: (i64, i64),
}

/// Everything below `root`, and `root` itself, by path. `ids` are those that the mount at `root` shows instead of
/// the container's.
///
/// # Errors
/// Something cannot be read. What goes away meanwhile is left out.
pub fn scan(root: &Path, ids: Option<IdRange>) -> io::Result<BTreeMap<Raw, Known>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    let meta = std::fs::symlink_metadata(root).map_err(|e| at(root, e))?;
    let own = known(root, Raw::default(), &meta, ids)?;
    all.insert(Raw::default(), own);
    while let Some(folder) = folders.pop() {
        let listed = match std::fs::read_dir(root.join(&folder)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| at(&folder, e))?,
        };
        for entry in listed {
            let entry = entry.map_err(|e| at(&folder, e))?;
            let path = folder.join(entry.file_name());
            let full = root.join(&path);
            let seen = std::fs::symlink_metadata(&full)
                .and_then(|meta| Ok((known(&full, Raw::of(&path), &meta, ids)?, meta.is_dir())));
            match seen {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(at(&path, e)),
                Ok((known, is_dir)) => {
                    all.insert(Raw::of(&path), known);
                    if is_dir {
                        folders.push(path);
                    }
                }
            }
        }
    }
    link(&mut all);
    Ok(all)
}

/// Of several names of one file, the first by path has it; the others are links to that.
fn link(all: &mut BTreeMap<Raw, Known>) {
    let mut first: HashMap<(u64, u64), Raw> = HashMap::new();
    for (path, known) in all {
        if matches!(known.entry.what, What::Directory) {
            continue;
        }
        match first.get(&known.identity) {
            Some(first) => known.entry.what = What::Link(first.clone()),
            None => {
                first.insert(known.identity, path.clone());
            }
        }
    }
}

fn known(full: &Path, path: Raw, meta: &Metadata, ids: Option<IdRange>) -> io::Result<Known> {
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        What::Directory
    } else if kind.is_file() {
        What::File(meta.len())
    } else if kind.is_symlink() {
        What::Symlink(Raw::of(std::fs::read_link(full)?))
    } else if kind.is_char_device() || kind.is_block_device() {
        What::Node(meta.mode() & libc::S_IFMT, meta.rdev())
    } else {
        What::Node(meta.mode() & libc::S_IFMT, 0)
    };
    let entry = Entry {
        path,
        what,
        mode: meta.mode() & 0o7777,
        uid: inside(meta.uid(), ids),
        gid: inside(meta.gid(), ids),
        modified: (meta.mtime(), meta.mtime_nsec()),
        attributes: attributes(full, ids)?,
    };
    Ok(Known {
        entry,
        identity: (meta.dev(), meta.ino()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// An id of this host as it stands on disk. The host's own root is one beyond the container's: see
/// [`IdRange::mount_map`].
fn inside(id: u32, ids: Option<IdRange>) -> u32 {
    match ids {
        Some(range) if (range.base..range.base + COUNT).contains(&id) => id - range.base,
        Some(_) if id == 0 => COUNT,
        _ => id,
    }
}

fn attributes(full: &Path, ids: Option<IdRange>) -> io::Result<BTreeMap<Raw, Raw>> {
    let mut names = vec![0_u8; 4096];
    let length = loop {
        match llistxattr(full, &mut names[..]) {
            Ok(length) => break length,
            Err(rustix::io::Errno::RANGE) => names = vec![0; names.len() * 4],
            Err(rustix::io::Errno::OPNOTSUPP) => break 0,
            Err(e) => return Err(e.into()),
        }
    };
    let mut all = BTreeMap::new();
    let names = names[..length].split(|b| *b == 0).filter(|n| !n.is_empty());
    for name in names.filter(|n| !LOCAL.contains(n)) {
        let mut value = vec![0_u8; 1024];
        let length = loop {
            match lgetxattr(full, name, &mut value[..]) {
                Ok(length) => break Some(length),
                Err(rustix::io::Errno::RANGE) => value = vec![0; value.len() * 8],
                Err(rustix::io::Errno::NODATA) => break None,
                Err(e) => return Err(e.into()),
            }
        };
        let Some(length) = length else { continue };
        value.truncate(length);
        if name == CAPABILITIES {
            value = capabilities(value, ids);
        } else if ACCESS_LISTS.contains(&name) {
            value = access_list(value, ids);
        }
        all.insert(Raw(name.to_vec()), Raw(value));
    }
    Ok(all)
}

/// Its ids as they stand on disk.
fn access_list(mut value: Vec<u8>, ids: Option<IdRange>) -> Vec<u8> {
    for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if NAMED.contains(&tag) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            entry[4..].copy_from_slice(&inside(id, ids).to_le_bytes());
        }
    }
    value
}

/// The root of the namespace that capabilities hold in, as it stands on disk.
fn capabilities(mut value: Vec<u8>, ids: Option<IdRange>) -> Vec<u8> {
    if let Some(root) = value.get_mut(20..24)
        && let Ok(id) = <[u8; 4]>::try_from(&*root)
    {
        let id = u32::from_le_bytes(id);
        let id = if ids.is_some_and(|r| r.base == id) {
            0
        } else {
            id
        };
        root.copy_from_slice(&id.to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_stand_on_disk() {
        let ids = Some(IdRange { base: 1 << 20 });
        assert_eq!(inside((1 << 20) + 33, ids), 33);
        assert_eq!(inside(0, ids), COUNT);
        assert_eq!(inside(33, None), 33);
        let entry = |tag: u16, id: u32| {
            [
                &tag.to_le_bytes()[..],
                &7_u16.to_le_bytes(),
                &id.to_le_bytes(),
            ]
            .concat()
        };
        let list = |group: u32| [vec![2, 0, 0, 0], entry(1, u32::MAX), entry(8, group)].concat();
        assert_eq!(access_list(list((1 << 20) + 4), ids), list(4));
        let capability = |root: u32| [vec![0; 20], root.to_le_bytes().to_vec()].concat();
        assert_eq!(capabilities(capability(1 << 20), ids), capability(0));
        assert_eq!(capabilities(vec![0; 20], ids), vec![0; 20]);
    }
}
