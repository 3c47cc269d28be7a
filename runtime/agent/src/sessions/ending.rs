//! The end of what a session started, when its client goes.
//!
//! Killing `lxc-attach` leaves what it attached running, so the processes are found by
//! what the kernel knows: the descendants of the one that was started, and everything
//! in a POSIX session of theirs. What made itself a session of its own and let go of its
//! parent (a daemon) is none of them, as after a login.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::Instant;

/// How long processes may take to end by themselves once they are hung up on.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(50);

/// A process, as `/proc/<pid>/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
}

/// One `stat` line; `None` for zombies, which have ended already.
fn parse(stat: &str) -> Option<Process> {
    // The name may hold anything, a bracket too.
    let (pid, rest) = (stat.split_once(' ')?.0, stat.rsplit_once(") ")?.1);
    let fields: Vec<&str> = rest.split(' ').collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    let number = |i: usize| fields.get(i)?.parse().ok();
    Some(Process {
        pid: pid.parse().ok()?,
        parent: number(1)?,
        session: number(3)?,
    })
}

/// Every process that this one can see.
fn all() -> Vec<Process> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    folders
        .filter(|f| f.file_name().as_encoded_bytes()[0].is_ascii_digit())
        // A process may end between the two looks.
        .filter_map(|f| parse(&std::fs::read_to_string(f.path().join("stat")).ok()?))
        .collect()
}

/// What belongs to a session: everything below `root`, and whatever is in one of `sessions`, to which those of
/// the former are added. `foreign` is never one of them.
fn members(
    root: i32,
    sessions: &mut BTreeSet<i32>,
    foreign: i32,
    all: &[Process],
) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        found.extend(
            all.iter()
                .filter(|p| found.contains(&p.parent))
                .map(|p| p.pid)
                .collect::<Vec<_>>(),
        );
        if found.len() == before {
            break;
        }
    }
    let mine = all.iter().filter(|p| found.contains(&p.pid));
    sessions.extend(mine.map(|p| p.session).filter(|s| *s != foreign && *s > 0));
    all.iter()
        .filter(|p| found.contains(&p.pid) || sessions.contains(&p.session))
        .map(|p| p.pid)
        .collect()
}

/// Hangs up on everything that `child`, the leader of a POSIX session, started, and kills what does not end by itself.
pub async fn end(child: &mut Child) {
    let Some(root) = child.id().and_then(|id| i32::try_from(id).ok()) else {
        return;
    };
    let foreign = getsid(None).map_or(0, Pid::as_raw);
    // It leads a session, which outlives it.
    let (mut sessions, until) = (BTreeSet::from([root]), Instant::now() + GRACE);
    let mut hung_up = BTreeSet::new();
    loop {
        // Reaps the child, which else would be seen for ever.
        let _ = child.try_wait();
        let alive = members(root, &mut sessions, foreign, &all());
        if alive.is_empty() {
            return;
        }
        let late = Instant::now() >= until;
        for pid in alive.iter().copied() {
            let signals: &[Signal] = if late {
                &[Signal::SIGKILL]
            } else if (pid == root && alive.len() > 1) || !hung_up.insert(pid) {
                // The root only waits for the others, and might take them with it.
                &[]
            } else {
                // Who is stopped hears nothing.
                &[Signal::SIGHUP, Signal::SIGCONT]
            };
            for signal in signals {
                // It may have ended since.
                let _ = kill(Pid::from_raw(pid), *signal);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(pid: i32, parent: i32, session: i32) -> Process {
        Process {
            pid,
            parent,
            session,
        }
    }

    #[test]
    fn a_stat_line_is_read_whatever_the_name_of_the_process() {
        let line = "41 (a) b (c) S 7 41 40 0 -1 4194304 1";
        assert_eq!(parse(line), Some(p(41, 7, 40)));
        assert_eq!(parse("41 (sh) Z 7 41 40 0"), None);
    }

    #[test]
    fn a_session_is_what_descends_from_it_and_what_is_left_in_its_posix_sessions() {
        let agent = p(5, 1, 5);
        let (attach, inner, shell) = (p(10, 5, 10), p(11, 10, 11), p(12, 11, 11));
        let (background, daemon) = (p(13, 1, 11), p(14, 1, 14));
        let mut sessions = BTreeSet::new();
        let all = [agent, attach, inner, shell, background, daemon];
        let found = members(10, &mut sessions, 5, &all);
        assert_eq!(found, BTreeSet::from([10, 11, 12, 13]));
        // Sessions stay known when their leaders are gone.
        let found = members(10, &mut sessions, 5, &[agent, background, daemon]);
        assert_eq!(found, BTreeSet::from([13]));
    }

    #[test]
    fn a_root_that_is_not_yet_in_a_session_of_its_own_does_not_stand_for_the_agents() {
        let mut sessions = BTreeSet::new();
        let all = [p(5, 1, 5), p(6, 5, 5), p(10, 5, 5)];
        assert_eq!(members(10, &mut sessions, 5, &all), BTreeSet::from([10]));
    }
}
