//! Kubernetes' protobuf request bodies, decoded to JSON. kubectl sends some core kinds only this way.
//!
//! The messages are data: a table of fields per message, from Kubernetes' `generated.proto` files. Go's encoder
//! writes empty strings, zeros and empty messages for what is absent; they are dropped, except where the field is
//! a pointer in Go, for which being there says something.

mod fields;
mod wire;

use serde_json::Value;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

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

/// Decodes a body (`k8s\0`, then `runtime.Unknown`) to the JSON that the client could have sent, with `apiVersion`
/// and `kind`.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let malformed = |why: String| Error::Malformed(why);
    let unknown = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| malformed("it does not begin with k8s\\0".into()))?;
    let (mut type_meta, mut raw): (&[u8], &[u8]) = (&[], &[]);
    for field in wire::Fields(unknown) {
        match field.map_err(malformed)? {
            (1, wire::Content::Bytes(bytes)) => type_meta = bytes,
            (2, wire::Content::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let type_meta = wire::message(type_meta, fields::TYPE_META, 0).map_err(malformed)?;
    let text = |field: &str| {
        type_meta
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let fields = fields::of(&api_version, &kind)
        .ok_or_else(|| Error::Unsupported(format!("{api_version}, Kind={kind}")))?;
    let mut object = wire::message(raw, fields, 0).map_err(malformed)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests;
