//! One turn for a whole: what cannot be decided object by object, such as which
//! host each of many waiting containers gets, or all flows of one switch.

use crate::next::backoff;
use crate::{Error, Next};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use std::{fmt::Debug, future::Future, time::Duration};
use tokio_util::sync::CancellationToken;

/// The shape of [`crate::Reconciler`] over a whole instead of an object.
pub trait Sweep: Send + Sync + 'static {
    /// What was seen; an error while reading is an `Err`, never "absent".
    type View: Send + Sync;
    /// What is to be done; the default is "nothing", and is not applied.
    type Plan: Debug + Default + PartialEq + Send + Sync;
    /// What came of each step.
    type Report: Debug + Default + Send + Sync;

    /// Log field and field manager.
    const NAME: &'static str;

    /// The longest time between two turns.
    fn resync(&self) -> Duration {
        Duration::from_secs(600)
    }
    /// Reads the world.
    fn observe(&self) -> impl Future<Output = Result<Self::View, Error>> + Send;
    /// Decides. Pure.
    fn plan(view: &Self::View, now: Timestamp) -> Self::Plan;
    /// Does what the plan says, without choices, not stopping at the first error.
    fn apply(
        &self,
        view: &Self::View,
        plan: &Self::Plan,
    ) -> impl Future<Output = Self::Report> + Send;
    /// What to wait for.
    fn next(view: &Self::View, plan: &Self::Plan, report: &Self::Report) -> Next;
}

/// Runs a sweep at start, at every wake-up (those that come while a turn runs are
/// one) and at the resync time, until `shutdown`. The texts are for the log.
pub async fn run_sweep<S: Sweep>(
    sweep: S,
    wakes: impl Stream<Item = String> + Send,
    shutdown: CancellationToken,
) {
    let mut wakes = std::pin::pin!(wakes.ready_chunks(4096));
    let mut reason = "start".to_owned();
    let mut failures = 0;
    loop {
        let next = turn(&sweep, &reason).await;
        let wait = match next {
            Ok(Next::After(d)) => d.min(sweep.resync()),
            Ok(Next::OnChange | Next::Finished) => sweep.resync(),
            Ok(Next::Retry) | Err(_) => backoff(failures + 1),
        };
        failures = if matches!(next, Ok(Next::Retry) | Err(_)) {
            failures + 1
        } else {
            0
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => reason = "timer".to_owned(),
            Some(woken) = wakes.next() => reason = woken.into_iter().next().unwrap_or_default(),
        }
    }
}

async fn turn<S: Sweep>(sweep: &S, reason: &str) -> Result<Next, Error> {
    let begun = std::time::Instant::now();
    let view = sweep
        .observe()
        .await
        .inspect_err(|e| tracing::warn!(controller = S::NAME, error = %e, "cannot observe"))?;
    let plan = S::plan(&view, Timestamp::now());
    if plan == S::Plan::default() {
        return Ok(S::next(&view, &plan, &S::Report::default()));
    }
    let report = sweep.apply(&view, &plan).await;
    let next = S::next(&view, &plan, &report);
    tracing::debug!(controller = S::NAME, ?plan, ?report, "plan");
    tracing::info!(controller = S::NAME, reason, ?next, took = ?begun.elapsed(), "swept");
    Ok(next)
}
