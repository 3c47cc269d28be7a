//! Every refusal, as the `Status` object that clients print and branch on.

use crate::kinds::Kind;
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use skysail_schemas::validate::FieldError;

/// A refusal: HTTP code, machine-readable reason, text and details.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// HTTP status.
    pub code: u16,
    /// For example `NotFound`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// `Status.details`; null if there are none.
    pub details: Value,
}

impl Failure {
    /// A refusal without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(
            401,
            "Unauthorized",
            "Unauthorized: present a client certificate of this server's CA",
        )
    }

    /// 403 about the whole request.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// 403 about one object.
    pub fn forbidden_object(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", kind.qualified_resource());
        Self::forbidden(message).about(kind, name)
    }

    /// 404 about an object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {name:?} not found", kind.qualified_resource()),
        )
        .about(kind, name)
    }

    /// 404 about a path.
    pub fn no_such_path() -> Self {
        let mut failure = Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
        failure.details = json!({});
        failure
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 409 of a create.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} {name:?} already exists", kind.qualified_resource()),
        )
        .about(kind, name)
    }

    /// 409 of an update.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            kind.qualified_resource()
        );
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// 409: somebody wrote in between.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// 410.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422 with one cause for each mistake.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let text = if list.len() == 1 {
            list.concat()
        } else {
            format!("[{}]", list.join(", "))
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.cause.as_str(), "message": e.message, "field": e.field}))
            .collect();
        let mut failure = Self::new(
            422,
            "Invalid",
            format!("{} {name:?} is invalid: {text}", kind.qualified_kind()),
        );
        failure.details =
            json!({"name": name, "group": kind.group, "kind": kind.kind, "causes": causes});
        if kind.group.is_empty() {
            failure.drop_detail("group");
        }
        failure
    }

    /// 429, try again.
    pub fn too_many_requests() -> Self {
        let mut failure = Self::new(
            429,
            "TooManyRequests",
            "too many requests at once, please try again later",
        );
        failure.details = json!({"retryAfterSeconds": 1});
        failure
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {}", message.into()),
        )
    }

    /// 502: the agent behind this server is not there. Clients try 503 again for minutes, which here only hides why.
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(502, "ServiceUnavailable", message)
    }

    /// 503, try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let mut failure = Self::new(503, "ServiceUnavailable", message);
        failure.details = json!({"retryAfterSeconds": 1});
        failure
    }

    /// 504, try again.
    pub fn timeout(message: impl Into<String>) -> Self {
        let mut failure = Self::new(504, "Timeout", message);
        failure.details = json!({"retryAfterSeconds": 1});
        failure
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = json!({"name": name, "group": kind.group, "kind": kind.plural});
        if kind.group.is_empty() {
            self.drop_detail("group");
        }
        self
    }

    fn drop_detail(&mut self, key: &str) {
        if let Some(details) = self.details.as_object_mut() {
            details.remove(key);
        }
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    /// The HTTP response.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.status().to_string()));
        *response.status_mut() =
            StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if self.details.get("retryAfterSeconds").is_some() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<skysail_store::Error> for Failure {
    fn from(error: skysail_store::Error) -> Self {
        match error {
            skysail_store::Error::TooLarge(size) => Self::too_large(format!(
                "the object has {size} bytes, more than the limit of {}",
                skysail_store::MAX_VALUE
            )),
            skysail_store::Error::Unavailable(why) => {
                Self::unavailable(format!("store unavailable: {why}"))
            }
            other => Self::internal(other.to_string()),
        }
    }
}
