//! Periodic timers (timerfd) that had run out when they were dumped and were not read yet. The kernel starts such a
//! timer again when it is read, so to CRIU it looks as if it were switched off; restored, it would tell of the one
//! time and then never again.
//!
//! Cure: it runs out at once, and from then on at its interval. A timer that really was off has nothing to tell.

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
use std::io;

/// Starts the timers of `processes` that stopped so.
///
/// # Errors
/// A descriptor could not be reached.
pub fn restart(processes: &[i32]) -> io::Result<()> {
    for pid in processes {
        for (number, target) in super::tasks::descriptors(*pid) {
            if target != "anon_inode:[timerfd]" {
                continue;
            }
            let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
            let (Some(interval), Some(process)) = (stopped(&text), Pid::from_raw(*pid)) else {
                continue;
            };
            let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
            let timer = rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
            let at_once = Timespec {
                tv_sec: 0,
                tv_nsec: 1,
            };
            let again = Itimerspec {
                it_interval: interval,
                it_value: at_once,
            };
            timerfd_settime(&timer, TimerfdTimerFlags::empty(), &again)?;
        }
    }
    Ok(())
}

/// The interval of a timer that has something to tell and does not run, from its `fdinfo`.
fn stopped(text: &str) -> Option<Timespec> {
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key));
        line.map(str::trim)
    };
    let pair = |key: &str| {
        let pair = value(key)?.strip_prefix('(')?.strip_suffix(')')?;
        let (seconds, nanoseconds) = pair.split_once(", ")?;
        Some((seconds.parse().ok()?, nanoseconds.parse().ok()?))
    };
    let ticks: u64 = value("ticks:")?.parse().ok()?;
    let (left, every): ((i64, i64), (i64, i64)) = (pair("it_value:")?, pair("it_interval:")?);
    (ticks > 0 && left == (0, 0) && every != (0, 0)).then_some(Timespec {
        tv_sec: every.0,
        tv_nsec: every.1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_periodic_timer_that_has_run_out_and_was_not_read_is_started_again() {
        let text = |ticks: u64, left: u64, every: u64| {
            format!(
                "pos:\t0\nflags:\t02\nclockid: 1\nticks: {ticks}\nsettime flags: 00\nit_value: (0, {left})\nit_interval: (0, {every})\n"
            )
        };
        assert_eq!(stopped(&text(1, 0, 30)).map(|i| i.tv_nsec), Some(30));
        assert_eq!(stopped(&text(1, 9, 30)), None);
        assert_eq!(stopped(&text(0, 0, 30)), None, "switched off");
        assert_eq!(stopped(&text(1, 0, 0)), None, "for one time only");
    }
}
