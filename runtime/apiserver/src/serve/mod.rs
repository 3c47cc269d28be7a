//! The way in: listeners, TLS, and from a request's path to its handler.
//!
//! The top of the crate: needs all other folders, and no folder needs it.

mod route;
mod service;
pub(crate) mod tls;
mod verbs;

pub(crate) use route::router;
pub(crate) use service::Service;
