//! Finds what has changed in a tree since it was last sent, and sends it.

use super::scan::Known;
use super::{Entry, Raw, What, at, hex};
use crate::migration::stream::{CHUNK, Frame, Message};
use bytes::Bytes;
use rustix::fs::{SeekFrom, seek};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use tokio::sync::mpsc::Sender;

/// A change this close to when it was looked at may be followed by another one with the same time.
const GRAIN: i64 = 1;

/// What is to be sent.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Entries that are not there any more, deepest first.
    pub remove: Vec<Entry>,
    /// Entries that are new or other than they were, parents first.
    pub send: Vec<Entry>,
    /// Bytes of their files.
    pub bytes: u64,
}

/// What `now` has other than `before`, which was read at `read_at` (seconds since 1970).
pub fn changes(before: &BTreeMap<Raw, Known>, now: &BTreeMap<Raw, Known>, read_at: i64) -> Changes {
    let mut changes = Changes::default();
    let gone = before
        .iter()
        .rev()
        .filter(|(path, _)| !now.contains_key(path));
    changes.remove = gone.map(|(_, k)| k.entry.clone()).collect();
    let fresh = |path: &Raw, known: &Known| {
        before.get(path).is_none_or(|old| {
            let settled = known.changed.0 < read_at - GRAIN;
            let file = matches!(known.entry.what, What::File(_));
            old != known || (file && !settled)
        })
    };
    let mut again: Vec<&Raw> = vec![];
    for (path, known) in now {
        let renewed = match &known.entry.what {
            // A file that is made anew has lost its other names.
            What::Link(first) => again.contains(&first),
            _ => false,
        };
        if !fresh(path, known) && !renewed {
            continue;
        }
        if let What::File(size) = known.entry.what {
            changes.bytes += size;
        }
        if !matches!(known.entry.what, What::Directory) {
            again.push(path);
        }
        changes.send.push(known.entry.clone());
    }
    changes
}

/// Sends `changes` of the tree at `root`; returns the digest of each file that was sent, by its path. Blocks.
///
/// # Errors
/// Something cannot be read, or nobody takes it any more. A file that went away meanwhile is not sent: the next
/// pass tells of it.
pub fn send(
    root: &Path,
    changes: &Changes,
    to: &Sender<Frame>,
) -> io::Result<BTreeMap<Raw, String>> {
    let say = |message: Message| {
        let lost = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the target is gone");
        to.blocking_send(Frame::Said(message)).map_err(lost)
    };
    let mut digests = BTreeMap::new();
    for entry in &changes.remove {
        say(Message::Remove(entry.clone()))?;
    }
    for entry in &changes.send {
        let path = entry.path.path();
        if !matches!(entry.what, What::File(_)) {
            say(Message::Entry(entry.clone()))?;
            continue;
        }
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(root.join(&path));
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => continue,
            other => other.map_err(|e| at(&path, e))?,
        };
        say(Message::Entry(entry.clone()))?;
        let digest = content(&file, to).map_err(|e| at(&path, e))?;
        say(Message::End {
            digest: digest.clone(),
        })?;
        digests.insert(entry.path.clone(), digest);
    }
    Ok(digests)
}

/// Sends the bytes of a file but for its holes; returns their digest, which holes are part of by their places.
fn content(file: &File, to: &Sender<Frame>) -> io::Result<String> {
    let size = file.metadata()?.len();
    let (mut hash, mut at) = (Sha256::new(), 0);
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(rustix::io::Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        at = start;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let mut chunk = vec![0; length];
            let read = file.read_at(&mut chunk, at)?;
            if read == 0 {
                return Ok(hex(hash));
            }
            chunk.truncate(read);
            hash.update(at.to_be_bytes());
            hash.update(&chunk);
            to.blocking_send(Frame::Data(at, Bytes::from(chunk)))
                .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the target is gone"))?;
            at += read as u64;
        }
    }
    Ok(hex(hash))
}
