//! LXC by its own programs, each with a time limit: a monitor of a half-dead container
//! can let any of them wait for ever.
//!
//! `lxc-start` makes the container's monitor a session of its own, so a container
//! outlives the agent that started it.

use super::id::Id;
use super::init::{Init, ended};
use super::paths::Paths;
use crate::command::{Command, Failure};
use std::time::Duration;

/// How long an init may take to end after SIGKILL; only one that is frozen takes longer.
const KILLED: Duration = Duration::from_secs(1);
/// How long a monitor may take to clean up after its init.
const MONITOR: Duration = Duration::from_secs(5);

/// Drives LXC on this host.
#[derive(Debug, Clone)]
pub struct Lxc {
    paths: Paths,
}

impl Lxc {
    /// LXC over these places.
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }

    fn command(&self, program: &str, id: &Id) -> Command {
        Command::new(program)
            .arg("-P")
            .arg(self.paths.containers())
            .arg("-n")
            .arg(id.to_string())
    }

    /// The container's init; `Ok(None)` means that it certainly does not run.
    pub async fn init(&self, id: &Id) -> Result<Option<Init>, Failure> {
        match self
            .command("lxc-info", id)
            .args(["-p", "-H"])
            .limit(Duration::from_secs(5))
            .run()
            .await
        {
            Ok(text) => Ok(text.trim().parse().ok().and_then(Init::now)),
            Err(Failure::Failed { output, .. }) if output.contains("doesn't exist") => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes one value of the control group of a container that runs.
    pub async fn set(&self, id: &Id, key: &str, value: &str) -> Result<(), Failure> {
        self.command("lxc-cgroup", id)
            .args([key, value])
            .limit(Duration::from_secs(5))
            .run()
            .await
            .map(drop)
    }

    /// Starts it and returns its init.
    pub async fn start(&self, id: &Id) -> Result<Init, Failure> {
        self.settle(id).await?;
        let config = self.paths.config(id);
        let log = self.paths.lxc_log(id);
        // Only the last start's complaints matter; absent is fine.
        let _ = std::fs::remove_file(&log);
        let start = self
            .command("lxc-start", id)
            .arg("-f")
            .arg(config)
            .arg("-p")
            .arg(self.paths.monitor_pid(id))
            .arg("-o")
            .arg(&log)
            .args(["-l", "WARN"]);
        if let Err(failure) = start.limit(Duration::from_secs(30)).run().await {
            return Err(explain(
                failure,
                &std::fs::read_to_string(log).unwrap_or_default(),
            ));
        }
        let line = format!("lxc-start {id}");
        let ended = Failure::Failed {
            line,
            code: 0,
            output: "its init ended at once; `skysail logs` shows its console".into(),
        };
        match self.started(id) {
            Some(init) => Ok(init),
            None => self.init(id).await?.ok_or(ended),
        }
    }

    /// The init of a container that was just started, by way of its monitor, whose only child it is. To ask
    /// `lxc-info` instead would cost a quarter of what the start does.
    fn started(&self, id: &Id) -> Option<Init> {
        let monitor = std::fs::read_to_string(self.paths.monitor_pid(id)).ok()?;
        let monitor: i32 = monitor.trim().parse().ok()?;
        let children =
            std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).ok()?;
        let mut children = children.split_whitespace().map(str::parse);
        match (children.next(), children.next()) {
            (Some(Ok(init)), None) if is_first_of_namespace(init) => Init::now(init),
            _ => None,
        }
    }

    /// Waits until the monitor of an earlier run has cleaned up.
    async fn settle(&self, id: &Id) -> Result<(), Failure> {
        if !self.paths.lxc_log(id).exists() {
            return Ok(());
        }
        // Not lxc-wait: it starts a daemon of its own, which takes ten times as long.
        for _ in 0..500 {
            let state = self
                .command("lxc-info", id)
                .args(["-s", "-H"])
                .limit(Duration::from_secs(5))
                .run()
                .await?;
            if state.trim() == "STOPPED" {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Asks its init to end, kills it after `grace`.
    pub async fn stop(&self, id: &Id, grace: Duration) -> Result<(), Failure> {
        let seconds = grace.as_secs().to_string();
        let asked = self
            .command("lxc-stop", id)
            .args(["-t", &seconds])
            .limit(grace + Duration::from_secs(5))
            .run()
            .await;
        let Some(init) = self.init(id).await? else {
            return Ok(());
        };
        tracing::warn!(container = %id, ?asked, "did not end when asked; it is killed");
        self.kill(id, Some(init)).await
    }

    /// Kills it, whose init is `known` if that is known, and waits until its monitor has cleaned up.
    pub async fn kill(&self, id: &Id, known: Option<Init>) -> Result<(), Failure> {
        let init = match known.filter(Init::lives) {
            Some(init) => init,
            None => match self.init(id).await? {
                Some(init) => init,
                None => return Ok(()),
            },
        };
        let monitor = parent(init.pid).filter(|pid| *pid > 1).and_then(Init::now);
        if kill_and_wait(init).await {
            if let Some(monitor) = monitor {
                // One that hangs is no reason to fail: nothing runs any more.
                let _ = tokio::time::timeout(MONITOR, ended(monitor)).await;
            }
            return Ok(());
        }
        // A frozen container hears no signal; its monitor thaws it.
        let killed = self.command("lxc-stop", id).arg("-k").run().await;
        if !init.lives() {
            return Ok(());
        }
        // The monitor is dead or hangs: end the init itself; its whole pid namespace goes with it.
        let pid = nix::unistd::Pid::from_raw(init.pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        for _ in 0..500 {
            if !init.lives() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let output = format!("process {} does not end although it was killed", init.pid);
        Err(killed.err().unwrap_or(Failure::Failed {
            line: format!("lxc-stop -k {id}"),
            code: 0,
            output,
        }))
    }
}

/// Whether a process is the first of a pid namespace below this one.
fn is_first_of_namespace(pid: i32) -> bool {
    status_line(pid, "NSpid:").is_some_and(|ids| {
        let ids: Vec<&str> = ids.split_whitespace().collect();
        ids.len() > 1 && ids.last() == Some(&"1")
    })
}

fn parent(pid: i32) -> Option<i32> {
    status_line(pid, "PPid:")?.trim().parse().ok()
}

fn status_line(pid: i32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|l| l.strip_prefix(name).map(str::to_owned))
}

/// Kills exactly this process; whether it ended within [`KILLED`].
async fn kill_and_wait(init: Init) -> bool {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Some(pid) = Pid::from_raw(init.pid) else {
        return true;
    };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return !init.lives();
    };
    // Its number may have passed to another process before it was opened.
    if !init.lives() {
        return true;
    }
    if pidfd_send_signal(&process, Signal::KILL).is_err() {
        return !init.lives();
    }
    matches!(tokio::time::timeout(KILLED, ended(init)).await, Ok(Ok(())))
}

/// Puts LXC's first own complaint into the failure: `lxc-start` itself only says where to look.
fn explain(failure: Failure, log: &str) -> Failure {
    let complaint = log
        .lines()
        .find_map(|l| l.split_once(" ERROR ").map(|(_, text)| text.trim()));
    match (failure, complaint) {
        (Failure::Failed { line, code, .. }, Some(text)) => {
            // "start - ../src/lxc/start.c:do_share_ns:1548 - Invalid argument - Failed to inherit …"
            let words: Vec<&str> = text.splitn(3, " - ").collect();
            Failure::Failed {
                line,
                code,
                output: words.last().copied().unwrap_or(text).to_owned(),
            }
        }
        (failure, _) => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_tells_the_first_cause_and_not_where_to_look() {
        let log = "lxc-start a 2026 WARN     x - y\nlxc-start a 2026.1 ERROR    start - ../src/lxc/start.c:do:15 - Invalid argument - Failed to inherit user namespace\nlxc-start a 2026 ERROR    tool - t.c:1 - The container failed to start\n";
        let failure = Failure::Failed {
            line: "lxc-start".into(),
            code: 1,
            output: "To get more details".into(),
        };
        let explained = explain(failure, log);
        assert_eq!(
            explained.to_string(),
            "lxc-start: exit 1: Invalid argument - Failed to inherit user namespace"
        );
    }

    #[tokio::test]
    async fn a_process_is_killed_and_its_end_waited_for_and_a_later_one_of_its_number_is_spared() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Init::now(child.id().cast_signed()).unwrap();
        let earlier = Init {
            ticks: process.ticks - 1,
            ..process
        };
        assert!(kill_and_wait(earlier).await);
        assert!(process.lives());
        assert!(kill_and_wait(process).await);
        assert!(!process.lives());
        child.wait().unwrap();
    }

    #[test]
    fn a_process_of_this_namespace_is_no_init_of_a_container() {
        let own = std::process::id().cast_signed();
        assert!(!is_first_of_namespace(own));
        assert_eq!(
            parent(own),
            Some(std::os::unix::process::parent_id().cast_signed())
        );
    }
}
