//! Label and field selectors of lists and watches.

use serde_json::Value;

/// A selector that cannot be used: 400, with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// `app=web,tier in (a,b),!canary`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {}

impl LabelSelector {
    /// Parses the query parameter `labelSelector`; empty matches everything.
    pub fn parse(_text: &str) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Matches everything?
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Does an object match, by its `metadata.labels`?
    pub fn matches(&self, _object: &Value) -> bool {
        true
    }
}

/// `status.host=h1,metadata.name!=x`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl FieldSelector {
    /// Parses the query parameter `fieldSelector`; empty matches everything. `supported` lists the kind's own
    /// paths (`status.host`); `metadata.name` and `metadata.namespace` always are.
    pub fn parse(_text: &str, _supported: &[&str]) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Matches everything?
    pub fn is_empty(&self) -> bool {
        true
    }

    /// The value that a path must equal, if the selector says so.
    pub fn exact(&self, _path: &str) -> Option<&str> {
        None
    }

    /// Does an object match?
    pub fn matches(&self, _object: &Value) -> bool {
        true
    }
}
