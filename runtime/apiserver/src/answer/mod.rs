//! How answers look: JSON and text, the form that a client accepts, refusals.
//!
//! Needs the table of kinds, whose names stand in refusals.

pub(crate) mod accept;
mod failure;
mod gzip;

pub use failure::Failure;
pub(crate) use gzip::json_packed;

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

/// JSON with a status code.
pub(crate) fn json(code: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Text with a status code.
pub(crate) fn text(code: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
