//! `skysail apply --plan`: exactly what was foreseen, or nothing.

use super::forecast::Forecast;
use super::{PLAN_VERSION, Saved, deletes, foresee, prunable};
use crate::manifest::Document;
use crate::refusal::explain;
use crate::verbs::apply;
use anyhow::{Context as _, Result, bail, ensure};
use kube::Client;
use serde_json::Value;
use std::path::Path;

/// Foresees it again from the world as it is now; refuses where that is another plan; applies.
///
/// # Errors
/// When the file is no plan, the world has changed, or the server refuses.
pub async fn execute(client: &Client, file: &Path) -> Result<()> {
    let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let saved: Saved = serde_json::from_slice(&text).with_context(|| {
        format!(
            "{}: is no plan; make one with skysail plan -f … -o json",
            file.display()
        )
    })?;
    ensure!(
        saved.plan_version == PLAN_VERSION,
        "{}: planVersion {} is not {PLAN_VERSION}; make the plan again with this skysail",
        file.display(),
        saved.plan_version
    );
    let documents: Vec<Document> = (1..)
        .zip(saved.manifests)
        .map(|(number, object)| Document {
            file: file.display().to_string(),
            line: 1,
            number,
            object,
        })
        .collect();
    let prune = saved.prune.as_deref();
    let now = foresee(client, &documents, &saved.namespace, prune).await?;
    let differs = differences(&saved.forecast, &now);
    if !differs.is_empty() {
        bail!(
            "{}: the world has changed since this plan was made; nothing was applied. Make it again (skysail plan). What differs:\n  * {}",
            file.display(),
            differs.join("\n  * ")
        );
    }
    let versions = now
        .changes
        .iter()
        .map(|c| (c.object.clone(), c.version.clone()))
        .collect();
    apply::exactly(client, documents, &saved.namespace, &versions).await?;
    if let Some(labels) = prune {
        prune_all(client, labels, &now).await?;
    }
    Ok(())
}

/// Deletes what the plan said, at the version that it saw.
async fn prune_all(client: &Client, labels: &str, plan: &Forecast) -> Result<()> {
    let kinds = crate::kinds::Kinds::discover(client).await?;
    let kept: Vec<(String, Value, Value)> = vec![];
    for (name, live) in prunable(client, labels, &kept).await? {
        let planned = plan.changes.iter().find(|c| c.object == name && deletes(c));
        let Some(planned) = planned else { continue };
        let text = |p: &str| live.pointer(p).and_then(Value::as_str).unwrap_or_default();
        let Some(kind) = kinds.of(text("/apiVersion"), text("/kind")) else {
            continue;
        };
        let params = kube::api::DeleteParams {
            preconditions: Some(kube::api::Preconditions {
                uid: Some(text("/metadata/uid").to_owned()),
                resource_version: planned.version.clone(),
            }),
            ..kube::api::DeleteParams::default()
        };
        let api = kind.api(client, text("/metadata/namespace"));
        let deleted = api.delete(text("/metadata/name"), &params).await;
        deleted.map_err(|e| explain(e, &name))?;
        println!("{name} deleted");
    }
    Ok(())
}

/// What is not as it was foreseen, a sentence each. How much hosts use, what they carry besides and prices may change.
fn differences(planned: &Forecast, now: &Forecast) -> Vec<String> {
    let mut said = vec![];
    for change in &planned.changes {
        match now.changes.iter().find(|c| c.object == change.object) {
            Some(same) if same == change => {}
            Some(other) if other.version != change.version => said.push(format!(
                "{} was changed in the meantime (version {}, planned at {})",
                change.object,
                other.version.as_deref().unwrap_or("none"),
                change.version.as_deref().unwrap_or("none")
            )),
            Some(_) => said.push(format!("{} would change in other ways", change.object)),
            None => said.push(format!("{} needs no change any more", change.object)),
        }
    }
    for change in &now.changes {
        if !planned.changes.iter().any(|c| c.object == change.object) {
            said.push(format!("{} would change too", change.object));
        }
    }
    for placement in &planned.placements {
        let found = now
            .placements
            .iter()
            .find(|p| p.container == placement.container);
        match found {
            Some(same) if same.host == placement.host => {}
            Some(other) => said.push(format!(
                "{} would go to {} instead of {}",
                placement.container, other.host, placement.host
            )),
            None => said.push(format!(
                "{} would not go to {}",
                placement.container, placement.host
            )),
        }
    }
    for placement in &now.placements {
        let container = &placement.container;
        if !planned.placements.iter().any(|p| p.container == *container) {
            said.push(format!("{container} would go to {} too", placement.host));
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(value: Value) -> Forecast {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_plan_is_the_same_until_something_that_it_rests_on_changes() {
        let change = |version: &str| json!({"action": "change", "object": "containers/a -n x", "version": version});
        let placed = |host: &str| json!({"container": "x/b", "host": host, "why": ""});
        let one = plan(
            json!({"changes": [change("7")], "placements": [placed("h")], "cost": {"before": 1.0}}),
        );
        assert!(differences(&one, &one).is_empty());
        let other = plan(json!({"changes": [change("8")], "placements": [placed("i")]}));
        assert_eq!(
            differences(&one, &other),
            [
                "containers/a -n x was changed in the meantime (version 8, planned at 7)",
                "x/b would go to i instead of h"
            ]
        );
        assert_eq!(differences(&Forecast::default(), &one).len(), 2);
        assert_eq!(differences(&one, &Forecast::default()).len(), 2);
    }
}
