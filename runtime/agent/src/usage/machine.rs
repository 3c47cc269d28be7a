//! What the machine has and uses. A host may be a part of a machine (a namespace host, a container): its own
//! control group is then the smaller truth, and it stands at the root of the control group namespace.

use super::cgroup::{self, Version};
use skysail_schemas::host::{HostUsage, Resources};
use skysail_schemas::quantity::{Bytes, Cpu};
use std::path::Path;
use std::time::Instant;

/// Kept for the system, the switch and the agent.
const RESERVED_MEMORY: u64 = 128 << 20;

/// `MemTotal` or another field of `/proc/meminfo`, in bytes.
pub fn meminfo(file: &str, field: &str) -> Option<u64> {
    let line = file
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// A limit file's value; none for `max`, a negative number, or the huge number that v1 writes for "no limit".
pub fn limit(file: &str) -> Option<u64> {
    file.trim().parse::<u64>().ok().filter(|v| *v < 1 << 62)
}

fn root(name: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(cgroup::ROOT).join(name)).ok()
}

fn memory_limit(version: Version) -> Option<u64> {
    let name = match version {
        Version::V1 => "memory/memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    limit(&root(name)?)
}

fn cpu_quota(version: Version) -> Option<u64> {
    let (quota, period) = match version {
        Version::V1 => (
            limit(&root("cpu/cpu.cfs_quota_us")?)?,
            limit(&root("cpu/cpu.cfs_period_us")?)?,
        ),
        Version::V2 => {
            let text = root("cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            (limit(quota)?, limit(period)?)
        }
    };
    quota.checked_mul(1000)?.checked_div(period)
}

/// Total and free bytes of the file system that holds `path`.
pub fn disk(path: &Path) -> (u64, u64) {
    match nix::sys::statvfs::statvfs(path) {
        Ok(s) => (
            s.blocks() * s.fragment_size(),
            s.blocks_available() * s.fragment_size(),
        ),
        Err(_) => (0, 0),
    }
}

/// Bytes that files take on the file system that holds `path`.
pub fn disk_used(path: &Path) -> Option<u64> {
    let s = nix::sys::statvfs::statvfs(path).ok()?;
    Some(s.blocks().saturating_sub(s.blocks_free()) * s.fragment_size())
}

/// What the machine has.
pub fn capacity(version: Version, data_dir: &Path) -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64) * 1000;
    let file = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo(&file, "MemTotal").unwrap_or(0);
    Resources {
        cpu: Cpu(cpu_quota(version).map_or(cores, |q| q.min(cores))),
        memory: Bytes(memory_limit(version).map_or(memory, |l| l.min(memory))),
        disk: Bytes(disk(data_dir).0),
    }
}

/// What containers may take together.
pub fn allocatable(capacity: Resources) -> Resources {
    let reserved = RESERVED_MEMORY.min(capacity.memory.0 / 8);
    Resources {
        cpu: capacity.cpu,
        memory: Bytes((capacity.memory.0 - reserved) >> 20 << 20),
        disk: Bytes((capacity.disk.0 - capacity.disk.0 / 20) >> 20 << 20),
    }
}

/// Kernel release.
pub fn kernel() -> Option<String> {
    Some(
        nix::sys::utsname::uname()
            .ok()?
            .release()
            .to_string_lossy()
            .into_owned(),
    )
}

fn cpu_time(version: Version) -> Option<u64> {
    match version {
        Version::V1 => root("cpuacct/cpuacct.usage")?.trim().parse().ok(),
        Version::V2 => cgroup::keyed(&root("cpu.stat")?, "usage_usec")?.checked_mul(1000),
    }
}

fn memory_used(version: Version) -> u64 {
    let group = match version {
        Version::V1 => root("memory/memory.usage_in_bytes").zip(root("memory/memory.stat")),
        Version::V2 => root("memory.current").zip(root("memory.stat")),
    };
    if let Some((used, stat)) = group.and_then(|(used, stat)| Some((limit(&used)?, stat))) {
        return cgroup::working_set(used, &stat);
    }
    let file = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    meminfo(&file, "MemTotal")
        .unwrap_or(0)
        .saturating_sub(meminfo(&file, "MemAvailable").unwrap_or(0))
}

/// Measures use between two calls.
pub struct Meter {
    version: Version,
    last: Option<(Instant, u64)>,
}

impl Meter {
    /// A meter that has seen nothing yet: its first reading shows no cpu use.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            last: None,
        }
    }

    /// Use since the last call.
    pub fn read(&mut self, data_dir: &Path) -> HostUsage {
        let now = (Instant::now(), cpu_time(self.version).unwrap_or(0));
        let cpu = self.last.map_or(0, |(at, ns)| {
            cgroup::millicores(ns, now.1, now.0.duration_since(at))
        });
        self.last = Some(now);
        let (total, free) = disk(data_dir);
        HostUsage {
            cpu: Cpu(cpu),
            memory: Bytes(memory_used(self.version)),
            disk: Bytes(total.saturating_sub(free)),
            cpu_pressure: super::pressure::read("cpu"),
            memory_pressure: super::pressure::read("memory"),
            io_pressure: super::pressure::read("io"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let file = "MemTotal:       24682016 kB\nMemFree:         1000 kB\n";
        assert_eq!(meminfo(file, "MemTotal"), Some(24_682_016 * 1024));
        assert_eq!(meminfo(file, "Mem"), None);
    }

    #[test]
    fn no_limit_is_not_taken_for_a_number() {
        for text in ["max", "-1", "9223372036854771712", ""] {
            assert_eq!(limit(text), None, "{text:?}");
        }
        assert_eq!(limit("1073741824\n"), Some(1 << 30));
    }

    #[test]
    fn the_system_keeps_a_share_of_a_small_machine_and_a_fixed_amount_of_a_big_one() {
        let of = |memory| {
            allocatable(Resources {
                cpu: Cpu(1000),
                memory: Bytes(memory),
                disk: Bytes(0),
            })
            .memory
            .0
        };
        assert_eq!(of(512 << 20), 448 << 20);
        assert_eq!(of(16 << 30), (16 << 30) - (128 << 20));
    }
}
