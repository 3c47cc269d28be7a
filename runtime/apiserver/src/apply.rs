//! Server-side apply and `metadata.managedFields`: who owns which field.

use crate::schema::Schema;
use jiff::Timestamp;
use serde_json::Value;

/// A field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The other manager.
    pub manager: String,
    /// For example `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 409, with one cause of reason `FieldManagerConflict` for each.
    #[error("Apply failed with {} conflict(s)", .0.len())]
    Conflicts(Vec<Conflict>),
    /// 400.
    #[error("{0}")]
    Invalid(String),
}

/// Who writes, where, when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The query parameter `fieldManager`.
    pub manager: &'a str,
    /// `status`, or empty for the main endpoint.
    pub subresource: &'a str,
    /// Of the endpoint, for example `skysail.dev/v1alpha1`.
    pub api_version: &'a str,
    /// When.
    pub now: Timestamp,
}

/// Applies a manifest to the live object (`None`: creates it). The result has its `managedFields`.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    _writer: Writer<'_>,
    _force: bool,
    _schema: &Schema,
) -> Result<Value, Error> {
    Ok(live.unwrap_or(applied).clone())
}

/// Records in `new`'s `managedFields` what an update (PUT, or any other patch) changed since `old`.
pub fn track_update(_old: Option<&Value>, _new: &mut Value, _writer: Writer<'_>, _schema: &Schema) {
}
