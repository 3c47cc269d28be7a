//! LXC by its own programs, each with a time limit: a monitor of a half-dead container
//! can let any of them wait for ever.
//!
//! `lxc-start` makes the container's monitor a session of its own, so a container
//! outlives the agent that started it.

use super::paths::Paths;
use super::record::{Id, Init};
use crate::command::{Command, Failure};
use std::time::Duration;

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
        self.init(id).await?.ok_or(ended)
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
        if self.init(id).await?.is_none() {
            return Ok(());
        }
        tracing::warn!(container = %id, ?asked, "did not end when asked; it is killed");
        self.kill(id).await
    }

    /// Kills it.
    pub async fn kill(&self, id: &Id) -> Result<(), Failure> {
        let Some(init) = self.init(id).await? else {
            return Ok(());
        };
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
}
