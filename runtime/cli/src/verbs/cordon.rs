//! `skysail cordon` and `uncordon`: whether hosts get new containers.

use crate::print::Output;
use crate::refusal::explain;
use crate::verbs::get::{Selector, together};
use anyhow::{Result, ensure};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use skysail_schemas::Host;

/// Flags of `cordon` and `uncordon`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail cordon east-1           no new containers there; those that are there stay\n  skysail uncordon east-1\n  skysail cordon -l rack=r7       all hosts with a label\n\n`skysail drain` also moves away what is there."
)]
pub struct Cordon {
    /// Hosts
    #[arg(value_name = "HOST", required_unless_present = "labels")]
    hosts: Vec<String>,
    #[command(flatten)]
    selector: Selector,
}

/// Runs the verb; `closed` is whether the hosts are to be cordoned.
///
/// # Errors
/// For every host that is not there or may not be changed.
pub async fn run(client: &Client, args: &Cordon, closed: bool) -> Result<()> {
    let names = hosts(client, &args.hosts, &args.selector).await?;
    let mut errors = vec![];
    for name in &names {
        match set(client, name, closed).await {
            Ok(true) => Output::stdout().write(&format!("hosts/{name} {}\n", word(closed)))?,
            Ok(false) => {
                Output::stdout().write(&format!("hosts/{name} {} already\n", word(closed)))?;
            }
            Err(e) => errors.push(e),
        }
    }
    together(errors)
}

fn word(closed: bool) -> &'static str {
    if closed { "cordoned" } else { "uncordoned" }
}

/// The named hosts, or those that a selector picks.
///
/// # Errors
/// When both are given, or none is picked.
pub async fn hosts(client: &Client, names: &[String], selector: &Selector) -> Result<Vec<String>> {
    if selector.labels.is_empty() {
        return Ok(names.to_vec());
    }
    ensure!(
        names.is_empty(),
        "give either names or a selector (-l), not both"
    );
    let params = ListParams::default().labels(&selector.labels);
    let hosts = Api::<Host>::all(client.clone()).list(&params).await;
    let hosts = hosts.map_err(|e| explain(e, "hosts"))?.items;
    ensure!(!hosts.is_empty(), "no host has {}", selector.labels);
    Ok(hosts.iter().map(|h| h.name_any()).collect())
}

/// Whether it was otherwise before.
///
/// # Errors
/// When the host is not there or may not be changed.
pub async fn set(client: &Client, name: &str, closed: bool) -> Result<bool> {
    let api = Api::<Host>::all(client.clone());
    let refused = |e| explain(e, format_args!("hosts/{name}"));
    let host = api.get(name).await.map_err(refused)?;
    if host.spec.unschedulable == closed {
        return Ok(false);
    }
    let patch = Patch::Merge(json!({ "spec": { "unschedulable": closed } }));
    api.patch(name, &PatchParams::default(), &patch)
        .await
        .map_err(refused)?;
    Ok(true)
}
