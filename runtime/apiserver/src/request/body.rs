//! The body of a request, in one of the formats for whole objects.

use super::protobuf;
use super::strict::{self, Format, MAX_BODY};
use crate::answer::Failure;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;

/// All of a body, at most [`MAX_BODY`] bytes.
pub(crate) async fn collect(body: Body) -> Result<Bytes, Failure> {
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|s| s.is::<http_body_util::LengthLimitError>()) {
            return Failure::too_large(format!("the body has more than {MAX_BODY} bytes"));
        }
        Failure::bad_request(format!("the body cannot be read: {error}"))
    })
}

/// A body, read.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// The media type of a request's body, without parameters; absent means JSON.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "" => "application/json",
        media => media,
    }
}

/// Reads a body in one of the formats for whole objects.
pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Document, Failure> {
    let media = media_type(headers);
    let format = match media {
        "application/json" => Format::Json,
        "application/yaml" => Format::Yaml,
        protobuf::MEDIA_TYPE => {
            return match protobuf::decode(body) {
                Ok(value) => Ok(Document {
                    value,
                    duplicates: Vec::new(),
                }),
                Err(e @ protobuf::Error::Unsupported(_)) => {
                    Err(Failure::unsupported_media_type(e.to_string()))
                }
                Err(e @ protobuf::Error::Malformed(_)) => Err(Failure::bad_request(e.to_string())),
            };
        }
        other => {
            return Err(Failure::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml, {}; not {other}",
                protobuf::MEDIA_TYPE
            )));
        }
    };
    parse(format, body)
}

/// Parses JSON or YAML with the limits of [`strict`].
pub(crate) fn parse(format: Format, body: &[u8]) -> Result<Document, Failure> {
    match strict::parse(format, body) {
        Ok(parsed) => Ok(Document {
            value: parsed.value,
            duplicates: parsed.duplicates,
        }),
        Err(e @ strict::Error::TooLarge { .. }) => Err(Failure::too_large(e.to_string())),
        Err(strict::Error::Syntax(text)) => Err(Failure::bad_request(text)),
    }
}
