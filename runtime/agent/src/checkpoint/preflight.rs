//! What CRIU cannot dump, found by looking: from outside, while the container runs.
//!
//! Only what certainly fails is an obstacle. What this does not see is refused by
//! CRIU itself at the dump, which then leaves the container as it was.

use super::Obstacle;
use super::console;
use super::freezer::Group;
use super::tasks;
use crate::command::{Command, Failure};
use crate::container::record::{Id, Init};
use crate::container::site::Site;
use crate::network::netns;
use skysail_schemas::condition::Fact;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// CRIU older than this cannot dump a TCP connection on newer kernels.
const LEAST: (u32, u32) = (4, 2);
/// Namespaces that must be one for the whole container.
const WHOLE: [&str; 6] = ["user", "net", "uts", "ipc", "cgroup", "time"];
/// File systems that CRIU makes again.
const FILE_SYSTEMS: [&str; 11] = [
    "overlay",
    "tmpfs",
    "proc",
    "sysfs",
    "devpts",
    "devtmpfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "hugetlbfs",
    "binfmt_misc",
];
/// Anonymous files that CRIU makes again.
const ANONYMOUS: [&str; 10] = [
    "inotify",
    "fanotify",
    "[fanotify]",
    "[eventpoll]",
    "[eventfd]",
    "[signalfd]",
    "[timerfd]",
    "[pidfd]",
    "bpf-map",
    "[userfaultfd]",
];
/// Devices that every container has.
const DEVICES: [&str; 10] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/net/tun",
    "/dev/rtc",
];

fn obstacle(
    reason: &'static str,
    subject: impl Into<String>,
    message: impl Into<String>,
) -> Obstacle {
    Obstacle {
        reason,
        subject: subject.into(),
        message: message.into(),
    }
}

/// How long an answer of the host's CRIU holds.
const HOLDS: Duration = Duration::from_secs(300);
/// The condition of a Host that tells whether its containers can be moved live.
const HOST: &str = "LiveMigration";
/// The condition of a Container that tells whether it can be moved live.
const CONTAINER: &str = "Migratable";

/// What a container's status says.
pub fn fact(obstacles: &[Obstacle]) -> Fact {
    match obstacles.first() {
        None => Fact::yes(CONTAINER, "Ready", ""),
        Some(first) => {
            let all: Vec<String> = obstacles.iter().take(5).map(ToString::to_string).collect();
            let message = format!("it cannot be moved live: {}", all.join("; "));
            Fact::no(CONTAINER, first.reason, message)
        }
    }
}

/// What the host's status says.
pub async fn host_fact() -> Fact {
    match criu().await {
        None => Fact::yes(HOST, "Ready", ""),
        Some(o) => {
            let message = format!(
                "containers here move cold: {o}; install a newer criu, such as that of the next release"
            );
            Fact::no(HOST, o.reason, message)
        }
    }
}

/// See [`super::preflight`].
pub async fn look(site: &Site, id: &Id) -> Vec<Obstacle> {
    let Some(init) = site.record(id).init.filter(Init::lives) else {
        let message = "does not run, so there is nothing to freeze; move it cold";
        return vec![obstacle("NotRunning", format!("container {id}"), message)];
    };
    let Ok(group) = Group::of(init.pid, site.version) else {
        return vec![obstacle(
            "NotRunning",
            format!("container {id}"),
            "has just ended",
        )];
    };
    let mut found: Vec<Obstacle> = network(&site.paths.netns(id)).await;
    let walk = tokio::task::spawn_blocking(move || processes(init.pid, &group.processes())).await;
    found.extend(walk.unwrap_or_default());
    // Last: what is about the container tells its owner more than what is about the host.
    found.extend(criu().await);
    found
}

/// What is wrong with this host's CRIU; asked now and then.
async fn criu() -> Option<Obstacle> {
    static LAST: Mutex<Option<(Instant, Option<Obstacle>)>> = Mutex::const_new(None);
    let mut last = LAST.lock().await;
    match last.as_ref().filter(|(at, _)| at.elapsed() < HOLDS) {
        Some((_, answer)) => answer.clone(),
        None => {
            let answer = Command::new("criu").arg("--version").run().await;
            last.insert((Instant::now(), wrong(answer))).1.clone()
        }
    }
}

fn wrong(answer: Result<String, Failure>) -> Option<Obstacle> {
    let subject = "this host";
    let text = match answer {
        Ok(text) => text,
        Err(e) => {
            return Some(obstacle(
                "NoCriu",
                subject,
                format!("has no CRIU that works: {e}"),
            ));
        }
    };
    let found = version(&text).filter(|found| *found < LEAST)?;
    let message = format!(
        "has CRIU {}.{}; it needs {}.{} or newer",
        found.0, found.1, LEAST.0, LEAST.1
    );
    Some(obstacle("CriuTooOld", subject, message))
}

/// Major and minor number in what `criu --version` says.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let number = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("Version:"))?;
    let mut parts = number.trim().split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Rules and devices that the container made in its own network namespace: they are not carried over.
async fn network(path: &std::path::Path) -> Vec<Obstacle> {
    let look = || {
        let rules = netns::run("nft", &["list", "ruleset"], "").unwrap_or_default();
        let devices: Vec<String> = nix::net::if_::if_nameindex()
            .map(|all| {
                all.iter()
                    .map(|i| i.name().to_string_lossy().into_owned())
                    .collect()
            })
            .unwrap_or_default();
        Ok((rules, devices))
    };
    let Ok((rules, devices)) = netns::within(path, look).await else {
        return vec![];
    };
    let mut found = Vec::new();
    if rules.contains("hook") {
        let message = "it has packet filter rules of its own, which are not carried over; remove them, or move it cold";
        found.push(obstacle("PacketFilter", "its network namespace", message));
    }
    for device in devices
        .iter()
        .filter(|d| *d != "lo" && !d.starts_with("eth"))
    {
        let message = "is a network device that it made, which is not carried over; delete it, or move it cold";
        found.push(obstacle("NetworkDevice", device.as_str(), message));
    }
    found
}

fn processes(init: i32, all: &[i32]) -> Vec<Obstacle> {
    let mut found = mounts(init);
    let known: BTreeSet<i32> = all.iter().copied().collect();
    let own: Vec<Option<String>> = WHOLE
        .iter()
        .map(|kind| tasks::namespace(init, kind))
        .collect();
    for pid in all {
        let parent = tasks::status(*pid, "PPid")
            .and_then(|p| p.parse().ok())
            .unwrap_or(0);
        if *pid != init && !known.contains(&parent) {
            if std::path::Path::new(&format!("/proc/{pid}")).exists() {
                let message = "was started by `skysail exec` or `console`; end that session";
                found.push(obstacle("Session", tasks::name(*pid), message));
            }
            continue;
        }
        found.extend(process(*pid, &own));
    }
    found
}

fn process(pid: i32, own: &[Option<String>]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    for (kind, own) in WHOLE.iter().zip(own) {
        let here = tasks::namespace(pid, kind);
        if here.is_some() && here != *own {
            let message = format!(
                "has a {kind} namespace of its own, inside the container's; for a systemd service, switch the Private… or Protect… setting off that makes it"
            );
            found.push(obstacle("NestedNamespace", tasks::name(pid), message));
        }
    }
    if tasks::status(pid, "TracerPid").is_some_and(|t| t != "0") {
        found.push(obstacle(
            "Traced",
            tasks::name(pid),
            "is being traced; detach the debugger",
        ));
    }
    let mounts = tasks::mounts(pid);
    for (number, target) in tasks::descriptors(pid) {
        if console::is(pid, number) {
            continue;
        }
        // Memory with a name is on a mount of the kernel's, and CRIU makes it again.
        let foreign = target.starts_with('/')
            && !target.starts_with("/memfd:")
            && tasks::mount(pid, number).is_some_and(|m| !mounts.contains(&m));
        if foreign {
            let subject = format!("{}, descriptor {number}", tasks::name(pid));
            let message = format!(
                "is {target} of the host, which it was started with; stop the process, or move the container cold"
            );
            found.push(obstacle("ForeignFile", subject, message));
        } else if let Some((reason, what)) = unsupported(&target) {
            let subject = format!("{}, descriptor {number}", tasks::name(pid));
            found.push(obstacle(
                reason,
                subject,
                format!("is {what}; stop the process, or move the container cold"),
            ));
        }
    }
    found
}

/// What about an open file cannot be dumped.
fn unsupported(target: &str) -> Option<(&'static str, String)> {
    if let Some(kind) = target.strip_prefix("anon_inode:") {
        return (!ANONYMOUS.contains(&kind)).then(|| {
            (
                "Descriptor",
                format!("of the kind {kind}, which CRIU cannot dump"),
            )
        });
    }
    let device = target.starts_with("/dev/")
        && !DEVICES.contains(&target)
        && !["/dev/pts/", "/dev/shm/", "/dev/mqueue"]
            .iter()
            .any(|p| target.starts_with(p));
    device.then(|| {
        (
            "Device",
            format!("the device {target}, which is not the same on another host"),
        )
    })
}

/// Mounts of the container that cannot be made again.
fn mounts(init: i32) -> Vec<Obstacle> {
    let text = std::fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    text.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Obstacle> {
    let (before, after) = line.split_once(" - ")?;
    let (point, kind) = (before.split(' ').nth(4)?, after.split(' ').next()?);
    if FILE_SYSTEMS.contains(&kind) {
        return None;
    }
    let message = match point.strip_prefix("/run/credentials/") {
        Some(unit) => format!(
            "holds credentials of {unit} on a {kind}, which CRIU cannot dump; take ImportCredential= and LoadCredential= off that unit"
        ),
        None => {
            format!("is a {kind}, which CRIU cannot dump; unmount it, or move the container cold")
        }
    };
    Some(obstacle("Mount", format!("mount {point}"), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_with_credentials_is_named_with_the_way_out() {
        let line = "528 321 0:211 / /run/credentials/a.service ro,nosuid shared:249 - ramfs ramfs rw,mode=700";
        let found = mount(line).unwrap();
        assert_eq!(found.reason, "Mount");
        assert!(
            found.to_string().contains("credentials of a.service"),
            "{found}"
        );
        assert_eq!(
            mount("721 391 0:207 / /tmp rw shared:252 - tmpfs tmpfs rw"),
            None
        );
    }

    #[test]
    fn descriptors_that_move_are_told_from_those_that_do_not() {
        for fine in [
            "anon_inode:[eventpoll]",
            "anon_inode:inotify",
            "socket:[1]",
            "/dev/null",
            "/dev/pts/0",
            "/var/x (deleted)",
        ] {
            assert_eq!(unsupported(fine), None, "{fine}");
        }
        assert_eq!(
            unsupported("anon_inode:[io_uring]").unwrap().0,
            "Descriptor"
        );
        assert_eq!(unsupported("anon_inode:bpf-prog").unwrap().0, "Descriptor");
        assert_eq!(unsupported("/dev/kvm").unwrap().0, "Device");
    }

    #[test]
    fn the_version_of_criu_is_read() {
        assert_eq!(version("Version: 4.2.1\n"), Some((4, 2)));
        assert_eq!(version("Version: 3.17.1\nGitID: v3\n"), Some((3, 17)));
        assert_eq!(version("criu: not found"), None);
        assert!((4, 1) < LEAST && (4, 2) >= LEAST);
    }
}
