//! `skysail down`: removes every trace of a system on this machine.

use super::{Site, blocks, need_root, process};
use crate::system::watch::Journal;
use anyhow::{Context, Result};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use skysail_schemas::cloud::Driver;
use skysail_schemas::{Cloud, Host};
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `down`.
#[derive(Debug, clap::Args)]
pub struct Down {
    #[command(flatten)]
    site: Site,
    /// Leave machines that were bought from a cloud as they are: nobody will give them back
    #[arg(long)]
    abandon_machines: bool,
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
        if !args.abandon_machines {
            nothing_bought(&args.site).await?;
        }
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

/// Refuses while machines run that cost money: with the data goes all knowledge of them.
async fn nothing_bought(site: &Site) -> Result<()> {
    let asked = tokio::time::timeout(Duration::from_secs(10), bought(site)).await;
    // A server that does not answer must not keep anybody from removing it.
    let Ok(Ok(hosts)) = asked else { return Ok(()) };
    anyhow::ensure!(
        hosts.is_empty(),
        "machines of {} run on a cloud and would go on costing money; delete their Hosts first (kubectl delete host {}), or give --abandon-machines",
        hosts.join(", "),
        hosts.join(" ")
    );
    Ok(())
}

/// The Hosts on machines that were bought.
async fn bought(site: &Site) -> Result<Vec<String>> {
    let client = super::up::client(&site.data_dir.join("admin.kubeconfig")).await?;
    let all = ListParams::default();
    let clouds = Api::<Cloud>::all(client.clone()).list(&all).await?;
    let ours = |c: &&Cloud| matches!(c.spec.driver, Driver::Sandbox | Driver::Qemu | Driver::Ssh);
    let local: Vec<String> = clouds.iter().filter(ours).map(|c| c.name_any()).collect();
    let hosts = Api::<Host>::all(client).list(&all).await?;
    let costs = |host: &&Host| {
        let cloud = host.spec.cloud.as_ref();
        let machine = host.status.as_ref().and_then(|s| s.machine_id.as_ref());
        machine.is_some() && cloud.is_some_and(|c| !local.contains(c))
    };
    Ok(hosts.iter().filter(costs).map(|h| h.name_any()).collect())
}
