//! From a request to its handler: who asks, what is called, whether it is allowed, how much at once.

use super::service::Service;
use super::verbs;
use crate::about;
use crate::answer::{self, Failure};
use crate::identity::{Identity, authorize, reviews};
use crate::request::{Call, Path, Query, body};
use crate::subresources::sessions::Sessions;
use axum::Router;
use axum::body::Body;
use axum::extract;
use http::{Request, Response};
use std::sync::Arc;
use std::time::Duration;

/// How long a request may take that is no watch, transfer or session.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Every path, as a service. Requests carry their [`Identity`] as an extension; without one the caller is nobody.
pub(crate) fn router(service: Arc<Service>) -> Router {
    Router::new().fallback(handle).with_state(service)
}

async fn handle(
    extract::State(service): extract::State<Arc<Service>>,
    request: Request<Body>,
) -> Response<Body> {
    match route(&service, request).await {
        Ok(response) => response,
        Err(failure) => failure.response(),
    }
}

async fn route(service: &Service, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let path = request.uri().path().to_owned();
    let raw_query = request.uri().query().unwrap_or_default().to_owned();
    let reading = matches!(request.method().as_str(), "GET" | "HEAD");
    if reading && let Some(response) = about::public(&service.state, &path, &raw_query).await {
        return Ok(response);
    }
    let identity = request
        .extensions()
        .get::<Identity>()
        .cloned()
        .ok_or_else(Failure::unauthorized)?;
    refuse_impersonation(&request)?;
    if reading
        && let Some(response) = service
            .about
            .known(&service.state, &path, request.headers())
    {
        return Ok(response);
    }
    if reviews::is_review(&path) {
        if request.method() != http::Method::POST {
            return Err(Failure::method_not_allowed());
        }
        let (parts, body) = request.into_parts();
        let document = body::read(&parts.headers, &body::collect(body).await?)?;
        let review = reviews::answer(&service.state, &identity, &path, document.value)?;
        return Ok(answer::json(201, review.to_string()));
    }
    let path = Path::parse(&path)?.ok_or_else(Failure::no_such_path)?;
    let query = Query::parse(&raw_query)?;
    let call = path.call(&service.state.kinds, request.method(), &query)?;
    if !authorize::may(&identity, &call, &service.state.cache) {
        return Err(authorize::forbidden(&identity, &call));
    }
    dispatch(service, &call, &identity, request).await
}

/// Nobody acts as somebody else here. To go on as the caller would do what was asked with more rights than the one
/// whom the caller named, so such requests are refused.
fn refuse_impersonation(request: &Request<Body>) -> Result<(), Failure> {
    let mut names = request.headers().keys().map(http::HeaderName::as_str);
    match names.find(|n| n.starts_with("impersonate-")) {
        Some(name) => Err(Failure::forbidden(format!(
            "this server has no impersonation (header {name}): use a kubeconfig of the user's own"
        ))),
        None => Ok(()),
    }
}

async fn dispatch(
    service: &Service,
    call: &Call<'_>,
    identity: &Identity,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    if Sessions::serves(call) {
        return verbs::session(service, call, request).await;
    }
    let writes = !matches!(call.verb, "get" | "list" | "watch");
    let limit = if writes {
        &service.writes
    } else {
        &service.reads
    };
    let _slot = limit
        .try_acquire()
        .map_err(|_| Failure::too_many_requests())?;
    let handling = verbs::verb(service, call, identity, request);
    tokio::time::timeout(REQUEST_TIME, handling)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::timeout(
                "the request did not end within 60 seconds",
            ))
        })
}
