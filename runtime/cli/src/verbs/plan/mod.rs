//! `skysail plan`: what an apply would do, before it does it.
//!
//! The server checks and completes the manifests (dry run); the controllers' own
//! planners then work on the objects as they would be, in this process. Nothing is
//! written. What this prints as JSON, `skysail apply --plan` takes: it does exactly
//! that, or refuses because the world has changed.

mod changes;
mod execute;
mod forecast;
mod svg;
mod text;
pub mod world;

pub use execute::execute;

use super::apply::preview;
use super::get::together;
use crate::kinds::{Kind, Kinds};
use crate::manifest::{self, Document};
use crate::print::Output;
use crate::refusal::explain;
use anyhow::{Context as _, Result, ensure};
use changes::{Action, Change, change};
use forecast::Forecast;
use kube::Client;
use kube::api::ListParams;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skysail_controllers::placement::snapshot::Objects;
use std::path::PathBuf;

/// Flags of `plan`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail plan                                  where would what waits now go, and why\n  skysail plan -f manifests/                    what would an apply of these do\n  skysail plan -f shop/ --prune -l app=shop     and what has the label and is not in shop/ goes\n  skysail plan -f shop/ -o json > plan.json     then: skysail apply --plan plan.json\n  skysail plan -f shop/ -o svg > plan.svg       every host before and after\n\nThe JSON holds the manifests, secrets included: keep it as you keep them.\n\nExit codes: 0 nothing would change, 2 something would, 1 it could not be found out or is refused."
)]
pub struct Plan {
    /// Manifests: a file, a folder, or - for standard input; may be repeated; none for what waits now
    #[arg(short, long = "filename", value_name = "PATH")]
    filename: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Delete what was applied before, has the labels of -l, and is in no manifest any more
    #[arg(long, requires = "labels", requires = "filename")]
    prune: bool,
    /// Which objects --prune may delete, for example app=shop
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "LABELS",
        requires = "prune"
    )]
    labels: Option<String>,
    /// text, json or svg
    #[arg(short, long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Svg,
}

/// A plan that can be carried out: what is asked for, and what was foreseen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// The form of this file.
    plan_version: u32,
    /// Namespace of objects that name none.
    namespace: String,
    /// What is to be applied.
    manifests: Vec<Value>,
    /// What may be pruned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prune: Option<String>,
    /// What was foreseen.
    #[serde(flatten)]
    forecast: Forecast,
}

const PLAN_VERSION: u32 = 1;

impl Forecast {
    /// Whether all stays as it is. What has no host now and gets none is no change.
    pub fn is_nothing(&self) -> bool {
        self.changes.is_empty() && self.placements.is_empty()
    }
}

/// Runs the verb; the exit code.
///
/// # Errors
/// When a manifest is refused or the server does not answer.
pub async fn run(client: &Client, default: &str, args: Plan) -> Result<i32> {
    let documents = match args.filename.is_empty() {
        true => vec![],
        false => manifest::read(&args.filename)?,
    };
    let namespace = args.namespace.unwrap_or_else(|| default.to_owned());
    let forecast = foresee(client, &documents, &namespace, args.labels.as_deref()).await?;
    let code = if forecast.is_nothing() { 0 } else { 2 };
    let out = Output::stdout();
    match args.output {
        Format::Text => out.write(&text::text(&out, &forecast))?,
        Format::Svg => out.write(&svg::svg(&forecast))?,
        Format::Json => {
            let saved = Saved {
                plan_version: PLAN_VERSION,
                namespace,
                manifests: documents.into_iter().map(|d| d.object).collect(),
                prune: args.labels,
                forecast,
            };
            out.write(&format!("{}\n", serde_json::to_string_pretty(&saved)?))?;
        }
    }
    Ok(code)
}

/// What an apply of `documents` would do; `prune` is the selector of what may go.
async fn foresee(
    client: &Client,
    documents: &[Document],
    namespace: &str,
    prune: Option<&str>,
) -> Result<Forecast> {
    let before = world::read(client).await?;
    let mut after = before.clone();
    let mut all: Vec<Change> = vec![];
    let seen = preview(client, documents.to_vec(), namespace).await?;
    for (name, live, new) in &seen {
        all.extend(change(name, live, new));
        world::lay(&mut after, live, new).with_context(|| name.clone())?;
    }
    if let Some(labels) = prune {
        for (name, live) in prunable(client, labels, &seen).await? {
            all.extend(change(&name, &live, &Value::Null));
            world::lay(&mut after, &live, &Value::Null).with_context(|| name.clone())?;
            gone_with_namespace(&mut after, &live);
        }
    }
    let (coming, remarks) = world::settle(&mut after);
    let mut forecast = forecast::forecast(before, after, &coming);
    forecast.changes = all;
    forecast.remarks = remarks;
    Ok(forecast)
}

/// With a namespace goes what is in it.
fn gone_with_namespace(objects: &mut Objects, live: &Value) {
    if live["kind"] != "Namespace" {
        return;
    }
    let name = live.pointer("/metadata/name").and_then(Value::as_str);
    use kube::ResourceExt as _;
    objects
        .containers
        .retain(|o| o.namespace().as_deref() != name);
    objects
        .container_sets
        .retain(|o| o.namespace().as_deref() != name);
}

/// What has the labels, was applied before and is in no manifest: its name and the object.
async fn prunable(
    client: &Client,
    labels: &str,
    wished: &[(String, Value, Value)],
) -> Result<Vec<(String, Value)>> {
    ensure!(
        !labels.is_empty(),
        "-l: give the labels of what may be deleted"
    );
    let kinds = Kinds::discover(client).await?;
    let mut found = vec![];
    let mut errors = vec![];
    let kept = |k: &&Kind| k.is_kept && k.resource.kind != "Event";
    for kind in kinds.all().iter().filter(kept) {
        let api = kube::Api::<kube::api::DynamicObject>::all_with(client.clone(), &kind.resource);
        let list = api.list(&ListParams::default().labels(labels)).await;
        let list = match list.map_err(|e| explain(e, &kind.resource.plural)) {
            Ok(list) => list.items,
            Err(e) => {
                errors.push(e);
                continue;
            }
        };
        for mut object in list {
            object.types = Some(kube::core::TypeMeta {
                api_version: kind.resource.api_version.clone(),
                kind: kind.resource.kind.clone(),
            });
            let annotations = object.metadata.annotations.iter().flatten();
            let applied = annotations
                .into_iter()
                .any(|(k, _)| k == super::apply::LAST_APPLIED);
            let name = kind.object(
                object.metadata.namespace.as_deref(),
                object.metadata.name.as_deref().unwrap_or_default(),
            );
            let going = object.metadata.deletion_timestamp.is_some();
            if applied && !going && !wished.iter().any(|(k, ..)| *k == name) {
                found.push((name, serde_json::to_value(object)?));
            }
        }
    }
    together(errors)?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Whether a plan deletes this object.
fn deletes(change: &Change) -> bool {
    change.action == Action::Delete
}
