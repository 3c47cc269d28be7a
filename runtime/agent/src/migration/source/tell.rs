//! What the API is told of a container that leaves.

use super::Leave;
use crate::migration::api::{advance, arrived, say_lost};
use crate::migration::machine::{Source, SourceEvent, Why};
use crate::migration::record::Record;
use crate::migration::{Migrations, source_state};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skysail_reconcile::Note;
use skysail_schemas::condition::{Fact, merge};
use skysail_schemas::duration::Span;
use skysail_schemas::migration::{FreezeParts, MigrationPhase, MigrationProgress, MigrationStatus};
use skysail_schemas::quantity::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two words of progress, and two attempts of the same thing.
const AGAIN: Duration = Duration::from_millis(500);

impl Leave {
    /// Tells the phase without waiting for it.
    pub(super) fn tell_soon(&mut self) {
        let state = source_state(&self.record);
        let (phase, message) = match state {
            Source::Copying => (MigrationPhase::Copying, "files are copied while it runs"),
            Source::Freezing | Source::Sending => (
                MigrationPhase::Freezing,
                "it stands still; what changed since is copied",
            ),
            Source::Committing { .. } | Source::Asking => {
                (MigrationPhase::Committing, "the change of owner is written")
            }
            Source::Leaving => (MigrationPhase::Resuming, "the target starts it"),
            Source::Clearing => (MigrationPhase::CleaningUp, "the source removes its files"),
            _ => return,
        };
        let (api, record) = (self.all.api.clone(), self.record.clone());
        let before = self.telling.take();
        self.telling = Some(tokio::spawn(async move {
            if let Some(before) = before {
                before.abort();
            }
            let told = api.tell(&record, |status, generation, now| {
                advance(status, phase, message, generation, now);
                say_lost(status, &record, generation, now);
                status.mode = Some(record.mode);
            });
            if let Err(error) = told.await {
                tracing::debug!(%error, "a phase could not be told");
            }
        }));
    }

    /// Tells how far the copy is, until something else is told.
    pub(super) fn tell_progress(&mut self, sent: Arc<AtomicU64>, expected: Arc<AtomicU64>) {
        let (api, record, round) = (self.all.api.clone(), self.record.clone(), self.pass);
        let phase = match source_state(&self.record) {
            Source::Copying => MigrationPhase::Copying,
            _ => return,
        };
        let before = self.telling.take();
        self.telling = Some(tokio::spawn(async move {
            if let Some(before) = before {
                before.abort();
            }
            let (begun, start) = (Instant::now(), sent.load(Ordering::Relaxed));
            loop {
                let bytes = sent.load(Ordering::Relaxed);
                let rate = (bytes - start) * 1000
                    / u64::try_from(begun.elapsed().as_millis())
                        .unwrap_or(1)
                        .max(1);
                let expected = expected.load(Ordering::Relaxed);
                let left = expected.saturating_sub(bytes - start);
                let progress = MigrationProgress {
                    round,
                    bytes: whole(bytes),
                    expected: whole(expected),
                    rate: whole(rate),
                    remaining: (rate > 0).then(|| Span(left * 1000 / rate)),
                };
                let told = api.tell(&record, |status, generation, now| {
                    advance(
                        status,
                        phase,
                        "files are copied while it runs",
                        generation,
                        now,
                    );
                    status.progress = Some(progress.clone());
                });
                let _ = told.await;
                sleep(AGAIN).await;
            }
        }));
    }

    /// Tells how it ended; not done before it is told.
    pub(super) async fn tell(&mut self, end: Option<&Why>) -> SourceEvent {
        if let Some(telling) = self.telling.take() {
            telling.abort();
        }
        let record = self.record.clone();
        let sent = self.sent.load(Ordering::Relaxed);
        let freeze = self.ran_after.map(|freeze| (freeze, self.parts.clone()));
        let pass = self.pass;
        loop {
            let told = self.all.api.tell(&record, |status, generation, now| {
                finished(status, &record, end, freeze.clone(), (generation, now));
                if sent > 0 {
                    let progress = status.progress.get_or_insert_default();
                    (progress.bytes, progress.round) = (whole(sent), pass);
                    progress.remaining = None;
                }
            });
            match told.await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(migration = record.name, %error, "the end of a migration could not be told; tried again");
                    sleep(AGAIN).await;
                }
            }
        }
        if let Some(migration) = Migrations::find(&self.all.leaving, &record) {
            let note = match end {
                None => Note::normal("Moved", moved(&record)),
                Some(why) => Note::warning(&why.reason, &why.message),
            };
            self.all.api.note(&migration, note).await;
        }
        SourceEvent::Done
    }
}

fn moved(record: &Record) -> String {
    format!("from {} to {}", record.source, record.target)
}

/// How long ago that was, by one host's clock; unknown where the clock was set back since.
pub(super) fn since(begun: Option<i64>, now: Timestamp) -> Option<Span> {
    let ms = now.as_millisecond().checked_sub(begun?)?;
    u64::try_from(ms).ok().map(Span)
}

/// Says how it ended. Clocks of different machines are never subtracted from each other.
fn finished(
    status: &mut MigrationStatus,
    record: &Record,
    end: Option<&Why>,
    freeze: Option<(Span, FreezeParts)>,
    (generation, now): (Option<i64>, Timestamp),
) {
    status.phase = end.map_or(MigrationPhase::Succeeded, Why::phase);
    if let Some((freeze, parts)) = freeze {
        (status.freeze, status.freeze_parts) = (Some(freeze), Some(parts));
    }
    // Not before it began, whatever this host's clock says.
    let begun = status.started_at.as_ref().map_or(now, |at| at.0);
    status.finished_at = Some(Time(now.max(begun)));
    let Some(why) = end else {
        status.total = since(record.begun_at, now);
        return arrived(status, record, generation, now);
    };
    let fact = Fact::no("Succeeded", &why.reason, &why.message);
    merge(&mut status.conditions, &[fact], generation, now);
}

/// Bytes up to whole KiB, which print short.
fn whole(bytes: u64) -> Bytes {
    Bytes(bytes.div_ceil(1024) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::api::tests::record;
    use proptest::prelude::*;
    use skysail_schemas::migration::MigrationMode;

    /// Any two clocks of this century.
    fn moment() -> impl Strategy<Value = i64> {
        0_i64..4_000_000_000_000
    }

    proptest! {
        #[test]
        fn clocks_that_disagree_or_jump_make_no_time_longer_than_one_clock_saw(
            controller in moment(), begun in moment(), now in moment(), failed in any::<bool>()
        ) {
            let at = |ms| Timestamp::from_millisecond(ms).unwrap();
            let mut status = MigrationStatus {
                started_at: Some(Time(at(controller))),
                ..MigrationStatus::default()
            };
            let record = Record { begun_at: Some(begun), ..record(MigrationMode::Live, None) };
            let why = Why::failed("X", "");
            finished(&mut status, &record, failed.then_some(&why), None, (None, at(now)));
            prop_assert!(status.finished_at.unwrap().0 >= at(controller));
            match status.total {
                Some(total) => prop_assert_eq!(i64::try_from(total.0).unwrap(), now - begun),
                None => prop_assert!(failed || now < begun),
            }
        }
    }
}
