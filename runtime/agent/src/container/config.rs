//! The LXC configuration of a container: a pure function, shown whole by a golden test.
//!
//! LXC only joins what the agent made (root, namespaces), makes no terminals of its
//! own besides the console, and knows no network: what LXC does not make, LXC does not
//! have to save and restore when the container moves.

use super::idmap::{COUNT, IdRange};
use super::paths::Paths;
use super::record::{Desired, Id};
use crate::usage::cgroup::Version;
use skysail_schemas::container::Allocation;
use std::fmt::Write as _;

/// Microseconds over which the cpu limit is kept.
const PERIOD: u64 = 100_000;
/// The kernel refuses a smaller quota.
const LEAST_QUOTA: u64 = 1_000;

/// What a container may not do, whatever its root is: the clock, modules and raw hardware are the host's.
const DROPPED: &str = "mac_admin mac_override sys_module sys_rawio sys_time";

/// The configuration file.
pub fn render(
    paths: &Paths,
    id: &Id,
    desired: &Desired,
    ids: Option<IdRange>,
    init: &[String],
    version: Version,
) -> String {
    let mut out = format!(
        "# Made by Skysail from the Container {}/{}; it is written anew at every start.\n",
        id.namespace, id.name
    );
    let mut set = |key: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{key} = {value}");
    };
    set("lxc.uts.name", &id.name);
    set(
        "lxc.rootfs.path",
        &format_args!("dir:{}", paths.rootfs(id).display()),
    );
    if let Some(IdRange { base }) = ids {
        set("lxc.idmap", &format_args!("u 0 {base} {COUNT}"));
        set("lxc.idmap", &format_args!("g 0 {base} {COUNT}"));
        set("lxc.namespace.share.user", &paths.userns(id).display());
    }
    set("lxc.namespace.share.net", &paths.netns(id).display());
    set("lxc.init.cmd", &command(init));
    set("lxc.mount.auto", &"proc:mixed sys:mixed cgroup:mixed");
    set("lxc.autodev", &1);
    set("lxc.tty.max", &0);
    set("lxc.pty.max", &1024);
    set("lxc.console.logfile", &paths.console_log(id).display());
    set("lxc.console.size", &"1MB");
    set("lxc.console.rotate", &1);
    set("lxc.console.buffer.size", &"256KB");
    set("lxc.cap.drop", &DROPPED);
    // A container that moves must find the same rules on every host, and not every host has AppArmor; where the
    // kernel has it and its programs are absent, LXC's own default does not even start.
    set("lxc.apparmor.profile", &"unconfined");
    if ids.is_none() {
        for (key, value) in devices(version) {
            set(key, &value);
        }
    }
    for (key, value) in limits(&desired.allocation, version) {
        set(key, &value);
    }
    out
}

/// Process 1 with its arguments, as LXC splits them.
fn command(init: &[String]) -> String {
    let word = |w: &String| {
        let plain = !w.is_empty()
            && w.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/._-=:,+@%".contains(&b));
        // LXC knows both quotes and no escapes inside them; a line break would end the setting.
        let w = w.replace(['\n', '\r'], " ");
        match (plain, w.contains('\'')) {
            (true, _) => w,
            (false, false) => format!("'{w}'"),
            (false, true) => format!("\"{}\"", w.replace('"', "")),
        }
    };
    init.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Limits in the notation of the machine's control groups. Zero means: no limit known.
pub fn limits(size: &Allocation, version: Version) -> Vec<(&'static str, String)> {
    let (cpu, memory, pids) = (size.cpu.0, size.memory.0, size.pids);
    let quota = (cpu * PERIOD / 1000).max(LEAST_QUOTA);
    let mut all = Vec::new();
    match version {
        Version::V1 => {
            if memory > 0 {
                all.push(("lxc.cgroup.memory.limit_in_bytes", memory.to_string()));
            }
            if cpu > 0 {
                all.push(("lxc.cgroup.cpu.cfs_period_us", PERIOD.to_string()));
                all.push(("lxc.cgroup.cpu.cfs_quota_us", quota.to_string()));
                all.push((
                    "lxc.cgroup.cpu.shares",
                    (cpu * 1024 / 1000).clamp(2, 262_144).to_string(),
                ));
            }
            if pids > 0 {
                all.push(("lxc.cgroup.pids.max", pids.to_string()));
            }
        }
        Version::V2 => {
            if memory > 0 {
                all.push(("lxc.cgroup2.memory.max", memory.to_string()));
            }
            if cpu > 0 {
                all.push(("lxc.cgroup2.cpu.max", format!("{quota} {PERIOD}")));
                all.push((
                    "lxc.cgroup2.cpu.weight",
                    (cpu / 10).clamp(1, 10_000).to_string(),
                ));
            }
            if pids > 0 {
                all.push(("lxc.cgroup2.pids.max", pids.to_string()));
            }
        }
    }
    all
}

/// Devices that a privileged container may use. An unprivileged one cannot make device files at all.
fn devices(version: Version) -> Vec<(&'static str, String)> {
    let (deny, allow) = match version {
        Version::V1 => ("lxc.cgroup.devices.deny", "lxc.cgroup.devices.allow"),
        Version::V2 => ("lxc.cgroup2.devices.deny", "lxc.cgroup2.devices.allow"),
    };
    // null, zero, full, tty, console, ptmx, random, urandom, pts; any may be made, to unpack archives.
    let rules = [
        "c *:* m",
        "b *:* m",
        "c 1:3 rwm",
        "c 1:5 rwm",
        "c 1:7 rwm",
        "c 5:0 rwm",
        "c 5:1 rwm",
        "c 5:2 rwm",
        "c 1:8 rwm",
        "c 1:9 rwm",
        "c 136:* rwm",
    ];
    std::iter::once((deny, "a".to_owned()))
        .chain(rules.map(|r| (allow, r.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skysail_schemas::quantity::{Bytes, Cpu};

    fn example() -> (Paths, Id, Desired) {
        let desired = Desired {
            allocation: Allocation {
                cpu: Cpu(250),
                memory: Bytes(128 << 20),
                pids: 256,
                ..Allocation::default()
            },
            ..Desired::default()
        };
        (
            Paths::new("/var/lib/skysail"),
            Id {
                namespace: "blue".into(),
                name: "web".into(),
            },
            desired,
        )
    }

    #[test]
    fn an_unprivileged_container_on_cgroup_v1_has_this_configuration() {
        let (paths, id, desired) = example();
        let text = render(
            &paths,
            &id,
            &desired,
            Some(IdRange { base: 1_048_576 }),
            &["/sbin/init".into()],
            Version::V1,
        );
        let golden = "\
# Made by Skysail from the Container blue/web; it is written anew at every start.
lxc.uts.name = web
lxc.rootfs.path = dir:/run/skysail/containers/blue.web/rootfs
lxc.idmap = u 0 1048576 65536
lxc.idmap = g 0 1048576 65536
lxc.namespace.share.user = /run/skysail/userns/blue.web
lxc.namespace.share.net = /run/skysail/netns/blue.web
lxc.init.cmd = /sbin/init
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.autodev = 1
lxc.tty.max = 0
lxc.pty.max = 1024
lxc.console.logfile = /var/lib/skysail/containers/blue.web/console.log
lxc.console.size = 1MB
lxc.console.rotate = 1
lxc.console.buffer.size = 256KB
lxc.cap.drop = mac_admin mac_override sys_module sys_rawio sys_time
lxc.apparmor.profile = unconfined
lxc.cgroup.memory.limit_in_bytes = 134217728
lxc.cgroup.cpu.cfs_period_us = 100000
lxc.cgroup.cpu.cfs_quota_us = 25000
lxc.cgroup.cpu.shares = 256
lxc.cgroup.pids.max = 256
";
        assert_eq!(text, golden);
    }

    #[test]
    fn cgroup_v2_gets_its_own_keys_and_no_others() {
        let (paths, id, desired) = example();
        let text = render(
            &paths,
            &id,
            &desired,
            Some(IdRange { base: 1_048_576 }),
            &["/sbin/init".into()],
            Version::V2,
        );
        assert!(text.contains("lxc.cgroup2.memory.max = 134217728\nlxc.cgroup2.cpu.max = 25000 100000\nlxc.cgroup2.cpu.weight = 25\nlxc.cgroup2.pids.max = 256\n"));
        assert!(!text.contains("lxc.cgroup."));
    }

    #[test]
    fn a_privileged_container_has_no_ids_of_its_own_and_only_harmless_devices() {
        let (paths, id, desired) = example();
        let text = render(
            &paths,
            &id,
            &desired,
            None,
            &["/sbin/init".into()],
            Version::V1,
        );
        assert!(!text.contains("idmap") && !text.contains("share.user"));
        assert!(text.contains("lxc.cgroup.devices.deny = a\n"));
    }

    #[test]
    fn arguments_of_init_stay_words_and_cannot_start_a_new_setting() {
        let words = [
            "/bin/sh".to_owned(),
            "-c".into(),
            "a b\nlxc.hook.start = x".into(),
            "it's".into(),
        ];
        assert_eq!(
            command(&words),
            "/bin/sh -c 'a b lxc.hook.start = x' \"it's\""
        );
    }
}
