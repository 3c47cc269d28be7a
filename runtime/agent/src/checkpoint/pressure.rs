//! Pressure-stall triggers, which CRIU does not know: it opens the file again and
//! leaves it without a trigger, which the kernel reports as an error for ever, and
//! every event loop that watches it spins (systemd's journal does).
//!
//! Cure: the same open file is given a trigger again before its process runs. Its
//! text cannot be read anywhere, so it is systemd's default. The event loop registered
//! before the trigger was there and is not told of pressure until it registers anew;
//! it loses hints, nothing else.

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use std::io;

/// systemd's default: 200 ms of stalls within 2 s, which is the shortest window for processes without privileges.
const TRIGGER: &[u8] = b"some 200000 2000000\0";

/// Gives every watched pressure file of `processes` a trigger. Returns how many there were.
///
/// # Errors
/// A descriptor could not be reached.
pub fn rearm(processes: &[i32]) -> io::Result<usize> {
    let mut count = 0;
    for pid in processes {
        for (number, target) in super::tasks::descriptors(*pid) {
            if !target.starts_with("/proc/pressure/") && !target.ends_with(".pressure") {
                continue;
            }
            let Some(process) = Pid::from_raw(*pid) else {
                continue;
            };
            let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
            let file = rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
            match rustix::io::write(&file, TRIGGER) {
                // One that was dumped without a trigger, or opened only to be read.
                Err(rustix::io::Errno::BUSY | rustix::io::Errno::BADF) => {}
                other => {
                    other?;
                    count += 1;
                }
            }
        }
    }
    Ok(count)
}
