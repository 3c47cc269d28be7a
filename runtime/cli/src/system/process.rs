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

/// A process as it is put on record: its number, and when it began, so that a later one of the same number is not
/// taken for it.
pub fn record(pid: u32) -> String {
    match began(i64::from(pid)) {
        Some(ticks) => format!("{pid} {ticks}\n"),
        None => format!("{pid}\n"),
    }
}

/// The process on record, if it still runs and is a server, whatever its program file is called.
pub fn recorded(text: &str) -> Option<i32> {
    let mut words = text.split_whitespace();
    let pid: i32 = words.next()?.parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut line = line.split(|b| *b == 0);
    let program = line.next()?;
    let is_same = match words.next() {
        Some(ticks) => began(pid.into()) == ticks.parse().ok(),
        // Of a version that recorded no more.
        None => program.ends_with(b"skysail"),
    };
    (is_same && line.next() == Some(b"server")).then_some(pid)
}

/// When a process began, in clock ticks since boot: field 22 of its `stat`, after a name that may hold anything.
fn began(pid: i64) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process whose second word is `word`, with a program that is not called skysail.
    fn process(word: &str) -> Ended {
        let script = "while :; do sleep 1; done";
        Ended(
            Command::new("sh")
                .args(["-c", script, word])
                .spawn()
                .unwrap(),
        )
    }

    #[test]
    fn a_server_is_known_by_when_it_began_and_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("another-name");
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        std::fs::write(dir.path().join("server"), "while :; do sleep 1; done").unwrap();
        let mut command = Command::new(&program);
        let server = Ended(
            command
                .arg("server")
                .current_dir(dir.path())
                .spawn()
                .unwrap(),
        );
        let text = record(server.0.id());
        let begun = std::time::Instant::now();
        while recorded(&text).is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{text}");
            std::thread::yield_now();
        }
        let (pid, ticks) = text.trim().split_once(' ').unwrap();
        let later = format!("{pid} {}", ticks.parse::<u64>().unwrap() + 1);
        assert_eq!(recorded(&later), None, "another process of that number");
        assert_eq!(recorded(pid), None, "by its name alone it is nobody's");
        let other = process("else");
        assert_eq!(recorded(&record(other.0.id())), None, "no server");
        drop(server);
        assert_eq!(recorded(&text), None, "it has ended");
    }
}
