//! The server as a process of this machine.

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Ends a process: asks, then insists.
///
/// # Errors
/// When it may not be ended.
pub async fn end(pid: i32) -> Result<()> {
    let target = Pid::from_raw(pid);
    let gone = || kill(target, None).is_err();
    kill(target, Signal::SIGTERM).or_else(|e| {
        if e == nix::errno::Errno::ESRCH {
            Ok(())
        } else {
            Err(e)
        }
    })?;
    let begun = Instant::now();
    while !gone() {
        if begun.elapsed() > Duration::from_secs(10) {
            kill(target, Signal::SIGKILL).or_else(|e| {
                if e == nix::errno::Errno::ESRCH {
                    Ok(())
                } else {
                    Err(e)
                }
            })?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Whether the process runs this very program; a program file that was replaced is another one.
pub fn is_this_program(pid: i32) -> bool {
    let theirs = std::fs::read_link(format!("/proc/{pid}/exe"));
    theirs.is_ok_and(|theirs| std::env::current_exe().is_ok_and(|ours| ours == theirs))
}
