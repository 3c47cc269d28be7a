//! When an image that could not be fetched is tried again. Pure.
//!
//! After a delay that grows with every failure in a row, so that nobody is asked for a
//! large archive over and over; at once when the room is there that was missing.

use super::Refusal;
use jiff::{SignedDuration, Timestamp};

/// The delay after the first failure; it doubles …
const FIRST: SignedDuration = SignedDuration::from_secs(1);
/// … up to this.
const LONGEST: SignedDuration = SignedDuration::from_secs(30);

/// A fetch that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// When.
    pub at: Timestamp,
    /// How often in a row, this one included.
    pub times: u32,
    /// Why.
    pub refusal: Refusal,
}

impl Failed {
    /// When it is worth another try, with `free` bytes on the disk.
    pub fn again(&self, free: u64) -> Timestamp {
        let delay = match self.refusal.room {
            Some(room) if free >= room => FIRST,
            _ => (FIRST * (1 << self.times.saturating_sub(1).min(5))).min(LONGEST),
        };
        self.at.saturating_add(delay).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::UNIX_EPOCH;

    fn after(times: u32, room: Option<u64>, free: u64) -> i64 {
        let refusal = Refusal {
            room,
            ..Refusal::new("DiskFull", "")
        };
        let failed = Failed {
            at: T0,
            times,
            refusal,
        };
        failed.again(free).duration_since(T0).as_secs()
    }

    #[test]
    fn the_delay_grows_up_to_a_bound() {
        let delays: Vec<_> = [1, 2, 3, 4, 5, 6, 7, 99].map(|n| after(n, None, 0)).into();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn room_that_was_missing_and_is_there_ends_the_wait() {
        assert_eq!(after(9, Some(100), 99), 30);
        assert_eq!(after(9, Some(100), 100), 1);
    }
}
