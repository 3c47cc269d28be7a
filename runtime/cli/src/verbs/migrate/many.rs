//! `skysail migrate -l LABELS` and `--all`: a MigrationGroup.

use super::follow;
use super::foresee;
use super::{How, name};
use crate::print::{Output, clean};
use crate::refusal::explain;
use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use skysail_schemas::migration_group::{
    MemberState, MigrationGroupPhase, MigrationGroupSpec, MigrationGroupStatus,
};
use skysail_schemas::{Container, MigrationGroup};
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

/// Flags of `migrate` for many containers.
#[derive(Debug, clap::Args)]
pub struct Many {
    /// Move the containers with these labels, for example app=shop,tier!=db
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "LABELS",
        conflicts_with = "all"
    )]
    labels: Option<String>,
    /// Move every container of the namespace
    #[arg(long)]
    all: bool,
    /// Those with these labels go first; several times for several waves. Without it, their annotation skysail.dev/wave says
    #[arg(long, value_name = "LABELS")]
    first: Vec<String>,
    /// How many are on their way at once
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    at_once: u32,
    /// The same for each host that they leave or come to
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    at_once_per_host: u32,
    /// Begin nothing more once one of them could not be moved
    #[arg(long)]
    stop_on_refusal: bool,
    #[command(flatten)]
    how: How,
}

/// Runs the verb.
///
/// # Errors
/// When it is refused; with `--wait` also when not all were moved, with the reason of each.
pub async fn run(client: &kube::Client, default: &str, many: &Many) -> Result<()> {
    ensure!(
        many.all || many.labels.is_some(),
        "say what to move: `skysail migrate container NAME`, or -l LABELS, or --all of a namespace"
    );
    let how = &many.how;
    let namespace = how.namespace.as_deref().unwrap_or(default);
    let spec = spec(many)?;
    let labels = spec.selector.match_labels.clone().unwrap_or_default();
    let what = labels.values().next().map_or("all", String::as_str);
    let group = MigrationGroup::new(&name(what), spec);
    let groups = Api::<MigrationGroup>::namespaced(client.clone(), namespace);
    let params = PostParams {
        dry_run: how.dry_run,
        ..PostParams::default()
    };
    let about = format!("migrationgroups -n {namespace}");
    let made = groups.create(&params, &group).await;
    let made = made.map_err(|e| explain(e, &about))?;
    if how.dry_run {
        return foresee::tell(client, how, picked(client, namespace, many).await?).await;
    }
    let name = made.name_any();
    let out = Output::stdout();
    out.write(&format!("migrationgroup/{name} created\n"))?;
    if !how.wait {
        return Ok(());
    }
    let over = follow(&groups, &name);
    let status = tokio::time::timeout(how.timeout, over)
        .await
        .with_context(|| {
            format!(
                "migrationgroup/{name} -n {namespace} is not over in time; it goes on by itself"
            )
        })??;
    summary(&out, &name, &status)
}

async fn picked(client: &kube::Client, namespace: &str, many: &Many) -> Result<Vec<Container>> {
    let params = ListParams::default().labels(many.labels.as_deref().unwrap_or_default());
    let api = Api::<Container>::namespaced(client.clone(), namespace);
    let listed = api.list(&params).await;
    let listed = listed.map_err(|e| explain(e, format!("containers -n {namespace}")))?;
    Ok(listed.items)
}

fn spec(many: &Many) -> Result<MigrationGroupSpec> {
    let how = &many.how;
    let order = many.first.iter().map(|text| selector(text));
    Ok(MigrationGroupSpec {
        selector: selector(many.labels.as_deref().unwrap_or_default())?,
        target: how.target(),
        mode: how.mode(),
        freeze_budget: how.freeze_budget,
        bandwidth: how.bandwidth,
        order: order.collect::<Result<_>>()?,
        at_once: many.at_once,
        at_once_per_host: many.at_once_per_host,
        stop_on_refusal: many.stop_on_refusal,
        ..MigrationGroupSpec::default()
    })
}

/// Labels as they are written on a command line: `app=shop,tier!=db,canary,!old`.
fn selector(text: &str) -> Result<LabelSelector> {
    let (mut equal, mut more) = (BTreeMap::new(), vec![]);
    for term in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let (key, operator, value) = if let Some((key, value)) = term.split_once("!=") {
            (key, "NotIn", Some(value))
        } else if let Some((key, value)) = term.split_once('=') {
            equal.insert(
                key.trim().to_owned(),
                value.trim_start_matches('=').trim().to_owned(),
            );
            continue;
        } else if let Some(key) = term.strip_prefix('!') {
            (key, "DoesNotExist", None)
        } else {
            (term, "Exists", None)
        };
        ensure!(
            !key.contains([' ', '(', ')']),
            "{text:?}: write labels as key=value, key!=value, key or !key, with commas between"
        );
        more.push(LabelSelectorRequirement {
            key: key.trim().to_owned(),
            operator: operator.to_owned(),
            values: value.map(|v| vec![v.trim().to_owned()]),
        });
    }
    Ok(LabelSelector {
        match_labels: (!equal.is_empty()).then_some(equal),
        match_expressions: (!more.is_empty()).then_some(more),
    })
}

/// Shows each change until the group is over: on a terminal a bar, else a line for each container that gets on.
async fn follow(groups: &Api<MigrationGroup>, name: &str) -> Result<MigrationGroupStatus> {
    let style = ProgressStyle::with_template("{elapsed} [{bar:30}] {pos}/{len} {msg}")?;
    let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut said = BTreeMap::new();
    let mut changes = pin!(watch_object(groups.clone(), name).default_backoff());
    while let Some(change) = changes.next().await {
        let Ok(change) = change else { continue };
        let Some(group) = change else {
            bail!("migrationgroup/{name} was deleted");
        };
        let status = group.status.unwrap_or_default();
        bar.set_length(status.containers.into());
        bar.set_position((status.containers - status.waiting - status.moving).into());
        for member in &status.members {
            let old = said.insert(member.container.clone(), member.state);
            if old.unwrap_or_default() != member.state {
                let why = member.message.as_ref().map(|m| format!(": {m}"));
                let line = format!(
                    "{} {:?}{}",
                    member.container,
                    member.state,
                    why.unwrap_or_default()
                );
                follow::line(&bar, &clean(&line));
            }
        }
        let moving = status
            .members
            .iter()
            .filter(|m| m.state == MemberState::Moving);
        let moving: Vec<_> = moving.map(|m| m.container.as_str()).collect();
        bar.set_message(clean(&moving.join(", ")));
        if status.phase.is_finished() {
            bar.finish_and_clear();
            return Ok(status);
        }
    }
    bail!("migrationgroup/{name}: the server ended the watch")
}

fn summary(out: &Output, name: &str, status: &MigrationGroupStatus) -> Result<()> {
    if status.phase == MigrationGroupPhase::Succeeded {
        let took = status.total.map(|t| format!(" in {t}")).unwrap_or_default();
        return Ok(out.write(&format!(
            "{} of {} moved{took}\n",
            status.moved, status.containers
        ))?);
    }
    let told = status.conditions.iter().find(|c| c.type_ == "Complete");
    let mut text = told.map(|c| format!(" ({})", c.reason)).unwrap_or_default();
    if status.members.is_empty() {
        text += &told.map(|c| format!(": {}", c.message)).unwrap_or_default();
    } else {
        text += &format!(": {} of {} moved", status.moved, status.containers);
    }
    for member in &status.members {
        if matches!(member.state, MemberState::Refused | MemberState::Cancelled) {
            let why = clean(member.message.as_deref().unwrap_or_default());
            text += &format!("\n  * {} {:?}: {why}", member.container, member.state);
        }
    }
    bail!("migrationgroup/{name}: {:?}{text}", status.phase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_are_read_as_kubectl_reads_them() {
        let read = |text: &str| serde_json::to_value(selector(text).unwrap()).unwrap();
        assert_eq!(read(""), json!({}));
        assert_eq!(
            read("app=shop, tier!=db,canary,!old"),
            json!({"matchLabels": {"app": "shop"}, "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["db"]},
                {"key": "canary", "operator": "Exists"},
                {"key": "old", "operator": "DoesNotExist"}]})
        );
        assert!(selector("tier in (a, b)").is_err());
    }
}
