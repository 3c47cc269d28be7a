//! What a move will take, foreseen from what is known before it begins. Pure; `skysail migrate --dry-run` and the
//! agent that refuses a move over its freeze budget use the same.
//!
//! The constants are upper ends of what was measured between two hosts that share this project's test machine. They
//! are replaced by what is measured as soon as something is: the rate of the copy itself.

use crate::duration::Span;
use crate::quantity::{Bandwidth, Bytes};

/// Milliseconds that a live stop takes however small a container is.
const STOP: u64 = 250;
/// Milliseconds for each process or thread that is dumped and restored.
const PER_PROCESS: u64 = 5;
/// Bytes of memory that are written, read, hashed and restored in a millisecond.
const HANDLED: u64 = 300_000;
/// Bytes that go over the network in a millisecond where nothing is known of it.
const SENT: u64 = 60_000;
/// Milliseconds around the copy: finding each other, image, ids, layer, the other owner, cleaning up.
const AROUND: u64 = 1_500;
/// Milliseconds in which an init ends, and another one begins on the other host.
const RESTART: u64 = 3_000;

/// What is to be moved, and over what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Burden {
    /// Memory in use.
    pub memory: Bytes,
    /// Processes and threads.
    pub processes: u32,
    /// Files of its own.
    pub files: Bytes,
    /// Of these, what is still to be sent when it stands still.
    pub left: Bytes,
    /// Bytes per second between the two hosts, where that was measured.
    pub rate: Option<Bytes>,
    /// What the copy may use.
    pub limit: Option<Bandwidth>,
}

/// What a move will take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes over the network.
    pub bytes: Bytes,
    /// How long the container will stand still.
    pub freeze: Span,
    /// From the choice of a target to the end.
    pub total: Span,
}

impl Burden {
    /// Bytes that go over in a millisecond.
    fn sent(&self) -> u64 {
        let measured = self.rate.map_or(SENT, |r| r.0 / 1000);
        let allowed = self.limit.map_or(u64::MAX, |l| l.0 / 8 / 1000);
        measured.min(allowed).max(1)
    }

    /// With its processes.
    pub fn live(&self) -> Estimate {
        let stop = STOP
            + PER_PROCESS * u64::from(self.processes)
            + self.memory.0 / HANDLED
            + (self.memory.0.saturating_add(self.left.0)) / self.sent();
        self.estimate(self.memory.0, stop)
    }

    /// Without them.
    pub fn cold(&self) -> Estimate {
        self.estimate(0, RESTART + self.left.0 / self.sent())
    }

    fn estimate(&self, memory: u64, stop: u64) -> Estimate {
        let bytes = self.files.0.saturating_add(memory);
        Estimate {
            bytes: Bytes(bytes),
            freeze: Span(stop),
            total: Span(AROUND + stop + self.files.0 / self.sent()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn more_of_anything_never_takes_less(
            memory in 0_u64..1 << 40, files in 0_u64..1 << 40, processes in 0_u32..10_000, rate in 1_u64..1 << 34
        ) {
            let burden = Burden {
                memory: Bytes(memory), processes, files: Bytes(files), left: Bytes(files / 8),
                rate: Some(Bytes(rate)), limit: None,
            };
            let (live, cold) = (burden.live(), burden.cold());
            prop_assert!(live.total >= live.freeze && cold.total >= cold.freeze);
            prop_assert!(live.bytes >= cold.bytes);
            let slower = Burden { rate: Some(Bytes(rate / 2)), ..burden };
            prop_assert!(slower.live().freeze >= live.freeze && slower.cold().total >= cold.total);
            let larger = Burden { memory: Bytes(memory * 2), processes: processes * 2, ..burden };
            prop_assert!(larger.live().freeze >= live.freeze);
        }
    }

    #[test]
    fn a_limit_of_the_copy_counts_where_it_is_less_than_the_link() {
        let fast = Burden {
            memory: Bytes(100 << 20),
            rate: Some(Bytes(1 << 30)),
            ..Burden::default()
        };
        let held = Burden {
            limit: Some(Bandwidth(8_000_000)),
            ..fast
        };
        assert!(held.live().freeze.0 > 100_000 && fast.live().freeze.0 < 1_000);
    }
}
