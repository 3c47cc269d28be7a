//! A group of processes per host in every cgroup hierarchy of this machine: it is how
//! a host is limited, found again, and ended without leaving a process behind.

use crate::{Error, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use skysail_schemas::host::Resources;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted here.
    pub mount: PathBuf,
    /// Mount options that name it (`cpu,cpuacct`, `none,name=systemd`); empty for cgroup2.
    pub options: String,
}

impl Hierarchy {
    fn unified(&self) -> bool {
        self.options.is_empty()
    }
    fn controls(&self, controller: &str) -> bool {
        self.options.split(',').any(|o| o == controller)
    }
}

/// The hierarchies in the text of `/proc/self/mountinfo`.
pub fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mount = PathBuf::from(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        match kind {
            "cgroup2" => Some(Hierarchy {
                mount,
                options: String::new(),
            }),
            "cgroup" => {
                let names: Vec<&str> = options
                    .split(',')
                    .filter(|o| {
                        !["rw", "ro", "xattr", "clone_children"].contains(o)
                            && !o.starts_with("release_agent=")
                    })
                    .collect();
                let named = names.iter().all(|n| n.starts_with("name="));
                Some(Hierarchy {
                    mount,
                    options: format!("{}{}", if named { "none," } else { "" }, names.join(",")),
                })
            }
            _ => None,
        }
    };
    mountinfo.lines().filter_map(line).collect()
}

/// The group `path` (for example `skysail-sky/east-1`) in every hierarchy.
pub struct Group {
    path: String,
    hierarchies: Vec<Hierarchy>,
}

impl Group {
    /// The group on this machine. Makes nothing.
    pub fn open(path: &str) -> Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| Error::Transient(format!("/proc/self/mountinfo: {e}")))?;
        let hierarchies = hierarchies(&mountinfo);
        if hierarchies.is_empty() {
            return Err(Error::Refused(
                "no cgroup hierarchy is mounted below /sys/fs/cgroup; mount cgroup2 there".into(),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            hierarchies,
        })
    }

    /// The directories that a process enters to become a member.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.hierarchies
            .iter()
            .map(|h| h.mount.join(&self.path))
            .collect()
    }

    /// `name:options` of every cgroup v1 hierarchy.
    pub fn v1(&self) -> Vec<String> {
        let name = |h: &Hierarchy| {
            h.mount
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        self.hierarchies
            .iter()
            .filter(|h| !h.unified())
            .map(|h| format!("{}:{}", name(h), h.options))
            .collect()
    }

    /// The group's directory where cgroup2 is the only hierarchy.
    pub fn only_unified(&self) -> Option<PathBuf> {
        match self.hierarchies.as_slice() {
            [one] if one.unified() => Some(one.mount.join(&self.path)),
            _ => None,
        }
    }

    /// Makes the group with its limits; zero is none. Idempotent. A limit that the kernel refuses is
    /// logged and left out: a host with less isolation is better than none here.
    pub fn make(&self, limits: &Resources) -> Result<()> {
        let v2 = self.only_unified().is_some();
        for h in &self.hierarchies {
            let dir = h.mount.join(&self.path);
            fs::create_dir_all(&dir)
                .map_err(|e| Error::Transient(format!("{}: {e}", dir.display())))?;
            if h.controls("cpuset") {
                inherit_cpuset(&h.mount, &self.path);
            }
            let (quota, memory) = (limits.cpu.0 * 100, limits.memory.0);
            if h.controls("cpu") && quota > 0 {
                attempt(&dir.join("cpu.cfs_period_us"), "100000");
                attempt(&dir.join("cpu.cfs_quota_us"), &quota.to_string());
            }
            if h.controls("memory") && memory > 0 {
                attempt(&dir.join("memory.limit_in_bytes"), &memory.to_string());
            }
            if v2 {
                for ancestor in dir
                    .ancestors()
                    .skip(1)
                    .take_while(|a| a.starts_with(&h.mount))
                {
                    attempt(
                        &ancestor.join("cgroup.subtree_control"),
                        "+cpu +memory +pids +io +cpuset",
                    );
                }
                if quota > 0 {
                    attempt(&dir.join("cpu.max"), &format!("{quota} 100000"));
                }
                if memory > 0 {
                    attempt(&dir.join("memory.max"), &memory.to_string());
                }
            }
        }
        Ok(())
    }

    /// Every process in the group and below it.
    pub fn processes(&self) -> Vec<i32> {
        let mut found: Vec<i32> = self
            .hierarchies
            .iter()
            .flat_map(|h| members(&h.mount.join(&self.path)))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The host's process 1, as this machine numbers it; `None` where the host does not run. It is mostly the first
    /// process of the group itself, so the groups below, one for each container, are mostly not read.
    pub fn init(&self) -> Option<i32> {
        self.hierarchies
            .iter()
            .find_map(|h| init(&h.mount.join(&self.path)))
    }

    /// Kills every process and removes the group. Idempotent; finished when it returns.
    pub async fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = self.processes();
            for pid in &left {
                // Gone in between is what we want.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            for h in self.hierarchies.iter().filter(|h| h.controls("freezer")) {
                thaw(&h.mount.join(&self.path));
            }
            let busy = self
                .hierarchies
                .iter()
                .find_map(|h| remove_tree(&h.mount.join(&self.path)).err());
            match busy {
                None => return Ok(()),
                Some(e) if Instant::now() > deadline => {
                    return Err(Error::Transient(format!(
                        "group {}: {} processes survive SIGKILL, or {e}",
                        self.path,
                        left.len()
                    )));
                }
                // The kernel has no event for "the last zombie is gone" in v1: look again.
                Some(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// What a container's host froze does not end before it is thawed; killed before, it does nothing else.
fn thaw(dir: &Path) {
    let state = dir.join("freezer.state");
    let frozen = fs::read_to_string(&state).is_ok_and(|s| s.trim() != "THAWED");
    if frozen {
        // Gone in between is what we want.
        let _ = fs::write(&state, "THAWED");
    }
    subdirectories(dir).iter().for_each(|child| thaw(child));
}

/// Whether the text of `/proc/<pid>/status` is that of process 1 of a namespace just below ours. One that was killed
/// and waits for the others of its namespace to end has no memory any more.
fn is_init(status: &str) -> bool {
    let ids = status
        .lines()
        .find_map(|l| l.strip_prefix("NSpid:"))
        .unwrap_or_default();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    matches!(ids.as_slice(), [_, "1"])
        && status.lines().any(|l| l.starts_with("VmSize:"))
        && !status
            .lines()
            .any(|l| l.starts_with("State:") && l.contains('Z'))
}

/// The host's process 1 among those of the group `dir` and, if it is not there, below it.
fn init(dir: &Path) -> Option<i32> {
    let is_it = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| is_init(&status))
    };
    let here = own_members(dir).into_iter().find(is_it);
    here.or_else(|| subdirectories(dir).iter().find_map(|child| init(child)))
}

fn own_members(dir: &Path) -> Vec<i32> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let pids = own.lines().filter_map(|l| l.parse().ok());
    pids.filter(|pid| *pid > 0).collect()
}

fn members(dir: &Path) -> Vec<i32> {
    let mut pids = own_members(dir);
    for child in subdirectories(dir) {
        pids.extend(members(&child));
    }
    pids
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in subdirectories(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A cpuset without cpus takes no processes, and a new one has none.
fn inherit_cpuset(mount: &Path, path: &str) {
    let mut dir = mount.to_owned();
    for part in path.split('/') {
        let parent = dir.clone();
        dir.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(parent.join(file)) {
                attempt(&dir.join(file), value.trim());
            }
        }
        // What the host's own containers make below inherits by itself.
        attempt(&dir.join("cgroup.clone_children"), "1");
    }
}

fn attempt(file: &Path, value: &str) {
    if let Err(error) = fs::write(file, value) {
        tracing::warn!(file = %file.display(), value, %error, "cgroup setting refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_mountinfo() {
        let text = "23 1 0:1 / /sys rw - sysfs sysfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found: Vec<String> = hierarchies(text).into_iter().map(|h| h.options).collect();
        assert_eq!(found, ["cpu,cpuacct", "none,name=systemd", ""]);
    }

    #[test]
    fn only_the_first_process_of_a_namespace_just_below_is_a_hosts_init() {
        assert!(is_init(
            "State:\tS (sleeping)\nNSpid:\t812\t1\nVmSize:\t4 kB\n"
        ));
        assert!(
            !is_init("State:\tS (sleeping)\nNSpid:\t812\t1\n"),
            "it was killed and waits for others to end"
        );
        assert!(!is_init(
            "State:\tS (sleeping)\nNSpid:\t812\t7\nVmSize:\t4 kB\n"
        ));
        assert!(
            !is_init("State:\tS (sleeping)\nNSpid:\t900\t40\t1\nVmSize:\t4 kB\n"),
            "a container's init is not the host's"
        );
        assert!(!is_init("State:\tZ (zombie)\nNSpid:\t812\t1\n"));
    }
}
