//! The control group of a container: who is in it, and holding all of them still.

use crate::usage::cgroup::{self, Version};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel may take to stop every task.
const LIMIT: Duration = Duration::from_secs(2);

/// A container's group in the hierarchy that can freeze.
#[derive(Debug, Clone)]
pub struct Group {
    path: PathBuf,
    version: Version,
}

impl Group {
    /// The group of the container whose init is `pid`.
    ///
    /// # Errors
    /// The process is gone, or in no container's group.
    pub fn of(pid: i32, version: Version) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let (root, controller) = match version {
            Version::V1 => (Path::new(cgroup::ROOT).join("freezer"), Some("freezer")),
            Version::V2 => (PathBuf::from(cgroup::ROOT), None),
        };
        let own = cgroup::payload(&text, controller).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {pid} is in no container's control group"),
            )
        })?;
        Ok(Self {
            path: root.join(own),
            version,
        })
    }

    fn state(&self) -> PathBuf {
        self.path.join(match self.version {
            Version::V1 => "freezer.state",
            Version::V2 => "cgroup.freeze",
        })
    }

    /// Whether every task of it stands still.
    pub fn is_frozen(&self) -> bool {
        match self.version {
            Version::V1 => {
                std::fs::read_to_string(self.state()).is_ok_and(|s| s.trim() == "FROZEN")
            }
            Version::V2 => std::fs::read_to_string(self.path.join("cgroup.events"))
                .is_ok_and(|s| cgroup::keyed(&s, "frozen") == Some(1)),
        }
    }

    /// Holds every task still; returns when they are.
    ///
    /// # Errors
    /// A task does not stop in time. What was begun is undone.
    pub async fn freeze(&self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let word = match self.version {
                Version::V1 => "FROZEN",
                Version::V2 => "1",
            };
            std::fs::write(self.state(), word)?;
            if self.is_frozen() {
                return Ok(());
            }
            if begun.elapsed() > LIMIT {
                self.thaw()?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("its tasks did not stand still within {LIMIT:?}"),
                ));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets them run. Fine where the group is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> io::Result<()> {
        let word = match self.version {
            Version::V1 => "THAWED",
            Version::V2 => "0",
        };
        match std::fs::write(self.state(), word) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Err(e),
            _ => Ok(()),
        }
    }

    /// Every process of it, as this host numbers them.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|l| l.trim().parse::<i32>().ok()));
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(
                entries
                    .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                    .map(|e| e.path()),
            );
        }
        found.retain(|pid| *pid > 0);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Kills every process of it, frozen or not, and returns when none is left. None of them runs again.
    ///
    /// # Errors
    /// Something does not die.
    pub async fn kill(&self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let living = self.processes();
            for pid in &living {
                // Fails only where it has just ended.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(*pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            // The signal is pending on all of them before any may move again.
            self.thaw()?;
            if living.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > LIMIT * 2 {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("processes {living:?} do not end although they were killed"),
                ));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
