//! Processes, told from later ones with the same number.

use serde::{Deserialize, Serialize};

/// A process, named so that a later one with the same number is not taken for it.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Init {
    /// Process id on the host.
    pub pid: i32,
    /// When it was started, in clock ticks since boot.
    pub ticks: u64,
}

impl Init {
    /// Names the process that has `pid` now.
    pub fn now(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            ticks: start_ticks(&stat)?,
        })
    }

    /// Whether this very process still lives.
    pub fn lives(&self) -> bool {
        Self::now(self.pid) == Some(*self)
    }
}

/// Field 22 of `/proc/<pid>/stat`; none for a zombie, which does not run any more.
fn start_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.get(stat.rfind(')')? + 2..)?;
    let mut fields = after_name.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Waits for the end of a process.
#[allow(unsafe_code)]
pub async fn ended(init: Init) -> std::io::Result<()> {
    let Some(pid) = rustix::process::Pid::from_raw(init.pid) else {
        return Ok(());
    };
    let fd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // Between reading its start time and opening it, its number may have passed to another process.
    if !init.lives() {
        return Ok(());
    }
    // SAFETY: the descriptor is owned by the `OwnedFd` that is handed over, so it stays open and the same for as long
    // as it is registered. tokio offers no other way that is not deprecated.
    let fd = unsafe {
        tokio::io::unix::AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE)
    }?;
    fd.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_the_same_number() {
        let me = Init::now(std::process::id().cast_signed()).unwrap();
        assert!(me.lives());
        assert!(
            !Init {
                ticks: me.ticks + 1,
                ..me
            }
            .lives()
        );
    }

    #[test]
    fn a_zombie_does_not_live_and_a_name_with_spaces_and_brackets_is_read() {
        let tail = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(start_ticks(&format!("7 (a) b) S {tail}")), Some(4711));
        assert_eq!(start_ticks(&format!("7 (sh) Z {tail}")), None);
        assert_eq!(start_ticks("7 (sh"), None);
    }
}
