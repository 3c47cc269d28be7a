//! What a container's control groups tell, on cgroup v1 (also hybrid) and v2.

use std::path::{Path, PathBuf};

/// Where the kernel shows control groups.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Which control group interface limits are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One tree per controller; a v2 tree without controllers may stand beside them (hybrid).
    V1,
    /// One tree.
    V2,
}

impl Version {
    /// What this machine uses.
    pub fn detect() -> Self {
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            Self::V2
        } else {
            Self::V1
        }
    }
}

/// Raw counters of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processor time since its start, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in use without what the kernel can drop at once, in bytes.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
}

/// The container's own group for `controller` (v1) or its only group (v2), from its init's `/proc/<pid>/cgroup`.
/// An init may have moved itself deeper; the group that carries the limits is the one LXC made.
pub fn payload(proc_cgroup: &str, controller: Option<&str>) -> Option<PathBuf> {
    let path = proc_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        match controller {
            Some(name) => controllers.split(',').any(|c| c == name).then_some(path),
            None => controllers.is_empty().then_some(path),
        }
    })?;
    let end = path.find("lxc.payload.")?;
    let tail = path[end..]
        .find('/')
        .map_or(path.len(), |slash| end + slash);
    Some(PathBuf::from(&path[1..tail]))
}

/// The value of `key` in a file of lines `key value`.
pub fn keyed(file: &str, key: &str) -> Option<u64> {
    file.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Memory in use without the inactive file cache; the cache counts as free because the kernel gives it back.
pub fn working_set(used: u64, memory_stat: &str) -> u64 {
    let cache =
        keyed(memory_stat, "total_inactive_file").or_else(|| keyed(memory_stat, "inactive_file"));
    used.saturating_sub(cache.unwrap_or(0))
}

/// Millicores used between two readings of processor time.
pub fn millicores(before_ns: u64, after_ns: u64, elapsed: std::time::Duration) -> u64 {
    let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).max(1);
    let used = u128::from(after_ns.saturating_sub(before_ns)) * 1000 / u128::from(elapsed);
    u64::try_from(used).unwrap_or(u64::MAX)
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Reads the counters of the container whose init is `pid`; none if it is gone.
pub fn read(version: Version, pid: i32) -> Option<Counters> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let text = |path: PathBuf| std::fs::read_to_string(path).ok();
    match version {
        Version::V1 => {
            let group = |controller: &str| {
                payload(&groups, Some(controller)).map(|p| Path::new(ROOT).join(controller).join(p))
            };
            let memory = group("memory")?;
            let used = number(&memory.join("memory.usage_in_bytes"))?;
            Some(Counters {
                cpu_ns: number(&group("cpuacct")?.join("cpuacct.usage"))?,
                memory: working_set(used, &text(memory.join("memory.stat"))?),
                pids: u32::try_from(number(&group("pids")?.join("pids.current"))?).ok()?,
            })
        }
        Version::V2 => {
            let group = Path::new(ROOT).join(payload(&groups, None)?);
            let used = number(&group.join("memory.current"))?;
            Some(Counters {
                cpu_ns: keyed(&text(group.join("cpu.stat"))?, "usage_usec")?.saturating_mul(1000),
                memory: working_set(used, &text(group.join("memory.stat"))?),
                pids: u32::try_from(number(&group.join("pids.current"))?).ok()?,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "9:name=systemd:/lxc.payload.a.web/init.scope\n8:pids:/lxc.payload.a.web/init.scope\n5:cpu,cpuacct:/lxc.payload.a.web\n0::/\n";

    #[test]
    fn the_group_with_the_limits_is_found_also_when_init_moved_deeper() {
        assert_eq!(payload(V1, Some("pids")), Some("lxc.payload.a.web".into()));
        assert_eq!(
            payload(V1, Some("cpuacct")),
            Some("lxc.payload.a.web".into())
        );
        let v2 = "0::/skysail.slice/lxc.payload.a.web-1/system.slice/x.service\n";
        assert_eq!(
            payload(v2, None),
            Some("skysail.slice/lxc.payload.a.web-1".into())
        );
    }

    #[test]
    fn a_process_outside_any_container_has_no_payload_group() {
        assert_eq!(payload(V1, None), None);
        assert_eq!(payload(V1, Some("memory")), None);
        assert_eq!(payload("garbage", Some("memory")), None);
    }

    #[test]
    fn inactive_file_cache_does_not_count_as_memory_in_use() {
        assert_eq!(
            working_set(1000, "cache 5\ninactive_file 1\ntotal_inactive_file 300\n"),
            700
        );
        assert_eq!(working_set(1000, "anon 5\ninactive_file 400\n"), 600);
        assert_eq!(working_set(100, "inactive_file 400\n"), 0);
    }

    #[test]
    fn half_a_second_of_processor_time_in_one_second_is_half_a_core() {
        assert_eq!(
            millicores(1_000, 500_001_000, std::time::Duration::from_secs(1)),
            500
        );
        assert_eq!(millicores(5, 1, std::time::Duration::ZERO), 0);
    }
}
