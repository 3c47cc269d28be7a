//! A tree with one of everything arrives as it was, also when it changes while it is sent.

use super::*;
use crate::migration::stream::{Frame, Message};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tokio::sync::mpsc;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("etc/deep/er")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0").unwrap();
    fs::write(root.join("etc/empty"), "").unwrap();
    fs::hard_link(root.join("etc/passwd"), root.join("etc/deep/passwd")).unwrap();
    symlink("/nowhere/at/all", root.join("etc/dangling")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), "x").unwrap();
    fs::set_permissions(root.join("etc/empty"), fs::Permissions::from_mode(0o4711)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 32 << 20).unwrap();
    let pipe = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), pipe, mode, 0).unwrap();
    if is_root() {
        let whiteout = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("gone"), whiteout, mode, 0).unwrap();
        std::os::unix::fs::lchown(root.join("etc/dangling"), Some(7), Some(8)).unwrap();
        std::os::unix::fs::chown(root.join("sparse"), Some(33), Some(33)).unwrap();
        let attribute = |name: &str, value: &[u8]| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(root.join("etc"), name, value, flags)
        };
        // A file system without such attributes is no failure of ours.
        let _ = attribute("trusted.overlay.opaque", b"y");
        let _ = attribute("trusted.overlay.origin", b"local");
    }
}

/// Sends what has changed; returns what the target's disk then answers.
fn pass(
    source: &Path,
    before: &BTreeMap<Raw, Known>,
    digests: &mut BTreeMap<Raw, String>,
    receiver: &mut Receiver,
) -> (BTreeMap<Raw, Known>, io::Result<()>) {
    let now = scan(source, None).unwrap();
    let changes = changes(before, &now, 0);
    let (to, mut from) = mpsc::channel(4);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = send(source, &changes, &to);
            drop(to);
            sent
        });
        while let Some(frame) = from.blocking_recv() {
            match frame {
                Frame::Data(offset, bytes) => receiver.data(offset, &bytes).unwrap(),
                Frame::Said(Message::Entry(entry)) => receiver.entry(entry).unwrap(),
                Frame::Said(Message::End { digest }) => receiver.end(&digest).unwrap(),
                Frame::Said(Message::Remove(entry)) => receiver.remove(&entry).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        sender.join().unwrap().unwrap()
    });
    digests.extend(sent);
    receiver.settle().unwrap();
    let verified = receiver.verify(&seal(&now, digests));
    (now, verified)
}

fn open(path: &Path) -> Receiver {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    Receiver::new(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap())
}

#[test]
fn a_tree_arrives_as_it_was_and_so_do_its_changes() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (source.path(), target.path());
    fill(from);
    let (mut receiver, mut digests) = (open(to), BTreeMap::new());
    let (before, verified) = pass(from, &BTreeMap::new(), &mut digests, &mut receiver);
    verified.unwrap();
    assert_eq!(
        fs::read_to_string(to.join("etc/deep/passwd")).unwrap(),
        "root:x:0:0"
    );
    assert_eq!(fs::metadata(to.join("etc/passwd")).unwrap().nlink(), 2);
    assert!(fs::metadata(to.join("sparse")).unwrap().blocks() * 512 < 1 << 20);

    fs::write(from.join("etc/passwd"), "changed").unwrap();
    fs::remove_file(from.join("etc/empty")).unwrap();
    fs::create_dir(from.join("etc/empty")).unwrap();
    fs::remove_dir_all(from.join("etc/deep/er")).unwrap();
    fs::remove_file(from.join("pipe")).unwrap();
    fs::rename(from.join("sparse"), from.join("etc/sparse")).unwrap();
    let (_, verified) = pass(from, &before, &mut digests, &mut receiver);
    verified.unwrap();
    assert_eq!(
        fs::read_to_string(to.join("etc/deep/passwd")).unwrap(),
        "changed"
    );
    assert!(to.join("etc/empty").is_dir() && !to.join("etc/deep/er").exists());
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let before = scan(source.path(), None).unwrap();
    let later = i64::MAX;
    assert_eq!(changes(&before, &before, later), Changes::default());
    fs::write(source.path().join("etc/passwd"), "other").unwrap();
    let now = scan(source.path(), None).unwrap();
    let paths: Vec<_> = changes(&before, &now, later)
        .send
        .iter()
        .map(|e| e.path.path())
        .collect();
    assert_eq!(
        paths,
        [Path::new("etc/deep/passwd"), Path::new("etc/passwd")]
    );
}

#[test]
fn a_difference_on_the_targets_disk_is_found() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(source.path());
    let (mut receiver, mut digests) = (open(target.path()), BTreeMap::new());
    let (before, verified) = pass(source.path(), &BTreeMap::new(), &mut digests, &mut receiver);
    verified.unwrap();
    fs::write(target.path().join("stranger"), "").unwrap();
    let verified = pass(source.path(), &before, &mut digests, &mut receiver).1;
    assert!(verified.unwrap_err().to_string().contains("stranger"));
}

#[test]
fn no_path_leads_out_of_the_tree() {
    let target = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), target.path().join("way-out")).unwrap();
    let mut receiver = open(target.path());
    for path in ["../x", "way-out/x", "/etc/x", "a/../../x", ".."] {
        let entry = Entry {
            path: Raw::of(path),
            what: What::Directory,
            mode: 0o755,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            modified: (0, 0),
            attributes: BTreeMap::new(),
        };
        assert!(receiver.entry(entry).is_err(), "{path} was taken");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
