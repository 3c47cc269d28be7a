//! How long a live move may stop the container: foreseen before it, measured while it stands.

use super::Leave;
use crate::container::record::Init;
use crate::migration::Migrations;
use crate::migration::machine::Why;
use crate::migration::record::Lost;
use crate::usage::cgroup::{self, ROOT, Version};
use skysail_schemas::duration::Span;
use skysail_schemas::estimate::Burden;
use skysail_schemas::migration::{MigrationMode, MigrationSpec};
use skysail_schemas::quantity::Bytes;
use std::path::Path;
use std::time::Duration;

/// A stop that has taken so many times its budget is undone.
const FACTOR: u32 = 2;
/// The rate of a copy that sent less than this says nothing of the link.
const TELLING: u64 = 4 << 20;

/// What the copy has shown so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    bytes: u64,
    time: Duration,
    /// What the last pass found to send.
    left: u64,
}

impl Measured {
    /// A pass sent this, in this time.
    pub fn pass(&mut self, bytes: u64, time: Duration) {
        self.left = bytes;
        if bytes >= TELLING {
            self.bytes += bytes;
            self.time += time;
        }
    }

    fn rate(&self) -> Option<Bytes> {
        let ms = u64::try_from(self.time.as_millis())
            .ok()
            .filter(|ms| *ms > 0)?;
        Some(Bytes(self.bytes.saturating_mul(1000) / ms))
    }
}

/// Memory that is in no file, which is what a dump has to write.
fn private(version: Version, init: i32) -> Option<Bytes> {
    let groups = std::fs::read_to_string(format!("/proc/{init}/cgroup")).ok()?;
    let (group, keys) = match version {
        Version::V1 => {
            let payload = cgroup::payload(&groups, Some("memory"))?;
            (
                Path::new(ROOT).join("memory").join(payload),
                ["total_rss", "total_shmem"],
            )
        }
        Version::V2 => (
            Path::new(ROOT).join(cgroup::payload(&groups, None)?),
            ["anon", "shmem"],
        ),
    };
    let stat = std::fs::read_to_string(group.join("memory.stat")).ok()?;
    let sum = keys
        .iter()
        .filter_map(|key| cgroup::keyed(&stat, key))
        .sum();
    Some(Bytes(sum))
}

impl Leave {
    fn spec(&self) -> Option<MigrationSpec> {
        let migration = Migrations::find(&self.all.leaving, &self.record)?;
        Some(migration.spec.clone())
    }

    /// How long it may stand still until it is undone.
    pub(super) fn limit(&self) -> Option<Duration> {
        Some(self.spec()?.freeze_budget?.duration() * FACTOR)
    }

    /// Whether more than the budget is foreseen, from what is known by now.
    pub(super) fn over_budget(&self) -> Option<Why> {
        let spec = self.spec()?;
        let budget = spec.freeze_budget?;
        let (site, id) = (&self.all.site, &self.record.container);
        let init = site.record(id).init.filter(Init::lives)?;
        let counters = cgroup::read(site.version, init.pid)?;
        let memory = private(site.version, init.pid).unwrap_or(Bytes(counters.memory));
        let burden = Burden {
            memory,
            processes: counters.pids,
            left: Bytes(self.measured.left),
            rate: self.measured.rate(),
            limit: spec.bandwidth,
            ..Burden::default()
        };
        let freeze = burden.live().freeze;
        let over = rate(&burden);
        let message = format!(
            "spec.freezeBudget: it would stand still for about {freeze}, {budget} is allowed: {} processes with {} MiB of memory{over}; allow more, or use Cold",
            burden.processes,
            memory.0 >> 20
        );
        (freeze > budget).then(|| Why::failed("FreezeBudget", message))
    }

    /// Whether it has been standing for too long.
    pub(super) fn over_time(&self) -> Option<Why> {
        let (stood, limit) = (self.since?.elapsed(), self.limit()?);
        (stood > limit).then(|| too_long(stood, limit))
    }

    /// Does not stop it for longer than it may be.
    pub(super) async fn in_time(
        &self,
        work: impl Future<Output = Result<(), Why>>,
    ) -> Result<(), Why> {
        let (Some(since), Some(limit)) = (self.since, self.limit()) else {
            return work.await;
        };
        let late = |_| too_long(since.elapsed(), limit);
        tokio::time::timeout_at(since + limit, work)
            .await
            .map_err(late)?
    }

    /// Moves it cold after all, where that is allowed.
    pub(super) fn fall(&mut self, why: Why) -> Result<(), Why> {
        if self.spec().is_none_or(|s| s.mode == MigrationMode::Live) {
            return Err(why);
        }
        tracing::info!(container = %self.record.container, reason = why.reason, message = why.message, "moves cold");
        self.record.mode = MigrationMode::Cold;
        self.record.lost = Some(Lost {
            reason: why.reason,
            message: why.message,
        });
        Ok(())
    }
}

fn rate(burden: &Burden) -> String {
    let rate = burden
        .rate
        .map(|r| format!(", {} MB/s over the link", r.0 / 1_000_000));
    rate.unwrap_or_default()
}

fn too_long(stood: Duration, limit: Duration) -> Why {
    let message = format!(
        "spec.freezeBudget: it has stood still for {}, which is more than {FACTOR} times {}; it goes on where it was",
        Span::from(stood),
        Span::from(limit / FACTOR)
    );
    Why::failed("FreezeOverBudget", message)
}
