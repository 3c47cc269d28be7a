//! `patch`: a change of one of four kinds, which [`crate::patches`] knows how to make.

use super::admission;
use super::create::create;
use super::modify::{Modify, modify};
use super::options::Options;
use super::outcome::Outcome;
use crate::answer::Failure;
use crate::identity::Identity;
use crate::kinds::Origin;
use crate::patches::{self, apply};
use crate::request::Call;
use crate::request::body::{self, Document};
use crate::request::strict::Format;
use crate::state::State;
use http::HeaderMap;
use serde_json::{Value, json};

/// `PATCH`.
pub(crate) async fn patch(
    state: &State,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    headers: &HeaderMap,
    text: &[u8],
) -> Result<Outcome, Failure> {
    let media = body::media_type(headers);
    if media == "application/apply-patch+yaml" {
        return server_side_apply(state, call, identity, options, text).await;
    }
    let document = body::parse(Format::Json, text)?;
    let (kind, change) = (call.kind, &document.value);
    let strategic = kind.origin == Origin::Core;
    let how = Modify {
        options,
        identity,
        duplicates: &document.duplicates,
    };
    let failed = |e: patches::Error| match e {
        patches::Error::Malformed(text) => Failure::bad_request(text),
        patches::Error::Inapplicable(text) => Failure::new(422, "Invalid", text),
        e @ patches::Error::TooManyOperations(_) => Failure::too_large(e.to_string()),
    };
    match media {
        "application/merge-patch+json" => {
            if !change.is_object() {
                return Err(Failure::bad_request("a merge patch must be an object"));
            }
            modify(state, call, &how, &|old| Ok(patches::merge(old, change))).await
        }
        "application/json-patch+json" => {
            modify(state, call, &how, &|old| {
                patches::json(old, change).map_err(failed)
            })
            .await
        }
        "application/strategic-merge-patch+json" if strategic => {
            modify(state, call, &how, &|old| {
                patches::strategic(old, change).map_err(failed)
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
    state: &State,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    text: &[u8],
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
    let mut document = body::parse(Format::Yaml, text)?;
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
    match modify(state, call, &how, &make).await {
        Err(failure) if failure.code == 404 && call.subresource.is_empty() => {
            let writer = options.writer(&version, "");
            let value =
                apply::apply(None, applied, writer, options.force, &kind.schema).map_err(failed)?;
            create(
                state,
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
