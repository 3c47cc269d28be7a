//! The table of served kinds: the only place that lists them.
//!
//! Everything else in this crate (paths, discovery, OpenAPI, tables, validation,
//! storage) is one generic handler over this table. Skysail's own kinds come from
//! their CRDs, the few core kinds from `k8s-openapi`.

use crate::core_kinds;
use crate::schema::{CompileError, Schema};
use crate::table::Columns;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use skysail_schemas::validate::FieldError;
use std::collections::HashMap;

/// What a request may do with a whole resource; subresources have `get`, `patch` and `update`.
pub const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// Where `/scale` finds its numbers, as dotted paths with a leading dot.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalePaths {
    /// Wanted replicas.
    pub spec: String,
    /// Actual replicas.
    pub status: String,
    /// Label selector in text form, if the kind has one.
    pub selector: Option<String>,
}

/// Where a kind comes from; a few rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A CustomResourceDefinition: generation, structural schema, no strategic merge, unconditional update forbidden.
    Custom,
    /// Built into Kubernetes.
    Core,
}

/// One served kind.
pub struct Kind {
    /// API group; empty for the legacy core group.
    pub group: String,
    /// Version, for example `v1alpha1`.
    pub version: String,
    /// Resource in paths: `containers`.
    pub plural: String,
    /// `container`.
    pub singular: String,
    /// `Container`.
    pub kind: String,
    /// `ct`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `/status` subresource.
    pub status: bool,
    /// The `/scale` subresource.
    pub scale: Option<ScalePaths>,
    /// Further GET/POST subresources served elsewhere: (name, verbs), shown in discovery.
    pub subresources: Vec<(&'static str, &'static [&'static str])>,
    /// The structural schema as it is published.
    pub open_api: Value,
    /// The same, compiled.
    pub schema: Schema,
    /// What `kubectl get` shows.
    pub columns: Columns,
    /// Field paths usable in selectors beside `metadata.name` and `metadata.namespace`, without the leading dot.
    pub selectable: Vec<String>,
    /// CRD or built in.
    pub origin: Origin,
    /// Group and resource under which objects are stored; Events of both groups share one.
    pub stored: (String, String),
    /// Mistakes that no schema can say.
    pub validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
}

impl Kind {
    /// `skysail.dev/v1alpha1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `containers.skysail.dev`, `secrets`: as messages name it.
    pub fn qualified_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Container.skysail.dev`, `Secret`.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.clone()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// Store prefix of all objects, ending with `/`.
    pub fn prefix(&self) -> String {
        format!("/skysail/{}/{}/", self.stored.0, self.stored.1)
    }

    /// Store key of one object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let prefix = self.prefix();
        if self.namespaced {
            format!("{prefix}{namespace}/{name}")
        } else {
            format!("{prefix}{name}")
        }
    }

    /// Whether this is the `events.k8s.io` view of the stored core Events.
    pub fn is_new_event(&self) -> bool {
        self.group == "events.k8s.io"
    }

    /// Whether `metadata.generation` is kept.
    pub fn has_generation(&self) -> bool {
        self.origin == Origin::Custom
    }
}

/// Every served kind.
pub struct Kinds {
    all: Vec<Kind>,
    by_path: HashMap<(String, String, String), usize>,
}

impl Kinds {
    /// Builds the table. Fails if a schema cannot be compiled, which is a mistake in the kind's type.
    pub fn new() -> Result<Self, CompileError> {
        let mut all = core_kinds::all()?;
        for kind in skysail_schemas::kinds::all() {
            all.extend(from_crd(&kind.crd, kind.validate)?);
        }
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

    /// Groups and their versions in order of first appearance; the legacy core group is "".
    pub fn groups(&self) -> Vec<(&str, &str)> {
        let mut groups: Vec<(&str, &str)> = Vec::new();
        for k in &self.all {
            if !groups.contains(&(k.group.as_str(), k.version.as_str())) {
                groups.push((&k.group, &k.version));
            }
        }
        groups
    }

    /// Kinds of one group and version.
    pub fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &Kind> {
        self.all
            .iter()
            .filter(move |k| k.group == group && k.version == version)
    }
}

/// The row of a CRD's stored version; `None` if it stores none.
fn from_crd(
    crd: &CustomResourceDefinition,
    validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
) -> Result<Option<Kind>, CompileError> {
    let (spec, names) = (&crd.spec, &crd.spec.names);
    let Some(version) = spec.versions.iter().find(|v| v.storage) else {
        return Ok(None);
    };
    let schema = version
        .schema
        .as_ref()
        .and_then(|s| s.open_api_v3_schema.as_ref());
    let open_api = schema
        .and_then(|s| serde_json::to_value(s).ok())
        .unwrap_or_else(|| json!({"type": "object"}));
    let columns = serde_json::to_value(&version.additional_printer_columns).unwrap_or_default();
    let subresources = version.subresources.as_ref();
    let scale = subresources
        .and_then(|s| s.scale.as_ref())
        .map(|s| ScalePaths {
            spec: s.spec_replicas_path.clone(),
            status: s.status_replicas_path.clone(),
            selector: s.label_selector_path.clone(),
        });
    let selectable = version.selectable_fields.iter().flatten();
    Ok(Some(Kind {
        group: spec.group.clone(),
        version: version.name.clone(),
        plural: names.plural.clone(),
        singular: names
            .singular
            .clone()
            .unwrap_or_else(|| names.kind.to_lowercase()),
        kind: names.kind.clone(),
        short_names: names.short_names.clone().unwrap_or_default(),
        categories: names.categories.clone().unwrap_or_default(),
        namespaced: spec.scope == "Namespaced",
        status: subresources.is_some_and(|s| s.status.is_some()),
        scale,
        subresources: extra_subresources(&names.plural),
        schema: Schema::compile(&open_api)?,
        open_api,
        columns: Columns::from_crd(&columns),
        selectable: selectable
            .map(|f| f.json_path.trim_start_matches('.').to_owned())
            .collect(),
        origin: Origin::Custom,
        stored: (spec.group.clone(), names.plural.clone()),
        validate,
    }))
}

/// Subresources that are no views of the object: transfers and sessions.
fn extra_subresources(plural: &str) -> Vec<(&'static str, &'static [&'static str])> {
    match plural {
        "images" => vec![("blob", &["get"])],
        "hosts" => vec![("credential", &["create"]), ("sessions", &["get"])],
        "containers" => vec![
            ("exec", &["create", "get"]),
            ("console", &["create", "get"]),
            ("log", &["get"]),
            ("files", &["get", "update"]),
        ],
        _ => Vec::new(),
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
