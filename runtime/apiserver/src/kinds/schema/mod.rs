//! Structural schemas (OpenAPI v3 as CRDs have them): pruning, defaulting and checking of JSON objects.
//!
//! A write uses them in Kubernetes' order: [`Schema::prune`], [`Schema::default`], [`Schema::check`].
//! A schema with a keyword that is not understood does not compile: no rule is ever silently ignored.

mod check;
mod default;
mod format;
mod node;
mod prune;
#[cfg(test)]
mod tests;

pub(crate) use node::{ListType, Node};

use super::core_schemas::object_meta;
use serde_json::Value;
use skysail_schemas::validate::{Errors, FieldError};

/// A schema, compiled once per kind.
#[derive(Debug)]
pub struct Schema {
    pub(crate) root: Node,
}

/// A schema that cannot be compiled: a mistake of ours, found by the tests.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("schema at {path}: {message}")]
pub struct CompileError {
    /// Where in the schema.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl Schema {
    /// Compiles the `openAPIV3Schema` of a whole object. `apiVersion`, `kind` and `metadata` are added at its root.
    pub fn compile(schema: &Value) -> Result<Self, CompileError> {
        let mut schema = schema.clone();
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("apiVersion".into(), serde_json::json!({"type": "string"}));
            properties.insert("kind".into(), serde_json::json!({"type": "string"}));
            properties.insert("metadata".into(), object_meta());
        }
        Ok(Self {
            root: Node::compile(&schema, "")?,
        })
    }

    /// Removes fields that the schema does not know and returns their paths, such as `spec.networks[0].foo`.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        prune::prune(&self.root, object, &mut Path::default(), &mut unknown);
        unknown
    }

    /// Fills in defaults. A `null` where none is allowed becomes the default, or goes where there is none.
    pub fn default(&self, object: &mut Value) {
        default::default(&self.root, object);
    }

    /// Every disagreement between the object and the schema.
    pub fn check(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Errors::default();
        check::check(&self.root, object, &mut Path::default(), &mut errors);
        errors.0
    }
}

/// A field path as Kubernetes prints it: `spec.networks[0].name`, `metadata.labels[app]`.
#[derive(Debug, Default)]
pub(crate) struct Path(String);

impl Path {
    fn within<R>(&mut self, step: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.0.len();
        self.0.push_str(step);
        let result = f(self);
        self.0.truncate(length);
        result
    }

    pub(crate) fn field<R>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        if self.0.is_empty() {
            self.within(name, f)
        } else {
            self.within(&format!(".{name}"), f)
        }
    }

    pub(crate) fn index<R>(&mut self, index: usize, f: impl FnOnce(&mut Self) -> R) -> R {
        self.within(&format!("[{index}]"), f)
    }

    pub(crate) fn key<R>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> R) -> R {
        self.within(&format!("[{key}]"), f)
    }

    pub(crate) fn text(&self) -> String {
        self.0.clone()
    }
}
