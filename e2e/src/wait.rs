//! Waiting on conditions. Nothing here sleeps for a guessed time and hopes.

use std::time::{Duration, Instant};

/// Calls `probe` until it yields a value, at most for `limit`; returns the value and how long it took.
///
/// # Errors
/// After `limit`, with `what` and the last reason that `probe` gave.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Duration)> {
    let begun = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok((value, begun.elapsed())),
            Err(reason) if begun.elapsed() > limit => {
                anyhow::bail!(
                    "waited {:.1} s for {what}: {reason:#}",
                    begun.elapsed().as_secs_f64()
                )
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
