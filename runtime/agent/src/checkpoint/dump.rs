//! The source: from a running container to one that stands still and is in images.

use super::arrivals::Arrivals;
use super::error::{self, Error};
use super::freezer::Group;
use super::lock::{self, Lock};
use super::work::{self, Asks, Phase, State, Work};
use super::{Options, console, watches};
use crate::container::record::{Id, Init};
use crate::container::site::Site;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How often a dump is begun again after what passes by itself.
const ATTEMPTS: u32 = 4;
/// How long a stage that waits may take to hear its answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// The file beside the images with the console's name.
pub const CONSOLE: &str = "skysail-console";
/// Files that were deleted while open are dumped up to this size.
const GHOSTS: &str = "64M";

/// Tasks that stand.
pub struct Standing {
    /// Since when.
    pub since: Instant,
    /// What has arrived for them from then on.
    pub arrivals: Option<Arrivals>,
}

/// Freezes and dumps.
pub async fn freeze(site: &Site, id: &Id, dir: &Path, opts: &Options) -> Result<Standing, Error> {
    let init = site
        .record(id)
        .init
        .filter(Init::lives)
        .ok_or(Error::NotRunning)?;
    let trouble = Error::file(format!("container {id}"));
    let group = Group::of(init.pid, site.version).map_err(trouble)?;
    let words = words(site, id, init, &group, dir).await;
    let netns = site.paths.netns(id);
    let mut attempt = 1;
    loop {
        let dumped = once(id, init, &group, dir, &words, &netns, opts).await;
        let Err(failure) = dumped else {
            return dumped;
        };
        undo(id, &group, &netns, dir).await?;
        if attempt == ATTEMPTS || !failure.passes() {
            return Err(failure);
        }
        tracing::info!(container = %id, %failure, attempt, "could not be dumped now; tried again");
        tokio::time::sleep(Duration::from_millis(30) * attempt).await;
        attempt += 1;
    }
}

async fn once(
    id: &Id,
    init: Init,
    group: &Group,
    dir: &Path,
    words: &[String],
    netns: &Path,
    opts: &Options,
) -> Result<Standing, Error> {
    let (work, asks) = Work::begin(id)?;
    let mut state = State {
        phase: Phase::Dumping,
        program: None,
        init,
        dir: dir.to_owned(),
    };
    work.save(&state)?;
    let lock = Lock::ready(netns).await?;
    let mut criu = start(&work, words)?;
    state.program = criu.id().and_then(|pid| Init::now(pid.cast_signed()));
    work.save(&state)?;
    let dumped = dumped(&mut criu, asks, &work, lock, netns, dir);
    let dumped = match tokio::time::timeout(opts.limit, dumped).await {
        Ok(dumped) => dumped,
        Err(_) => Err(Error::TimedOut {
            phase: "dump",
            limit: opts.limit,
        }),
    };
    let standing = match dumped {
        Ok(standing) => standing,
        Err(e) => {
            // Its tasks run on when it ends.
            let _ = criu.kill().await;
            return Err(e);
        }
    };
    group
        .freeze()
        .await
        .map_err(Error::file(format!("freezing container {id}")))?;
    state.phase = Phase::Frozen;
    work.save(&state)?;
    Ok(standing)
}

fn start(work: &Work, words: &[String]) -> Result<Child, Error> {
    let mut criu = Command::new("criu");
    criu.args(words).envs(work.environment()).process_group(0);
    criu.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    criu.spawn().map_err(Error::file(
        "starting criu; is its package installed?".to_owned(),
    ))
}

/// Waits for the end of the dump. The lock is closed once no task runs any more: what they said last still leaves.
async fn dumped(
    criu: &mut Child,
    mut asks: Asks,
    work: &Work,
    lock: Lock,
    netns: &Path,
    dir: &Path,
) -> Result<Standing, Error> {
    let odd = |cause: String| Error::Criu {
        phase: "dump",
        cause,
    };
    let mut stage = async || {
        tokio::select! {
            ask = asks.next() => Ok(ask.map(|(stage, _)| stage).unwrap_or_default()),
            _ = criu.wait() => Err(odd(error::complaint(&dir.join("dump.log")))),
        }
    };
    let first = stage().await?;
    if first != "network-lock" {
        return Err(odd(format!("it asked for {first:?} before the lock")));
    }
    let since = Instant::now();
    let arrivals = match Arrivals::open(netns).await {
        Ok(arrivals) => Some(arrivals),
        Err(error) => {
            tracing::warn!(%error, "what arrives while it stands still is lost");
            None
        }
    };
    lock.close().await?;
    if !work.answer(0, PATIENCE).await {
        return Err(odd("it does not wait for the lock".into()));
    }
    match stage().await?.as_str() {
        "post-dump" => Ok(Standing { since, arrivals }),
        other => Err(odd(format!("it asked for {other:?}"))),
    }
}

/// CRIU's command line.
async fn words(site: &Site, id: &Id, init: Init, group: &Group, dir: &Path) -> Vec<String> {
    let (processes, rootfs) = (group.processes(), site.paths.rootfs(id));
    let watched = tokio::task::spawn_blocking(move || watches::paths(&processes, &rootfs)).await;
    let mut words: Vec<String> = [
        "dump",
        "-o",
        "dump.log",
        "-v1",
        "--tcp-established",
        "--file-locks",
        "--link-remap",
        "--manage-cgroups=full",
        "--enable-external-sharing",
        "--enable-external-masters",
        "--ext-mount-map",
        "auto",
        "--skip-in-flight",
        "--force-irmap",
        "--empty-ns",
        "net",
        "--network-lock",
        "skip",
        "--ghost-limit",
        GHOSTS,
    ]
    .map(str::to_owned)
    .to_vec();
    let mut pair = |key: &str, value: String| words.extend([key.to_owned(), value]);
    pair("-t", init.pid.to_string());
    pair("-D", dir.display().to_string());
    pair("--action-script", work::hook().display().to_string());
    for path in watched.unwrap_or_default() {
        pair("--irmap-scan-path", path);
    }
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", init.pid)).unwrap_or_default();
    for root in cgroup_roots(&groups) {
        pair("--cgroup-root", root);
    }
    if let Some(console) = console::identity(init.pid) {
        // Without it the container restores without a console, or not at all; CRIU says which.
        let _ = std::fs::write(dir.join(CONSOLE), &console);
        pair("--ext-mount-map", "/dev/console:console".into());
        pair("--external", console);
    }
    words
}

/// The groups that LXC made, as `controller:/path`, so that LXC may call them differently on the target.
fn cgroup_roots(proc_cgroup: &str) -> Vec<String> {
    let root = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let end = path.find("lxc.payload.")?;
        let tail = path
            .get(end..)?
            .find('/')
            .map_or(path.len(), |slash| end + slash);
        let path = path.get(..tail)?;
        Some(if controllers.is_empty() {
            path.to_owned()
        } else {
            format!("{controllers}:{path}")
        })
    };
    proc_cgroup.lines().filter_map(root).collect()
}

/// Lets the container run on as if nothing had been begun.
pub async fn undo(id: &Id, group: &Group, netns: &Path, dir: &Path) -> Result<(), Error> {
    let work = Work::of(id);
    let state = work.load();
    group
        .thaw()
        .map_err(Error::file(format!("thawing container {id}")))?;
    // Told so, CRIU also takes away the links that it made in the root. Where it is gone, its script may still wait.
    let criu = state.and_then(|s| s.program).filter(Init::lives);
    let patience = if criu.is_some() {
        PATIENCE
    } else {
        Duration::ZERO
    };
    let told = work.answer(1, patience).await;
    if let Some(criu) = criu {
        let patience = if told {
            Duration::from_secs(5)
        } else {
            Duration::ZERO
        };
        end(criu, patience).await;
    }
    lock::open(netns).await?;
    empty(dir).map_err(Error::file(format!("emptying {}", dir.display())))?;
    work.clear().map_err(Error::file(format!(
        "container {id}: ending its checkpoint"
    )))
}

/// Kills what stands and returns when nothing is left.
pub async fn end_for_good(id: &Id, group: Option<Group>) -> Result<(), Error> {
    let work = Work::of(id);
    if let Some(group) = group {
        group
            .kill()
            .await
            .map_err(Error::file(format!("ending container {id}")))?;
    }
    // It only waits for what to do with tasks that are no more.
    work.answer(1, Duration::ZERO).await;
    if let Some(criu) = work.load().and_then(|s| s.program).filter(Init::lives) {
        end(criu, Duration::ZERO).await;
    }
    work.clear().map_err(Error::file(format!(
        "container {id}: ending its checkpoint"
    )))
}

/// Waits for the end of a program, kills it after `patience`.
pub async fn end(program: Init, patience: Duration) {
    let begun = Instant::now();
    while program.lives() {
        if begun.elapsed() > patience {
            let pid = nix::unistd::Pid::from_raw(program.pid);
            // Its group: the script that waits goes with it. Fails only where it has ended.
            let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_are_those_that_lxc_made_and_not_what_the_container_made_below() {
        let text =
            "9:name=systemd:/lxc.payload.a.b/init.scope\n5:cpu,cpuacct:/lxc.payload.a.b\n0::/\n";
        assert_eq!(
            cgroup_roots(text),
            [
                "name=systemd:/lxc.payload.a.b",
                "cpu,cpuacct:/lxc.payload.a.b"
            ]
        );
    }
}
