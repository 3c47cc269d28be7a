//! `skysail migrate container NAME`.

use super::follow;
use super::foresee;
use super::{How, name};
use crate::print::Output;
use crate::refusal::explain;
use anyhow::{Context, Result};
use kube::api::{Api, PostParams};
use skysail_schemas::migration::MigrationSpec;
use skysail_schemas::{Container, Migration};

/// Flags of `migrate container`.
#[derive(Debug, clap::Args)]
pub struct One {
    /// The container
    name: String,
    #[command(flatten)]
    how: How,
}

/// Runs the verb.
///
/// # Errors
/// When the move is refused; with `--wait` also when it is given up, with the reason.
pub async fn run(client: &kube::Client, default: &str, one: &One) -> Result<()> {
    let how = &one.how;
    let namespace = how.namespace.as_deref().unwrap_or(default);
    let about = format!("containers/{} -n {namespace}", one.name);
    let containers = Api::<Container>::namespaced(client.clone(), namespace);
    let container = containers
        .get(&one.name)
        .await
        .map_err(|e| explain(e, &about))?;
    let spec = MigrationSpec {
        container: one.name.clone(),
        target: how.target(),
        mode: how.mode(),
        freeze_budget: how.freeze_budget,
        bandwidth: how.bandwidth,
        ..MigrationSpec::default()
    };
    let migration = Migration::new(&name(&one.name), spec);
    let migrations = Api::<Migration>::namespaced(client.clone(), namespace);
    let params = PostParams {
        dry_run: how.dry_run,
        ..PostParams::default()
    };
    let made = migrations
        .create(&params, &migration)
        .await
        .map_err(|e| explain(e, &about))?;
    if how.dry_run {
        return foresee::tell(client, how, vec![container]).await;
    }
    let name = made.metadata.name.unwrap_or_default();
    let out = Output::stdout();
    out.write(&format!("migration/{name} created\n"))?;
    if !how.wait {
        return Ok(());
    }
    let over = follow::migration(&migrations, &name);
    let status = tokio::time::timeout(how.timeout, over)
        .await
        .with_context(|| {
            format!("migration/{name} -n {namespace} is not over in time; it goes on by itself")
        })??;
    follow::summary(&out, &name, &status)
}
