//! How long a broken watch waits before it is opened again.

use kube::runtime::utils::Backoff;
use std::time::Duration;

/// Doubling from 100 ms up to two seconds, of which up to a fifth is chance so that many do
/// not come at once. client-go's thirty seconds are kind to a server that struggles, but
/// after a restart of the server nothing would happen on a host for as long as it was away.
#[derive(Debug, Default)]
pub struct Rewatch {
    failures: u32,
}

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

impl Iterator for Rewatch {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let base = FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        Some(base.mul_f64(0.8 + 0.2 * rand::random::<f64>()))
    }
}

impl Backoff for Rewatch {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_tried_again_soon_never_later_than_two_seconds_and_soon_again_after_it_worked() {
        let mut waits = Rewatch::default();
        let first: Vec<_> = waits.by_ref().take(40).collect();
        assert!(first[0] <= FIRST, "{first:?}");
        assert!(first.iter().all(|wait| *wait <= LONGEST), "{first:?}");
        assert!(first[39] >= LONGEST.mul_f64(0.8), "{first:?}");
        waits.reset();
        assert!(waits.next().is_some_and(|wait| wait <= FIRST));
    }
}
