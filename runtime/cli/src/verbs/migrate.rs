//! `skysail migrate`: moves a container to another host.

use crate::print::{Output, clean};
use crate::refusal::explain;
use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use kube::api::{Api, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use skysail_schemas::migration::{MigrationMode, MigrationPhase, MigrationSpec, MigrationTarget};
use skysail_schemas::{Container, Migration, MigrationStatus};
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Flags of `migrate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail migrate container db-0 -n acme --to-cloud west --wait\n  skysail migrate container db-0 -n acme --to-host east-2 --cold --wait\n  skysail get mig -n acme -w"
)]
pub struct Migrate {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Move one container
    #[command(visible_aliases = ["containers", "ct"])]
    Container(One),
}

#[derive(Debug, clap::Args)]
struct One {
    /// The container
    name: String,
    /// Namespace, else the kubeconfig's
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// To this host; wherever placement says where neither is given
    #[arg(long, value_name = "HOST", conflicts_with = "to_cloud")]
    to_host: Option<String>,
    /// To any host of this cloud
    #[arg(long, value_name = "CLOUD")]
    to_cloud: Option<String>,
    /// Its processes end here, and it starts anew there; files and addresses come along
    #[arg(long, conflicts_with = "live")]
    cold: bool,
    /// Its processes go on there, or it is not moved at all (without --cold or --live: live where possible, else cold)
    #[arg(long)]
    live: bool,
    /// Only ask the server whether it would take the Migration
    #[arg(long)]
    dry_run: bool,
    /// Show how far it is, until it is over
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Runs the verb.
///
/// # Errors
/// When the move is refused; with `--wait` also when it is given up, with the reason.
pub async fn run(client: &kube::Client, default: &str, args: Migrate) -> Result<()> {
    let What::Container(one) = args.what;
    let namespace = one.namespace.as_deref().unwrap_or(default);
    let about = format!("containers/{} -n {namespace}", one.name);
    let containers = Api::<Container>::namespaced(client.clone(), namespace);
    let container = containers
        .get(&one.name)
        .await
        .map_err(|e| explain(e, &about))?;
    let migration = Migration::new(&name(&one.name), spec(&one));
    let migrations = Api::<Migration>::namespaced(client.clone(), namespace);
    let params = PostParams {
        dry_run: one.dry_run,
        ..PostParams::default()
    };
    let made = migrations
        .create(&params, &migration)
        .await
        .map_err(|e| explain(e, &about))?;
    let name = made.metadata.name.unwrap_or_default();
    let out = Output::stdout();
    if one.dry_run {
        let from = container.status.and_then(|s| s.host).unwrap_or_default();
        let line = format!(
            "migration/{name} would be created: {} from {from}, {:?} (dry run; the target is chosen when it is made)\n",
            one.name, migration.spec.mode
        );
        return Ok(out.write(&line)?);
    }
    out.write(&format!("migration/{name} created\n"))?;
    if !one.wait {
        return Ok(());
    }
    let over = follow(&migrations, &name);
    let status = tokio::time::timeout(one.timeout, over)
        .await
        .with_context(|| {
            format!("migration/{name} -n {namespace} is not over in time; it goes on by itself")
        })??;
    summary(&out, &name, &status)
}

/// A name that tells the container, and that another move of it does not have.
fn name(container: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let moment = now.map_or(0, |d| d.as_millis()) & 0xff_ffff_ffff;
    let short: String = container.chars().take(50).collect();
    format!("{}-{moment:x}", short.trim_end_matches('-'))
}

fn spec(one: &One) -> MigrationSpec {
    let mode = match (one.cold, one.live) {
        (true, _) => MigrationMode::Cold,
        (false, true) => MigrationMode::Live,
        (false, false) => MigrationMode::LiveElseCold,
    };
    MigrationSpec {
        container: one.name.clone(),
        target: MigrationTarget {
            host: one.to_host.clone(),
            cloud: one.to_cloud.clone(),
        },
        mode,
        ..MigrationSpec::default()
    }
}

/// Shows each change until the Migration is over: on a terminal one line that moves, else a line for each phase.
async fn follow(migrations: &Api<Migration>, name: &str) -> Result<MigrationStatus> {
    // Writes to standard error, and only where that is a terminal.
    let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
    let bar = ProgressBar::new_spinner().with_style(style?);
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
        let line = progress(&status);
        if bar.is_hidden() && status.phase != last {
            eprintln!("{line}");
        }
        last = status.phase;
        bar.set_message(line);
    }
    bail!("migration/{name}: the server ended the watch")
}

fn progress(status: &MigrationStatus) -> String {
    let text = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".into());
    let mut line = format!(
        "{:?} {} -> {}",
        status.phase,
        text(&status.source),
        text(&status.target)
    );
    if let Some(p) = &status.progress {
        line += &format!(", pass {}, {} sent, {}/s", p.round, p.bytes, p.rate);
        if let Some(left) = p.remaining {
            line += &format!(", {left} left");
        }
    }
    clean(&line)
}

fn summary(out: &Output, name: &str, status: &MigrationStatus) -> Result<()> {
    let told = status.conditions.iter().find(|c| c.type_ == "Succeeded");
    let message = told.map(|c| clean(&c.message)).unwrap_or_default();
    if status.phase != MigrationPhase::Succeeded {
        let reason = told.map(|c| c.reason.as_str()).unwrap_or_default();
        bail!("migration/{name}: {:?} ({reason}): {message}", status.phase);
    }
    let span = |s: Option<skysail_schemas::duration::Span>| {
        s.map_or_else(|| "unknown".to_owned(), |s| s.to_string())
    };
    let bytes = status
        .progress
        .as_ref()
        .map(|p| p.bytes)
        .unwrap_or_default();
    let mode = status.mode.unwrap_or_default();
    Ok(out.write(&format!(
        "moved {message}, {mode:?}: stood still {}, total {}, {bytes} sent\n",
        span(status.freeze),
        span(status.total)
    ))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_move_is_a_dns_label_however_long_the_containers_is() {
        for container in ["db", &"x".repeat(63), &format!("{}-y", "x".repeat(49))] {
            let name = name(container);
            assert!(name.len() <= 63 && !name.contains("--"), "{name}");
        }
    }
}
