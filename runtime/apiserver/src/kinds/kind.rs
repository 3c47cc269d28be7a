//! One served kind: its names, where its objects are stored, and the rules that differ from kind to kind.

use super::schema::Schema;
use crate::table::Columns;
use serde_json::Value;
use skysail_schemas::validate::FieldError;

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
