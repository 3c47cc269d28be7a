//! How far a move is, shown until it is over.

use crate::print::{Output, clean};
use anyhow::{Result, bail};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use skysail_schemas::duration::Span;
use skysail_schemas::migration::{MigrationPhase, MigrationProgress};
use skysail_schemas::{Migration, MigrationStatus};
use std::pin::pin;
use std::time::Duration;

/// Says a line: above the bar on a terminal, else for itself.
pub fn line(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        eprintln!("{line}");
    } else {
        bar.println(line);
    }
}

/// Shows each change until the Migration is over: on a terminal a bar, else a line for each phase.
///
/// # Errors
/// When it is deleted meanwhile, or the server does not tell any more.
pub async fn migration(migrations: &Api<Migration>, name: &str) -> Result<MigrationStatus> {
    // Writes to standard error, and only where that is a terminal.
    let style = ProgressStyle::with_template("{elapsed} [{bar:30}] {percent}% {msg}")?;
    let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut last = MigrationPhase::Pending;
    let mut changes = pin!(watch_object(migrations.clone(), name).default_backoff());
    while let Some(change) = changes.next().await {
        let Ok(change) = change else { continue };
        let Some(migration) = change else {
            bail!("migration/{name} was deleted");
        };
        let status = migration.status.unwrap_or_default();
        if status.phase.is_finished() {
            bar.finish_and_clear();
            return Ok(status);
        }
        let text = progress(&status);
        if bar.is_hidden() && status.phase != last {
            eprintln!("{text}");
        }
        last = status.phase;
        if let Some(p) = &status.progress {
            bar.set_length(p.bytes.0.max(whole(p)));
            bar.set_position(p.bytes.0);
        }
        bar.set_message(text);
    }
    bail!("migration/{name}: the server ended the watch")
}

/// What will have been sent when this pass is over.
fn whole(p: &MigrationProgress) -> u64 {
    let left = p
        .remaining
        .map_or(0, |left| left.0.saturating_mul(p.rate.0) / 1000);
    p.bytes.0.saturating_add(left)
}

fn progress(status: &MigrationStatus) -> String {
    let text = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".into());
    let mut line = format!("{:?}", status.phase);
    if status.source.is_some() {
        line += &format!(" {} -> {}", text(&status.source), text(&status.target));
    } else if let Some(told) = status.conditions.iter().find(|c| c.type_ == "Accepted") {
        line += &format!(": {}", told.message);
    }
    if let Some(p) = &status.progress {
        line += &format!(", pass {}, {} sent, {}/s", p.round, p.bytes, p.rate);
        if let Some(left) = p.remaining {
            line += &format!(", {left} left");
        }
    }
    clean(&line)
}

/// What came of it.
///
/// # Errors
/// When it was not moved, or not as it was asked for.
pub fn summary(out: &Output, name: &str, status: &MigrationStatus) -> Result<()> {
    let condition = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind);
    let told = condition("Succeeded");
    let message = told.map(|c| clean(&c.message)).unwrap_or_default();
    if status.phase != MigrationPhase::Succeeded {
        let reason = told.map(|c| c.reason.as_str()).unwrap_or_default();
        bail!("migration/{name}: {:?} ({reason}): {message}", status.phase);
    }
    let span = |s: Option<Span>| s.map_or_else(|| "unknown".to_owned(), |s| s.to_string());
    let bytes = status
        .progress
        .as_ref()
        .map(|p| p.bytes)
        .unwrap_or_default();
    let mode = status.mode.unwrap_or_default();
    out.write(&format!(
        "moved {message}, {mode:?}: stood still {}, total {}, {bytes} sent\n",
        span(status.freeze),
        span(status.total)
    ))?;
    match condition("MemoryKept").filter(|c| c.status == "False" && c.reason != "Cold") {
        Some(lost) if lost.reason == "MemoryLost" => {
            bail!(
                "migration/{name}: its memory is lost: {}",
                clean(&lost.message)
            )
        }
        Some(lost) => {
            let line = format!(
                "its processes began anew: {}: {}",
                lost.reason, lost.message
            );
            Ok(out.write(&format!("{}\n", clean(&line)))?)
        }
        None => Ok(()),
    }
}
