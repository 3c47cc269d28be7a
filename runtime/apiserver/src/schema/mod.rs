//! Structural schemas (OpenAPI v3 as CRDs have them): pruning, defaulting and checking of JSON objects.
//!
//! The order in which a write uses them is Kubernetes': [`Schema::prune`], [`Schema::default`], [`Schema::check`].

use serde_json::Value;
use skysail_schemas::validate::FieldError;

/// A schema, compiled once per kind.
#[derive(Debug)]
pub struct Schema {}

/// A schema that cannot be compiled: a mistake of ours, found by the tests.
#[derive(Debug, thiserror::Error)]
#[error("schema at {path}: {message}")]
pub struct CompileError {
    /// Where in the schema.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl Schema {
    /// Compiles the `openAPIV3Schema` of a whole object. `apiVersion`, `kind` and `metadata` are added at its root.
    pub fn compile(_schema: &Value) -> Result<Self, CompileError> {
        Ok(Self {})
    }

    /// Removes fields that the schema does not know and returns their paths, such as `spec.networks[0].foo`.
    pub fn prune(&self, _object: &mut Value) -> Vec<String> {
        Vec::new()
    }

    /// Fills in defaults. A `null` where none is allowed becomes the default, or goes where there is none.
    pub fn default(&self, _object: &mut Value) {}

    /// Every disagreement between the object and the schema.
    pub fn check(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }
}
