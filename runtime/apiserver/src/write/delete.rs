//! `delete` and `deletecollection`: preconditions, propagation, finalizers.

use super::admission;
use super::finalizers::{finalizers, is_finished};
use super::namespaces;
use super::outcome::Outcome;
use crate::answer::Failure;
use crate::kinds::Kind;
use crate::read::filter::Filter;
use crate::request::Call;
use crate::state::cache::Object;
use crate::state::{State, view};
use bytes::Bytes;
use serde_json::{Value, json};
use skysail_store::Error;

/// Kept until dependents that block it are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Kept until dependents are owned no more.
pub(crate) const ORPHAN: &str = "orphan";
const ATTEMPTS: usize = 16;

/// How to delete.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub dry_run: bool,
    pub policy: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// From the body, if there is one, and the query.
    pub(crate) fn of(call: &Call<'_>, body: &Value) -> Result<Self, Failure> {
        let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let policy =
            text(&body["propagationPolicy"]).or_else(|| call.query.propagation_policy.clone());
        if let Some(policy) = policy
            .as_deref()
            .filter(|p| !["Background", "Foreground", "Orphan"].contains(p))
        {
            return Err(Failure::bad_request(format!(
                "propagationPolicy: Unsupported value: {policy:?}"
            )));
        }
        let dry_body = body["dryRun"]
            .as_array()
            .is_some_and(|list| list.iter().any(|v| v == "All"));
        Ok(Self {
            dry_run: call.query.is_dry_run()? || dry_body,
            policy,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
        })
    }
}

/// `DELETE` of one object.
pub(crate) async fn delete(
    state: &State,
    kind: &Kind,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Outcome, Failure> {
    namespaces::may_be_deleted(kind, name)?;
    for _ in 0..ATTEMPTS {
        let object = state.current(kind, namespace, name).await?;
        check(kind, name, &object, options)?;
        let marked = marked(kind, &object, options);
        let held = !is_finished(&marked);
        if held && admission::same(&marked, &object.value) {
            return Ok(Outcome {
                code: 200,
                value: view(kind, &object).into_owned(),
                warnings: Vec::new(),
            });
        }
        if options.dry_run {
            let value = if held { marked } else { gone(kind, &object) };
            return Ok(Outcome {
                code: 200,
                value,
                warnings: Vec::new(),
            });
        }
        let written = if held {
            let mut bytes = marked.clone();
            bytes["metadata"]
                .as_object_mut()
                .map(|m| m.remove("resourceVersion"));
            state
                .store
                .update(&object.key, Bytes::from(bytes.to_string()), object.revision)
                .await
        } else {
            state.store.delete(&object.key, object.revision).await
        };
        match written {
            Ok(revision) => {
                state.cache.caught_up(revision).await;
                let value = if held {
                    view(kind, &Object::new(object.key.clone(), marked, revision)).into_owned()
                } else {
                    gone(kind, &object)
                };
                return Ok(Outcome {
                    code: 200,
                    value,
                    warnings: Vec::new(),
                });
            }
            Err(Error::Conflict { current: None, .. }) => {
                return Err(Failure::not_found(kind, name));
            }
            Err(Error::Conflict {
                current: Some(entry),
                ..
            }) => {
                state.cache.caught_up(entry.modified).await;
            }
            Err(other) => return Err(other.into()),
        }
    }
    Err(Failure::modified(kind, name))
}

fn check(kind: &Kind, name: &str, object: &Object, options: &DeleteOptions) -> Result<(), Failure> {
    let fields = [
        ("UID", "uid", &options.uid),
        (
            "ResourceVersion",
            "resourceVersion",
            &options.resource_version,
        ),
    ];
    for (word, field, wanted) in fields {
        let is = object.meta(field);
        if let Some(wanted) = wanted.as_deref().filter(|w| *w != is) {
            let why = format!(
                "Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {is}"
            );
            return Err(Failure::conflict(kind, name, &why));
        }
    }
    Ok(())
}

/// The object with its deletion begun.
fn marked(kind: &Kind, object: &Object, options: &DeleteOptions) -> Value {
    let mut value = object.value.clone();
    let mut list = finalizers(&value);
    let own = match options.policy.as_deref() {
        Some("Foreground") => Some(FOREGROUND),
        Some("Orphan") => Some(ORPHAN),
        _ => None,
    };
    if let Some(policy) = own {
        list.retain(|f| f != FOREGROUND && f != ORPHAN);
        list.push(policy.into());
        value["metadata"]["finalizers"] = json!(list);
    }
    if value["metadata"].get("deletionTimestamp").is_none() {
        value["metadata"]["deletionTimestamp"] = admission::now();
        value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        if kind.has_generation() {
            let generation = value["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            value["metadata"]["generation"] = json!(generation);
        }
        if kind.plural == "namespaces" {
            value["status"]["phase"] = json!("Terminating");
        }
    }
    value
}

/// The answer when the object is gone.
fn gone(kind: &Kind, object: &Object) -> Value {
    let mut details =
        json!({"name": object.meta("name"), "kind": kind.plural, "uid": object.meta("uid")});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// `DELETE` of a collection.
pub(crate) async fn delete_collection(
    state: &State,
    call: &Call<'_>,
    options: &DeleteOptions,
) -> Result<Outcome, Failure> {
    let filter = Filter::of(call)?;
    let revision = state.store.revision().await?;
    state.cache.caught_up(revision).await;
    for object in state.cache.range(&call.prefix()) {
        if !filter.matches(&object) {
            continue;
        }
        match delete(
            state,
            call.kind,
            object.meta("namespace"),
            object.meta("name"),
            options,
        )
        .await
        {
            Ok(_) => {}
            Err(failure) if failure.code == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"group": call.kind.group, "kind": call.kind.plural}});
    Ok(Outcome {
        code: 200,
        value,
        warnings: Vec::new(),
    })
}
