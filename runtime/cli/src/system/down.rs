//! `skysail down`: removes every trace of a system on this machine.

use super::{Site, blocks, need_root, process};
use crate::system::watch::Journal;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// Flags of `down`.
#[derive(Debug, clap::Args)]
pub struct Down {
    #[command(flatten)]
    site: Site,
}

/// Ends the server, removes its machines, its network and its data. Safe to call again, and after any crash.
///
/// # Errors
/// When something stays; what, and why.
pub async fn run(mut args: Down, kubeconfig: PathBuf) -> Result<()> {
    need_root("down")?;
    args.site = args.site.absolute()?;
    let journal = Journal::start();
    if let Some(pid) = args.site.running() {
        process::end(pid).await?;
        journal.say(format!("server {pid} ended"));
    }
    skysail_clouds::sandbox::Fabric::remove(&args.site.fabric()?)
        .await
        .context("removing the sandbox's hosts and networks")?;
    blocks::release(&args.site.instance).context("giving back the sandbox's addresses")?;
    journal.say("hosts and networks removed");
    if args.site.data_dir.exists() {
        std::fs::remove_dir_all(&args.site.data_dir)
            .with_context(|| format!("removing {}", args.site.data_dir.display()))?;
    }
    match std::fs::remove_file(&kubeconfig) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("removing {}", kubeconfig.display()));
        }
        _ => {}
    }
    journal.say(format!(
        "{} removed; built root filesystems stay in {}",
        args.site.data_dir.display(),
        args.site.cache_dir.display()
    ));
    Ok(())
}
