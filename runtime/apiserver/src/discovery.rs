//! Discovery documents: what is served, in the old form (one document per group version) and the aggregated one.

use serde_json::Value;

/// One served resource, as discovery and OpenAPI describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// For example `v1alpha1`.
    pub version: String,
    /// For example `Container`.
    pub kind: String,
    /// For example `containers`: the word in URLs.
    pub plural: String,
    /// For example `container`.
    pub singular: String,
    /// For example `ct`.
    pub short_names: Vec<String>,
    /// For example `all`.
    pub categories: Vec<String>,
    /// Or for the whole cluster.
    pub namespaced: bool,
    /// For example `get`, `list`, `watch`.
    pub verbs: Vec<String>,
    /// For example `status`.
    pub subresources: Vec<Subresource>,
}

/// One subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// For example `status`, `scale`.
    pub name: String,
    /// Of what is read and written there: the resource's own, or `autoscaling` for `scale`.
    pub group: String,
    /// Its version.
    pub version: String,
    /// Its kind.
    pub kind: String,
    /// For example `get`, `patch`, `update`.
    pub verbs: Vec<String>,
}

/// The media type of aggregated discovery, to be asked for in `Accept` and answered as `Content-Type`.
pub const AGGREGATED_V2: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The same of the older version.
pub const AGGREGATED_V2BETA1: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// `GET /api`.
pub fn api_versions() -> Value {
    Value::Null
}

/// `GET /apis`.
pub fn api_group_list(_resources: &[Resource]) -> Value {
    Value::Null
}

/// `GET /apis/<group>`; `None` if nothing of the group is served.
pub fn api_group(_resources: &[Resource], _group: &str) -> Option<Value> {
    None
}

/// `GET /api/v1` (group `""`) and `GET /apis/<group>/<version>`; `None` if nothing of it is served.
pub fn api_resource_list(_resources: &[Resource], _group: &str, _version: &str) -> Option<Value> {
    None
}

/// `GET /api` (`core`) and `GET /apis` in the aggregated form. `version` is `v2` or `v2beta1`.
pub fn aggregated(_resources: &[Resource], _core: bool, _version: &str) -> Value {
    Value::Null
}
