//! The private layer of a container as a list of entries: read on one host, made again on another, the same to the
//! last extended attribute.
//!
//! Ids are those on disk, which are those that the container sees: the layer is read through the mount that shifts
//! them for the container and shifted back, and written below any such mount. So a container may have other ids of
//! the host on each of its hosts.

mod receive;
mod scan;
mod send;
#[cfg(test)]
mod tests;

pub use receive::Receiver;
pub use scan::{Known, scan};
pub use send::{Changes, changes, send};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Bytes that are mostly text, in JSON: one character a byte.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// As a path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.clone()))
    }

    /// Of a path or name.
    pub fn of(text: impl AsRef<OsStr>) -> Self {
        Self(text.as_ref().as_bytes().to_vec())
    }
}

impl Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|b| char::from(*b)).collect();
        s.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let bytes = text.chars().map(|c| u8::try_from(u32::from(c)));
        let bytes: Result<Vec<u8>, _> = bytes.collect();
        bytes.map(Self).map_err(serde::de::Error::custom)
    }
}

/// What an entry is.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Directory,
    /// A file of this many bytes.
    File(u64),
    /// A further name of the file at this path.
    Link(Raw),
    /// A symbolic link to this text.
    Symlink(Raw),
    /// A device, a whiteout, a named pipe or a socket: the type bits of its mode, and its device number.
    Node(u32, u64),
}

/// One entry of a tree.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path from the root of the tree; empty for the root itself.
    pub path: Raw,
    /// What it is.
    pub what: What,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as the container sees it.
    pub uid: u32,
    /// Group, as the container sees it.
    pub gid: u32,
    /// When its content was last changed: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// Extended attributes.
    pub attributes: BTreeMap<Raw, Raw>,
}

/// One digest over everything that is in a tree: entries by path, and the digest of each file's bytes.
pub fn digest<'a>(entries: impl Iterator<Item = (&'a Entry, Option<&'a str>)>) -> String {
    let mut all = Sha256::new();
    for (entry, content) in entries {
        // A map and structs of plain values always have a JSON form.
        let text = serde_json::to_vec(entry).unwrap_or_default();
        all.update(text);
        all.update([0]);
        all.update(content.unwrap_or_default().as_bytes());
        all.update([0]);
    }
    hex(all)
}

/// The digest of a tree as it was read, whose files have these digests; others' are forgotten.
pub fn seal(now: &BTreeMap<Raw, Known>, digests: &mut BTreeMap<Raw, String>) -> String {
    let is_file = |path: &Raw| {
        let known = now.get(path);
        known.is_some_and(|k| matches!(k.entry.what, What::File(_)))
    };
    digests.retain(|path, _| is_file(path));
    digest(
        now.iter()
            .map(|(path, known)| (&known.entry, digests.get(path).map(String::as_str))),
    )
}

/// A digest in hexadecimal.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// An error that names the path.
fn at(path: &Path, e: impl Into<std::io::Error>) -> std::io::Error {
    let e = e.into();
    // The kind tells a full disk from a broken one.
    std::io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}
