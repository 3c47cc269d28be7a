//! Hetzner Cloud's API: JSON over HTTPS, a token, pages.

use crate::{
    Error, Result,
    https::{self, Https},
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::Value;
use std::sync::OnceLock;

/// The API as one project sees it.
pub struct Api {
    /// The Cloud's name, for messages.
    pub cloud: String,
    /// URL without the path.
    pub endpoint: String,
    /// Whose token, for messages.
    pub place: String,
    token: String,
}

impl Api {
    /// The API with this token.
    pub fn new(cloud: &str, endpoint: &str, place: &str, token: String) -> Self {
        Self {
            cloud: cloud.to_owned(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            place: place.to_owned(),
            token,
        }
    }

    /// One call.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let what = format!("Cloud {}: {method} {path}", self.cloud);
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let wrong = |e: &dyn std::fmt::Display| Error::Refused(format!("{what}: {e}"));
        let mut bearer = http::HeaderValue::from_str(&format!("Bearer {}", self.token))
            .map_err(|_| wrong(&"the token is not plain text"))?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/v1{path}", self.endpoint))
            .header("authorization", bearer)
            .header("content-type", "application/json")
            .body(Full::new(bytes))
            .map_err(|e| wrong(&e))?;
        let unreachable =
            |why| Error::Transient(format!("{what}: {} does not answer ({why})", self.endpoint));
        let https = connections().map_err(unreachable)?;
        let (status, _, text) = https::exchange(https, request).await.map_err(unreachable)?;
        let parsed: Option<Value> = match text.trim() {
            "" => Some(Value::Null),
            text => serde_json::from_str(text).ok(),
        };
        match parsed {
            Some(answer) if status.is_success() => Ok(answer),
            Some(answer) if answer["error"].is_object() => {
                let said = |field: &str| answer["error"][field].as_str().unwrap_or_default();
                Err(meaning(
                    said("code"),
                    &format!("{what}: {}: {}", said("code"), said("message")),
                    &self.place,
                ))
            }
            _ if status == StatusCode::TOO_MANY_REQUESTS => Err(Error::Throttled(what)),
            _ => Err(Error::Transient(format!(
                "{what}: {status}, and not as the API answers; is spec.hetzner.endpoint right?"
            ))),
        }
    }

    /// Every item of a list, over all its pages; `path` has a query already.
    pub async fn all<T: for<'a> Deserialize<'a>>(&self, path: &str, field: &str) -> Result<Vec<T>> {
        let mut found = vec![];
        let mut page = 1;
        while page > 0 && page < 1000 {
            let path = format!("{path}&per_page=50&page={page}");
            let mut answer = self.call(Method::GET, &path, None).await?;
            page = answer["meta"]["pagination"]["next_page"]
                .as_u64()
                .unwrap_or(0);
            let items: Vec<T> = serde_json::from_value(answer[field].take()).map_err(|e| {
                Error::Transient(format!(
                    "Cloud {}: GET {path}: not understood: {e}",
                    self.cloud
                ))
            })?;
            found.extend(items);
        }
        Ok(found)
    }
}

/// Connections carry no credentials of their own, so that all clouds may share them.
fn connections() -> std::result::Result<&'static Https, String> {
    static HTTPS: OnceLock<std::result::Result<Https, String>> = OnceLock::new();
    HTTPS
        .get_or_init(https::client)
        .as_ref()
        .map_err(Clone::clone)
}

/// From a code to the reaction.
fn meaning(code: &str, text: &str, place: &str) -> Error {
    let text = text.to_owned();
    match code {
        "unauthorized" | "token_readonly" | "forbidden" => Error::Denied(format!(
            "the token of {place} is refused or may only read: make one that may write ({text})"
        )),
        "not_found" => Error::NotFound(text),
        "rate_limit_exceeded" => Error::Throttled(text),
        "resource_limit_exceeded" => {
            Error::Quota(format!("{text}; ask the cloud for more, or delete Hosts"))
        }
        "resource_unavailable"
        | "placement_error"
        | "no_space_left_in_location"
        | "server_type_unavailable" => Error::NoCapacity(text),
        "invalid_input" | "json_error" | "uniqueness_error" | "protected" => Error::Refused(text),
        _ => Error::Transient(text),
    }
}
