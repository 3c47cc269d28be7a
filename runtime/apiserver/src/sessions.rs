//! Sessions (exec, console, log, files of containers) between clients and the agents that have the containers.

use crate::failure::Failure;
use crate::request::Call;
use axum::body::Body;
use http::{Request, Response};

/// Agents that are connected, and what goes on with them.
#[derive(Debug, Default)]
pub struct Sessions {}

impl Sessions {
    /// Whether a call is for this module: `exec`, `console`, `log` and `files` of containers, `sessions` of hosts.
    pub(crate) fn serves(call: &Call<'_>) -> bool {
        match call.kind.plural.as_str() {
            "containers" => matches!(call.subresource, "exec" | "console" | "log" | "files"),
            "hosts" => call.subresource == "sessions",
            _ => false,
        }
    }

    /// Answers a call. The caller is authorized for it; `host` is the host that a container is bound to.
    pub(crate) async fn handle(
        &self,
        _call: &Call<'_>,
        _host: Option<&str>,
        _request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        Err(Failure::new(
            501,
            "NotImplemented",
            "sessions are not served yet",
        ))
    }
}
