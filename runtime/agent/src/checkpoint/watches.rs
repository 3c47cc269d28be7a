//! Files that are watched with inotify. CRIU must know each by its path, but the
//! kernel only tells its inode, and an overlay cannot be asked for it. CRIU looks in
//! a few folders; here the rest of the root is searched, before anything is frozen.

use super::tasks;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where watched files are most often found.
const LIKELY: [&str; 4] = ["etc", "usr/share/zoneinfo", "var", "run"];
/// More entries than this are not looked at.
const MOST: usize = 300_000;

/// Paths, as the container sees them, of what `processes` watch on the root at `rootfs`.
pub fn paths(processes: &[i32], rootfs: &Path) -> Vec<String> {
    let Ok(root) = std::fs::metadata(rootfs) else {
        return vec![];
    };
    let device = kernel_device(root.dev());
    let mut wanted: BTreeSet<u64> = BTreeSet::new();
    for pid in processes {
        for (number, target) in tasks::descriptors(*pid) {
            if target.contains("inotify") || target.contains("fanotify") {
                let marks = tasks::watched(*pid, number);
                wanted.extend(
                    marks
                        .iter()
                        .filter(|(d, _)| *d == device)
                        .map(|(_, inode)| *inode),
                );
            }
        }
    }
    search(&mut wanted, rootfs, root.dev())
}

/// As `fdinfo` shows a device: its major number above twenty bits of minor number.
fn kernel_device(device: u64) -> u64 {
    (u64::from(libc::major(device)) << 20) | u64::from(libc::minor(device))
}

fn search(wanted: &mut BTreeSet<u64>, rootfs: &Path, device: u64) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = 0;
    let mut look = |path: &Path, wanted: &mut BTreeSet<u64>| -> Option<bool> {
        seen += 1;
        let meta = std::fs::symlink_metadata(path)
            .ok()
            .filter(|m| m.dev() == device)?;
        if wanted.remove(&meta.ino()) {
            let inside = path.strip_prefix(rootfs).unwrap_or(path);
            found.push(format!("/{}", inside.display()));
        }
        Some(meta.is_dir())
    };
    let mut folders: Vec<PathBuf> = vec![rootfs.to_owned()];
    folders.extend(LIKELY.iter().rev().map(|l| rootfs.join(l)));
    let mut done: BTreeSet<PathBuf> = BTreeSet::new();
    let mut count = 0;
    look(rootfs, wanted);
    while let Some(folder) = folders.pop() {
        if wanted.is_empty() || count > MOST {
            break;
        }
        let real = std::fs::symlink_metadata(&folder).is_ok_and(|m| m.is_dir());
        if !real || !done.insert(folder.clone()) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            count += 1;
            if look(&entry.path(), wanted) == Some(true) {
                folders.push(entry.path());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_file_is_found_wherever_it_is_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("opt/app/conf");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("x.toml"), "").unwrap();
        std::os::unix::fs::symlink("opt/app", root.path().join("etc")).unwrap();
        let meta = std::fs::metadata(deep.join("x.toml")).unwrap();
        let mut wanted = BTreeSet::from([meta.ino()]);
        let device = std::fs::metadata(root.path()).unwrap().dev();
        assert_eq!(
            search(&mut wanted, root.path(), device),
            ["/opt/app/conf/x.toml"]
        );
        assert!(wanted.is_empty());
    }
}
