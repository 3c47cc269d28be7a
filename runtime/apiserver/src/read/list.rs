//! `list`: all objects of a kind at one revision, page by page if they are many.

use super::filter::Filter;
use super::render::Renderer;
use crate::answer::{self, Failure};
use crate::request::{Call, number};
use crate::state::State;
use crate::state::cache::Object;
use axum::body::Body;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Response};
use serde_json::{Value, json};
use skysail_store::Revision;
use std::sync::Arc;

/// Where a paged list goes on.
#[derive(Debug, PartialEq)]
struct Position {
    revision: Revision,
    after: String,
}

impl Position {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"rv": self.revision, "start": self.after}).to_string())
    }

    fn decode(token: &str) -> Result<Self, Failure> {
        let parse = || {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            Some(Self {
                revision: value["rv"].as_u64()?,
                after: value["start"].as_str()?.to_owned(),
            })
        };
        parse().ok_or_else(|| Failure::bad_request("continue key is not valid"))
    }
}

/// What a list shows: all objects that the caller may page through and their revision.
async fn objects_for(
    state: &State,
    call: &Call<'_>,
    position: Option<&Position>,
) -> Result<(Vec<Arc<Object>>, Revision), Failure> {
    let prefix = call.prefix();
    let query = call.query;
    if let Some(position) = position {
        // A token whose revision is 0 goes on in the present: the way out of an expired one.
        if position.revision == 0 {
            return Ok(state.cache.snapshot(&prefix));
        }
        state.catch_up(Some(position.revision)).await?;
        let old = state.cache.at(&prefix, position.revision);
        return old
            .map(|objects| (objects, position.revision))
            .map_err(|_| expired_page(position));
    }
    let version = number("resourceVersion", query.resource_version.as_deref())?;
    state.catch_up(version).await?;
    match (query.resource_version_match.as_deref(), version) {
        (Some("Exact"), None | Some(0)) => Err(Failure::bad_request(
            "resourceVersionMatch=Exact needs a resourceVersion other than \"0\"",
        )),
        (Some("Exact"), Some(revision)) => match state.cache.at(&prefix, revision) {
            Ok(objects) => Ok((objects, revision)),
            Err(gone) => Err(Failure::expired(format!(
                "The resourceVersion for the provided list is too old: {revision} ({})",
                gone.floor
            ))),
        },
        (Some("NotOlderThan"), None) => Err(Failure::bad_request(
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (None | Some("" | "NotOlderThan"), _) => Ok(state.cache.snapshot(&prefix)),
        (Some(other), _) => Err(Failure::bad_request(format!(
            "unknown resourceVersionMatch {other:?}"
        ))),
    }
}

/// 410 with a token that goes on in the present, inconsistently.
fn expired_page(position: &Position) -> Failure {
    let text = "The provided continue parameter is too old to display a consistent list result. Start again without \
                it, or go on inconsistently with the token in this answer's metadata.continue.";
    let mut failure = Failure::expired(text);
    failure.details =
        json!({"continue": Position { revision: 0, after: position.after.clone() }.encode()});
    failure
}

/// `GET` of a collection.
pub(crate) async fn list(
    state: &State,
    call: &Call<'_>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    let renderer = Renderer::new(call.kind, headers, call.query)?;
    let filter = Filter::of(call)?;
    let limit = number("limit", call.query.limit.as_deref())?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let position = match call.query.continue_.as_deref() {
        None | Some("") => None,
        Some(token) => Some(Position::decode(token)?),
    };
    let (mut objects, revision) = match objects_for(state, call, position.as_ref()).await {
        Ok(found) => found,
        Err(failure) if failure.code == 410 && failure.details.get("continue").is_some() => {
            let mut status = failure.status();
            status["metadata"]["continue"] = failure.details["continue"].clone();
            status.as_object_mut().map(|s| s.remove("details"));
            return Ok(answer::json(410, status.to_string()));
        }
        Err(failure) => return Err(failure),
    };
    if let Some(position) = &position {
        objects.retain(|o| o.key > position.after);
    }
    objects.retain(|o| filter.matches(o));
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if limit > 0 && objects.len() > limit {
        let remaining = objects.len() - limit;
        objects.truncate(limit);
        let after = objects.last().map(|o| o.key.clone()).unwrap_or_default();
        metadata["continue"] = Value::String(Position { revision, after }.encode());
        if !filter.selects() {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    Ok(answer::json_packed(headers, renderer.list(&objects, metadata)).await)
}
