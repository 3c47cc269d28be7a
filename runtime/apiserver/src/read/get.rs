//! `get`: one object, from the cache.

use super::render::Renderer;
use crate::answer::{self, Failure};
use crate::request::{Call, number};
use crate::state::State;
use axum::body::Body;
use http::{HeaderMap, Response};

/// `GET` of one object.
pub(crate) async fn get(
    state: &State,
    call: &Call<'_>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    let renderer = Renderer::new(call.kind, headers, call.query)?;
    state
        .catch_up(number(
            "resourceVersion",
            call.query.resource_version.as_deref(),
        )?)
        .await?;
    let object = state.cache.get(&call.kind.key(call.namespace, call.name));
    let object = object.ok_or_else(|| Failure::not_found(call.kind, call.name))?;
    Ok(answer::json(200, renderer.one(&object, true)))
}
