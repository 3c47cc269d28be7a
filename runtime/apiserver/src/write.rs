//! `create`, `update`, `patch`, `delete`: compare-and-swap on the store.

use crate::admission::{self, Document, Options};
use crate::apply;
use crate::auth::{self, Identity};
use crate::cache::Object;
use crate::events;
use crate::failure::Failure;
use crate::kinds::{Kind, Origin};
use crate::namespaces;
use crate::patch;
use crate::read::view;
use crate::request::Call;
use crate::server::Inner;
use crate::strict::Format;
use bytes::Bytes;
use http::HeaderMap;
use rand::Rng;
use serde_json::{Value, json};
use skysail_store::{Error, Revision};
use std::sync::Arc;

/// How often a write without a resourceVersion is tried again when somebody else was faster.
const ATTEMPTS: usize = 16;

/// The answer to a write.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// 200 or 201.
    pub code: u16,
    /// The object in the view of its kind, or a Status.
    pub value: Value,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
}

/// An object's bytes as they are stored: in its stored form, without revision.
fn stored(kind: &Kind, object: &Value) -> Value {
    let mut value = if kind.plural == "events" {
        events::to_stored(object.clone())
    } else {
        object.clone()
    };
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    value
}

fn encode(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Waits until reads see a write, and gives it its resourceVersion.
async fn acknowledged(server: &Inner, mut value: Value, revision: Revision) -> Value {
    server.cache.caught_up(revision).await;
    value["metadata"]["resourceVersion"] = Value::String(revision.to_string());
    value
}

/// `POST` to a collection.
pub(crate) async fn create(
    server: &Inner,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    document: Document,
) -> Result<Outcome, Failure> {
    let (kind, mut object) = (call.kind, document.value);
    if kind.namespaced && call.namespace.is_empty() {
        return Err(Failure::bad_request(
            "a namespaced object is created below /namespaces/<namespace>/",
        ));
    }
    admission::address(call, &mut object)?;
    let warnings = admission::prune(kind, &mut object, &document.duplicates, options.unknown)?;
    admission::begin(kind, &mut object)?;
    let generate = object["metadata"]["generateName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let generated = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
        && !generate.is_empty();
    if kind.namespaced {
        namespaces::admits(
            server,
            kind,
            call.namespace,
            object["metadata"]["name"].as_str().unwrap_or_default(),
        )?;
    }
    for _ in 0..ATTEMPTS {
        if generated {
            object["metadata"]["name"] = Value::String(format!("{generate}{}", random_suffix()));
        }
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if !auth::may_create_named(identity, kind, &name) {
            return Err(Failure::forbidden_object(
                kind,
                &name,
                "this name is not yours",
            ));
        }
        let mut complete = object.clone();
        admission::complete(kind, None, &mut complete)?;
        if !options.applies {
            admission::track(kind, None, &mut complete, options, "");
        }
        let key = kind.key(call.namespace, &name);
        if options.dry_run {
            if server.cache.get(&key).is_some() {
                return Err(Failure::already_exists(kind, &name));
            }
            return Ok(Outcome {
                code: 201,
                value: complete,
                warnings,
            });
        }
        let bytes = stored(kind, &complete);
        match server.store.create(&key, encode(&bytes)).await {
            Ok(revision) => {
                let value = acknowledged(server, complete, revision).await;
                return Ok(Outcome {
                    code: 201,
                    value,
                    warnings,
                });
            }
            Err(Error::Exists { .. }) if generated => {}
            Err(Error::Exists { .. }) => return Err(Failure::already_exists(kind, &name)),
            Err(other) => return Err(other.into()),
        }
    }
    Err(Failure::already_exists(kind, &generate))
}

/// Five characters that make no words.
fn random_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect()
}

/// The object now: from the cache, which has caught up with the store.
pub(crate) async fn current(
    server: &Inner,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<Arc<Object>, Failure> {
    let revision = server.store.revision().await?;
    server.cache.caught_up(revision).await;
    server
        .cache
        .get(&kind.key(namespace, name))
        .ok_or_else(|| Failure::not_found(kind, name))
}

/// How a change makes the new object out of the old one, both in the view of the kind.
pub(crate) type Make<'a> = &'a (dyn Fn(&Value) -> Result<Value, Failure> + Send + Sync);

/// What [`modify`] is to do besides calling [`Make`].
pub(crate) struct Modify<'a> {
    pub options: &'a Options,
    pub identity: &'a Identity,
    pub duplicates: &'a [String],
}

/// Read, change, compare-and-swap; again if somebody was faster and the change names no revision.
pub(crate) async fn modify(
    server: &Inner,
    call: &Call<'_>,
    how: &Modify<'_>,
    make: Make<'_>,
) -> Result<Outcome, Failure> {
    let kind = call.kind;
    for _ in 0..ATTEMPTS {
        let object = current(server, kind, call.namespace, call.name).await?;
        let old = view(kind, &object);
        let (new, warnings) = next_state(call, how, &old, make(&old)?)?;
        let Some(new) = new else {
            return Ok(Outcome {
                code: 200,
                value: old.into_owned(),
                warnings,
            });
        };
        if how.options.dry_run {
            return Ok(Outcome {
                code: 200,
                value: new,
                warnings,
            });
        }
        let written = if is_finished(&new) {
            server.store.delete(&object.key, object.revision).await
        } else {
            server
                .store
                .update(&object.key, encode(&stored(kind, &new)), object.revision)
                .await
        };
        match written {
            Ok(revision) => {
                let value = acknowledged(server, new, revision).await;
                return Ok(Outcome {
                    code: 200,
                    value,
                    warnings,
                });
            }
            Err(Error::Conflict { current: None, .. }) => {
                return Err(Failure::not_found(kind, call.name));
            }
            // The next round reads the newer object; a change that names a revision is refused there.
            Err(Error::Conflict {
                current: Some(entry),
                ..
            }) => {
                server.cache.caught_up(entry.modified).await;
            }
            Err(other) => return Err(other.into()),
        }
    }
    Err(Failure::modified(kind, call.name))
}

/// The object to write, `None` if nothing changes.
fn next_state(
    call: &Call<'_>,
    how: &Modify<'_>,
    old: &Value,
    mut new: Value,
) -> Result<(Option<Value>, Vec<String>), Failure> {
    let kind = call.kind;
    admission::address(call, &mut new)?;
    let version = new["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    if !version.is_empty()
        && version != "0"
        && Some(version) != old["metadata"]["resourceVersion"].as_str()
    {
        return Err(Failure::modified(kind, call.name));
    }
    let warnings = admission::prune(kind, &mut new, how.duplicates, how.options.unknown)?;
    let mut new = admission::confine(kind, call.subresource, old, new);
    admission::carry_over(kind, old, &mut new)?;
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    admission::complete(kind, Some(old), &mut new)?;
    admission::raise_generation(kind, old, &mut new);
    if !auth::may_change(how.identity, kind, call.subresource, old, &new) {
        return Err(Failure::forbidden_object(
            kind,
            call.name,
            "an agent may change only status and finalizers",
        ));
    }
    if !how.options.applies {
        let subresource = if call.subresource == "status" {
            "status"
        } else {
            ""
        };
        admission::track(kind, Some(old), &mut new, how.options, subresource);
    }
    let changed = !admission::same(old, &new) || is_finished(&new);
    Ok((changed.then_some(new), warnings))
}

/// Whether an object being deleted has nothing left that keeps it.
pub(crate) fn is_finished(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
        && finalizers(object).is_empty()
        && !is_held(object)
}

/// Namespaces are held by `spec.finalizers` too.
fn is_held(object: &Value) -> bool {
    object["kind"] == "Namespace"
        && object["apiVersion"] == "v1"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty())
}

pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect()
}

/// `PUT`.
pub(crate) async fn update(
    server: &Inner,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    document: Document,
) -> Result<Outcome, Failure> {
    let kind = call.kind;
    let version = document.value["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    if version.is_empty() && kind.origin == Origin::Custom {
        let error = skysail_schemas::validate::FieldError {
            field: "metadata.resourceVersion".into(),
            cause: skysail_schemas::validate::Cause::Invalid,
            message: "Invalid value: 0: must be specified for an update".into(),
        };
        return Err(Failure::invalid(kind, call.name, &[error]));
    }
    let how = Modify {
        options,
        identity,
        duplicates: &document.duplicates,
    };
    let result = modify(server, call, &how, &|_| Ok(document.value.clone())).await;
    let creates =
        matches!(kind.plural.as_str(), "leases" | "events") && call.subresource.is_empty();
    match result {
        Err(failure) if failure.code == 404 && creates && version.is_empty() => {
            create(server, call, identity, options, document).await
        }
        other => other,
    }
}

/// `PATCH`.
pub(crate) async fn patch(
    server: &Inner,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Outcome, Failure> {
    let media = admission::media_type(headers);
    if media == "application/apply-patch+yaml" {
        return server_side_apply(server, call, identity, options, body).await;
    }
    let document = admission::parse(Format::Json, body)?;
    let (kind, change) = (call.kind, &document.value);
    let strategic = kind.origin == Origin::Core;
    let how = Modify {
        options,
        identity,
        duplicates: &document.duplicates,
    };
    let failed = |e: patch::Error| match e {
        patch::Error::Malformed(text) => Failure::bad_request(text),
        patch::Error::Inapplicable(text) => Failure::new(422, "Invalid", text),
        e @ patch::Error::TooManyOperations(_) => Failure::too_large(e.to_string()),
    };
    match media {
        "application/merge-patch+json" => {
            if !change.is_object() {
                return Err(Failure::bad_request("a merge patch must be an object"));
            }
            modify(server, call, &how, &|old| Ok(patch::merge(old, change))).await
        }
        "application/json-patch+json" => {
            modify(server, call, &how, &|old| {
                patch::json(old, change).map_err(failed)
            })
            .await
        }
        "application/strategic-merge-patch+json" if strategic => {
            modify(server, call, &how, &|old| {
                patch::strategic(old, change).map_err(failed)
            })
            .await
        }
        other => {
            let mut accepted = vec![
                "application/json-patch+json",
                "application/merge-patch+json",
            ];
            if strategic {
                accepted.push("application/strategic-merge-patch+json");
            }
            accepted.push("application/apply-patch+yaml");
            Err(Failure::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {} (not {other})",
                accepted.join(", ")
            )))
        }
    }
}

/// `PATCH` with an apply configuration; creates what does not exist.
async fn server_side_apply(
    server: &Inner,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    body: &[u8],
) -> Result<Outcome, Failure> {
    let kind = call.kind;
    if call
        .query
        .field_manager
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(Failure::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let mut document = admission::parse(Format::Yaml, body)?;
    admission::address(call, &mut document.value)?;
    let (applied, version) = (&document.value, kind.api_version());
    let failed = |e: apply::Error| match e {
        apply::Error::Conflicts(conflicts) => apply_conflicts(&conflicts),
        apply::Error::Invalid(text) => Failure::bad_request(text),
    };
    let make = |old: &Value| {
        let writer = options.writer(&version, call.subresource);
        apply::apply(Some(old), applied, writer, options.force, &kind.schema).map_err(failed)
    };
    let applying = Options {
        applies: true,
        ..options.clone()
    };
    let how = Modify {
        options: &applying,
        identity,
        duplicates: &document.duplicates,
    };
    match modify(server, call, &how, &make).await {
        Err(failure) if failure.code == 404 && call.subresource.is_empty() => {
            let writer = options.writer(&version, "");
            let value =
                apply::apply(None, applied, writer, options.force, &kind.schema).map_err(failed)?;
            create(
                server,
                call,
                identity,
                &applying,
                Document { value, ..document },
            )
            .await
        }
        other => other,
    }
}

fn apply_conflicts(conflicts: &[apply::Conflict]) -> Failure {
    let list: Vec<String> = conflicts
        .iter()
        .map(|c| format!("conflict with {:?}: {}", c.manager, c.field))
        .collect();
    let plural = if conflicts.len() == 1 {
        "conflict"
    } else {
        "conflicts"
    };
    let text = format!(
        "Apply failed with {} {plural}: {}",
        conflicts.len(),
        list.join(", ")
    );
    let mut failure = Failure::new(409, "Conflict", text);
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| {
            let message = format!("conflict with {:?}", c.manager);
            json!({"reason": "FieldManagerConflict", "message": message, "field": c.field})
        })
        .collect();
    failure.details = json!({"causes": causes});
    failure
}
