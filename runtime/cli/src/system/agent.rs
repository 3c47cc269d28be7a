//! `skysail agent`: the daemon on a host. Hosts start it themselves; it is here because one binary is all there is.

use anyhow::{Context, Result};
use skysail_agent::Settings;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `agent`.
#[derive(Debug, clap::Args)]
pub struct Agent {
    /// Name of the Host object that this machine is
    #[arg(long, value_name = "NAME")]
    host: String,
    /// Images, layers and records; must not lie on an overlay filesystem
    #[arg(long, default_value = "/var/lib/skysail", value_name = "DIR")]
    data_dir: PathBuf,
}

/// Runs until it is asked to end; what it started runs on.
///
/// # Errors
/// When it cannot start.
pub async fn run(args: Agent, kubeconfig: &Path) -> Result<()> {
    super::need_root("agent")?;
    let settings = Settings::from_kubeconfig(&args.host, kubeconfig, &args.data_dir)
        .await
        .context("reading the agent's credential")?;
    let stop = skysail_reconcile::CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let ended = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        ended.cancel();
    });
    skysail_agent::run(settings, stop)
        .await
        .with_context(|| format!("agent of host {}", args.host))
}
