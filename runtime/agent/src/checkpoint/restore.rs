//! The target: from images to a container that stands before its first instruction.
//!
//! LXC is asked to restore, so that its monitor is there as for every other
//! container; CRIU makes the user and network namespaces, because a namespace can
//! only be entered with the rights of the one that owns it, and the agent moves the
//! prepared devices into them.

use super::arrivals::Arrivals;
use super::dump::{CONSOLE, end};
use super::error::{self, Error};
use super::freezer::Group;
use super::work::{self, Asks, Phase, State, Work};
use super::{Options, console, images, lock, pressure, timers};
use crate::container::record::{Id, Init};
use crate::container::site::Site;
use crate::container::{config, files, mount};
use crate::network::links;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The descriptor by which the monitor and CRIU hold the console.
const HELD: &str = "9";
/// How long a stage may take to hear its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long CRIU may take to let go of every task.
const RELEASE: Duration = Duration::from_secs(20);

/// A new init, which is frozen, and what has arrived for it, if that is kept.
type Restored = (Init, Option<Arrivals>);

/// Restores.
pub async fn restore(site: &Site, id: &Id, dir: &Path, opts: &Options) -> Result<Restored, Error> {
    let done = tokio::time::timeout(opts.limit, parked(site, id, dir)).await;
    let result = match done {
        Ok(result) => result,
        Err(_) => Err(Error::TimedOut {
            phase: "restore",
            limit: opts.limit,
        }),
    };
    if result.is_err() {
        undo(site, id).await?;
    }
    result
}

async fn parked(site: &Site, id: &Id, dir: &Path) -> Result<Restored, Error> {
    let (work, mut asks) = Work::begin(id)?;
    let mut arrivals = None;
    let terminal = prepare(site, id, dir, &work)?;
    let mut lxc = start(site, id, dir, &work, terminal.as_deref())?;
    let program = lxc.id().and_then(|pid| Init::now(pid.cast_signed()));
    loop {
        let (stage, pid) = next(&mut lxc, &mut asks, dir).await?;
        let gone = || Error::Criu {
            phase: "restore",
            cause: format!("its process {pid} ended at {stage}"),
        };
        let init = Init::now(pid).ok_or_else(gone)?;
        work.save(&State {
            phase: Phase::Dumping,
            program,
            init,
            dir: dir.to_owned(),
        })?;
        match stage.as_str() {
            "setup-namespaces" => arrivals = adopt(site, id, pid).await?,
            "pre-resume" => {
                let group =
                    Group::of(pid, site.version).map_err(Error::file(format!("container {id}")))?;
                let processes = group.processes();
                let rearmed = pressure::rearm(&processes);
                rearmed.map_err(Error::file("watching memory pressure again".to_owned()))?;
                let restarted = timers::restart(&processes);
                restarted.map_err(Error::file("starting its timers again".to_owned()))?;
                group
                    .freeze()
                    .await
                    .map_err(Error::file(format!("holding container {id}")))?;
                work.save(&State {
                    phase: Phase::Parked,
                    program,
                    init,
                    dir: dir.to_owned(),
                })?;
                return Ok((init, arrivals));
            }
            _ => {}
        }
        if !work.answer(0, PATIENCE).await {
            return Err(gone());
        }
    }
}

/// What must be there before LXC is called. Returns the terminal that is its console, if it has one.
fn prepare(site: &Site, id: &Id, dir: &Path, work: &Work) -> Result<Option<String>, Error> {
    let (record, rootfs) = (site.record(id), site.paths.rootfs(id));
    if !mount::is_mounted(&rootfs).is_ok_and(|m| m)
        || !mount::is_mounted(&site.paths.netns(id)).is_ok_and(|m| m)
    {
        return Err(Error::NotPrepared);
    }
    if let Some(ids) = record.ids {
        images::map_ids(dir, ids)
            .map_err(Error::file("writing its ids into the images".to_owned()))?;
    }
    let own = record
        .desired
        .image
        .as_ref()
        .and_then(|i| i.init.first().cloned());
    let systemd = files::is_systemd(&rootfs, &own.unwrap_or_else(|| "/sbin/init".into()));
    let init = files::init(&record.desired, systemd);
    let text = config::render(
        &site.paths,
        id,
        &record.desired,
        record.ids,
        &init,
        site.version,
    );
    std::fs::write(site.paths.config(id), text)
        .map_err(Error::file("writing its configuration".to_owned()))?;
    let mut more = vec!["--empty-ns".to_owned(), "net".into()];
    let mut terminal = None;
    if let Ok(identity) = std::fs::read_to_string(dir.join(CONSOLE)) {
        let path = console::open(
            record.ids.map_or(0, |i| i.base),
            &site.paths.console_log(id),
        )?;
        more.extend(["--inherit-fd".into(), format!("fd[{HELD}]:{identity}")]);
        more.extend(["--ext-mount-map".into(), format!("console:{path}")]);
        terminal = Some(path);
    }
    work.more(&more)
        .map_err(Error::file("preparing its restore".to_owned()))?;
    Ok(terminal)
}

fn start(
    site: &Site,
    id: &Id,
    dir: &Path,
    work: &Work,
    terminal: Option<&str>,
) -> Result<Child, Error> {
    let script = match terminal {
        // Opened by the shell, so that it is inherited by nobody else.
        Some(_) => format!("exec lxc-checkpoint \"$@\" {HELD}<>\"$SKYSAIL_TERMINAL\""),
        None => "exec lxc-checkpoint \"$@\"".to_owned(),
    };
    let mut lxc = Command::new("sh");
    lxc.args(["-c", &script, "sh", "-r", "-n", &id.to_string()]);
    lxc.arg("-P")
        .arg(site.paths.containers())
        .arg("-D")
        .arg(dir)
        .arg("-A")
        .arg(work::hook());
    lxc.arg("-o")
        .arg(site.paths.lxc_log(id))
        .args(["-l", "WARN"]);
    lxc.envs(work.environment())
        .env("SKYSAIL_TERMINAL", terminal.unwrap_or_default());
    lxc.env("SKYSAIL_PATH", work::search_path())
        .env("PATH", work::path());
    lxc.process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    lxc.spawn().map_err(Error::file(
        "starting lxc-checkpoint; is lxc installed?".to_owned(),
    ))
}

async fn next(lxc: &mut Child, asks: &mut Asks, dir: &Path) -> Result<(String, i32), Error> {
    tokio::select! {
        ask = asks.next() => ask.ok_or(Error::Criu { phase: "restore", cause: "its pipe ended".into() }),
        _ = lxc.wait() => Err(Error::Criu { phase: "restore", cause: error::complaint(&dir.join("restore.log")) }),
    }
}

/// The namespaces of the new init become the container's: locked, and with the devices that were prepared. What
/// arrives by them is kept.
async fn adopt(site: &Site, id: &Id, pid: i32) -> Result<Option<Arrivals>, Error> {
    let record = site.record(id);
    let own = Path::new("/proc").join(pid.to_string()).join("ns");
    let (prepared, kept) = (site.paths.netns(id), site.paths.netns(id));
    lock::close(&own.join("net")).await?;
    let network = |e: &dyn std::fmt::Display| Error::Network(e.to_string());
    links::hand_over(&prepared, &own.join("net"))
        .await
        .map_err(|e| network(&e))?;
    let arrivals = match Arrivals::open(&own.join("net")).await {
        Ok(arrivals) => Some(arrivals),
        Err(error) => {
            tracing::warn!(container = %id, %error, "what arrives until it runs is lost");
            None
        }
    };
    let keep = || {
        if record.ids.is_some() {
            mount::keep_namespace(&own.join("user"), &site.paths.userns(id))?;
        }
        mount::keep_namespace(&own.join("net"), &kept)
    };
    keep().map_err(Error::file("keeping its namespaces".to_owned()))?;
    let attached = site
        .plane
        .attach(&kept, &record.attached, record.bandwidth)
        .await;
    attached.map_err(|e| network(&e))?;
    Ok(arrivals)
}

/// Has CRIU let go of every task, which the freezer holds: one that it has not finished must never run. Where it died
/// before that, what it restored is taken away.
pub async fn release(site: &Site, id: &Id, state: &State) -> Result<(), Error> {
    let (work, begun) = (Work::of(id), Instant::now());
    let lives = || state.program.is_some_and(|p| p.lives());
    let mut told = false;
    loop {
        // In this order: it may say so and end between the two.
        let ended = !lives();
        if work.is_resumed() {
            return Ok(());
        }
        if ended || begun.elapsed() > RELEASE {
            undo(site, id).await?;
            let cause = "the program that restored it ended before it was done".into();
            return Err(Error::Criu {
                phase: "restore",
                cause,
            });
        }
        told = told || work.answer(0, Duration::ZERO).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Lets what was released run.
pub fn thaw(site: &Site, id: &Id, state: &State) -> Result<(), Error> {
    let group = Group::of(state.init.pid, site.version);
    group
        .and_then(|g| g.thaw())
        .map_err(Error::file(format!("letting container {id} run")))
}

/// Waits for the programs that restored it, and removes what they used.
pub async fn settle(id: &Id) -> Result<(), Error> {
    let work = Work::of(id);
    let program = work.load().and_then(|s| s.program);
    if let Some(lxc) = program.filter(Init::lives) {
        end(lxc, Duration::from_secs(20)).await;
    }
    work.clear()
        .map_err(Error::file(format!("container {id}: ending its restore")))
}

/// Takes away everything that was restored.
pub async fn undo(site: &Site, id: &Id) -> Result<(), Error> {
    let work = Work::of(id);
    let state = work.load();
    if let Some(group) = state
        .as_ref()
        .and_then(|s| Group::of(s.init.pid, site.version).ok())
    {
        group
            .kill()
            .await
            .map_err(Error::file(format!("ending container {id}")))?;
    }
    work.answer(1, Duration::from_millis(50)).await;
    if let Some(lxc) = state.and_then(|s| s.program) {
        end(lxc, Duration::from_secs(3)).await;
    }
    // Its network stays locked: a kernel that knows nothing of its connections would end them.
    work.clear()
        .map_err(Error::file(format!("container {id}: ending its restore")))
}
