//! From a call to the folder that answers it.

use super::service::Service;
use crate::answer::{self, Failure};
use crate::identity::{Identity, authorize};
use crate::read::render::Renderer;
use crate::read::{get, list, watch};
use crate::request::{Call, body};
use crate::subresources::{blob, credential};
use crate::write::{self, Outcome, scale};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};

/// One verb of one kind. What is streamed (watches, blobs) is only begun here.
pub(crate) async fn verb(
    service: &Service,
    call: &Call<'_>,
    identity: &Identity,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    match (call.verb, call.subresource) {
        ("get", "" | "status") => {
            call.check_subresource()?;
            get::get(&service.state, call, headers).await
        }
        ("get", "scale") => Ok(answer::json(
            200,
            scale::get(&service.state, call).await?.to_string(),
        )),
        ("get", "blob") if call.kind.plural == "images" => {
            blob::send(&service.state, &service.config.data_dir, call, headers).await
        }
        ("create", "credential") if call.kind.plural == "hosts" => {
            if !identity.is_admin() && identity.host_name() != Some(call.name) {
                return Err(authorize::forbidden(identity, call));
            }
            credential::issue(&service.state, &service.pki, &service.config, call).await
        }
        ("list", "") => list::list(&service.state, call, headers).await,
        ("watch", "") => watch::watch(&service.state, call, headers).await,
        _ => {
            let body = body::collect(body).await?;
            let outcome = write::change(&service.state, call, identity, headers, &body).await?;
            written(call, headers, outcome)
        }
    }
}

/// A session of a container, or an agent that offers to have them.
pub(crate) async fn session(
    service: &Service,
    call: &Call<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let object = service
        .state
        .current(call.kind, call.namespace, call.name)
        .await?;
    let host = match call.kind.plural.as_str() {
        "hosts" => Some(call.name),
        _ => object.value["status"]["host"].as_str(),
    };
    service.sessions.handle(call, host, request).await
}

/// The response to a write, in the form that the caller asked for.
fn written(
    call: &Call<'_>,
    headers: &HeaderMap,
    outcome: Outcome,
) -> Result<Response<Body>, Failure> {
    let is_object = outcome.value["kind"] == call.kind.kind.as_str();
    let body = if is_object {
        Renderer::new(call.kind, headers, call.query)?.value(&outcome.value, true)
    } else {
        Bytes::from(outcome.value.to_string())
    };
    let mut response = answer::json(outcome.code, body);
    let mut length = 0;
    for warning in &outcome.warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        length += text.len();
        if length > 4096 {
            break;
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response
                .headers_mut()
                .append(HeaderName::from_static("warning"), value);
        }
    }
    Ok(response)
}
