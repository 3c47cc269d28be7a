//! OpenAPI v3 documents, which kubectl needs to create, apply, edit, replace and explain.

use crate::discovery::Resource;
use serde_json::Value;

/// A resource and its `openAPIV3Schema`.
#[derive(Debug, Clone)]
pub struct Described {
    /// Names and verbs.
    pub resource: Resource,
    /// The schema of the whole object.
    pub schema: Value,
}

/// The documents, made once at start.
#[derive(Debug)]
pub struct Documents {}

/// One group version's document.
#[derive(Debug)]
pub struct Document {
    /// JSON text.
    pub body: String,
    /// Of the body: the value of `?hash=` and of the `ETag`.
    pub hash: String,
}

impl Documents {
    /// Makes the documents of all kinds.
    pub fn new(_kinds: &[Described]) -> Self {
        Self {}
    }

    /// `GET /openapi/v3`.
    pub fn index(&self) -> Value {
        Value::Null
    }

    /// `GET /openapi/v3/<path>`, path being `api/v1` or `apis/<group>/<version>`.
    pub fn get(&self, _path: &str) -> Option<&Document> {
        None
    }
}

/// The structural schema of a core kind that we serve: Namespace, Secret, ConfigMap, Event (core and
/// events.k8s.io, as `group`), Lease.
pub fn core_schema(_group: &str, _kind: &str) -> Option<Value> {
    None
}

/// `GET /openapi/v2` with `Accept` [`V2_MEDIA_TYPE`]: a document without models. Clients that insist on the old
/// format find one and nothing in it.
pub const V2_DOCUMENT: &[u8] = b"";
/// The only media type of [`V2_DOCUMENT`].
pub const V2_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
