//! The table of served kinds: the only place that lists them.
//!
//! Everything else in this crate (paths, discovery, OpenAPI, tables, validation,
//! storage) is one generic handler over this table. Skysail's own kinds come from
//! their CRDs ([`custom`]), the few core kinds from `k8s-openapi` ([`core`]); beside
//! the rows stand the rules that they refer to: schemas, metadata, the two views of
//! Events. Needs only [`crate::table`], for what `kubectl get` shows of a kind.

pub(crate) mod core;
mod core_schemas;
mod custom;
pub(crate) mod events;
mod kind;
pub(crate) mod metadata;
pub(crate) mod schema;

#[cfg(test)]
pub(crate) use core_schemas::core_schema;
pub(crate) use core_schemas::{list_meta, object_meta};
pub(crate) use kind::{Kind, Origin, ScalePaths, VERBS};

use schema::CompileError;
use std::collections::HashMap;

/// Every served kind.
pub struct Kinds {
    all: Vec<Kind>,
    by_path: HashMap<(String, String, String), usize>,
}

impl Kinds {
    /// Builds the table. Fails if a schema cannot be compiled, which is a mistake in the kind's type.
    pub fn new() -> Result<Self, CompileError> {
        let mut all = core::all()?;
        all.extend(custom::all()?);
        let path = |k: &Kind| (k.group.clone(), k.version.clone(), k.plural.clone());
        let by_path = all.iter().enumerate().map(|(i, k)| (path(k), i)).collect();
        Ok(Self { all, by_path })
    }

    /// All kinds: core first, then ours in reading order.
    pub fn all(&self) -> &[Kind] {
        &self.all
    }

    /// By the parts of a request path.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Kind> {
        self.index(group, version, resource).map(|i| &self.all[i])
    }

    /// Like [`Kinds::find`], as a position in [`Kinds::all`].
    pub fn index(&self, group: &str, version: &str, resource: &str) -> Option<usize> {
        self.by_path
            .get(&(group.into(), version.into(), resource.into()))
            .copied()
    }

    /// By apiVersion and kind, as owner references have them.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.all
            .iter()
            .find(|k| k.kind == kind && k.api_version() == api_version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_path_of_its_own_and_a_schema() {
        let kinds = Kinds::new().expect("compiles");
        assert_eq!(kinds.by_path.len(), kinds.all().len());
        assert_eq!(
            kinds
                .find("skysail.dev", "v1alpha1", "ports")
                .expect("ports")
                .selectable[0],
            "spec.vni"
        );
    }
}
