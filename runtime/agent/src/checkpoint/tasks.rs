//! What `/proc` tells of a container's processes.

use std::collections::BTreeSet;
use std::path::Path;

/// Open descriptors of a process and what they lead to.
pub fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|e| {
            let number = e.file_name().to_str()?.parse().ok()?;
            let target = std::fs::read_link(e.path()).ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// A line `key:\tvalue` of a process's status.
pub fn status(pid: i32, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// A process for people: its number inside the container, and its name.
pub fn name(pid: i32) -> String {
    let inside = status(pid, "NSpid")
        .and_then(|all| all.split_whitespace().next_back().map(str::to_owned))
        .unwrap_or_else(|| pid.to_string());
    let name = status(pid, "Name").unwrap_or_default();
    format!("process {inside} ({name})")
}

/// Which namespace of `kind` a process is in.
pub fn namespace(pid: i32, kind: &str) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Numbers of the mounts that a process can reach.
pub fn mounts(pid: i32) -> BTreeSet<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.lines()
        .filter_map(|l| l.split(' ').next()?.parse().ok())
        .collect()
}

/// Number of the mount that an open descriptor is on.
pub fn mount(pid: i32, descriptor: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).ok()?;
    let number = text.lines().find_map(|l| l.strip_prefix("mnt_id:"))?;
    number.trim().parse().ok()
}

/// Device and inode that a process watches with inotify or fanotify.
pub fn watched(pid: i32, descriptor: i32) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(
        Path::new("/proc")
            .join(pid.to_string())
            .join("fdinfo")
            .join(descriptor.to_string()),
    );
    let text = text.unwrap_or_default();
    let marks = text
        .lines()
        .filter(|l| l.starts_with("inotify ") || l.starts_with("fanotify "));
    marks.filter_map(mark).collect()
}

fn mark(line: &str) -> Option<(u64, u64)> {
    let value = |key: &str| {
        line.split_whitespace()
            .find_map(|w| u64::from_str_radix(w.strip_prefix(key)?, 16).ok())
    };
    Some((value("sdev:")?, value("ino:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_read_with_device_and_inode() {
        let line = "inotify wd:1 ino:2002783b5 sdev:96 mask:80c ignored_mask:0 fhandle-bytes:20 fhandle-type:f8 f_handle:00";
        assert_eq!(mark(line), Some((0x96, 0x2_0027_83b5)));
        assert_eq!(mark("fanotify flags:0 event-flags:0"), None);
    }
}
