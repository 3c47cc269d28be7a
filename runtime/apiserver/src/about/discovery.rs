//! Discovery documents: what is served, in the old form (one document per group version) and the aggregated one.

use serde_json::{Value, json};
use std::collections::BTreeMap;

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
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    })
}

/// `GET /apis`.
pub fn api_group_list(resources: &[Resource]) -> Value {
    let groups: Vec<_> = groups(resources)
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .collect();
    let groups: Vec<_> = groups
        .iter()
        .map(|(group, versions)| group_entry(group, versions.keys()))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/<group>`; `None` if nothing of the group is served.
pub fn api_group(resources: &[Resource], group: &str) -> Option<Value> {
    let groups = groups(resources);
    let versions = groups.get(group).filter(|_| !group.is_empty())?;
    let mut entry = group_entry(group, versions.keys());
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

/// `GET /api/v1` (group `""`) and `GET /apis/<group>/<version>`; `None` if nothing of it is served.
pub fn api_resource_list(resources: &[Resource], group: &str, version: &str) -> Option<Value> {
    let groups = groups(resources);
    let served = groups.get(group)?.get(version)?;
    let mut entries = Vec::new();
    for resource in served {
        entries.push(compact(json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": resource.verbs,
            "shortNames": resource.short_names,
            "categories": resource.categories,
        })));
        for sub in &resource.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if (&sub.group, &sub.version) != (&resource.group, &resource.version) {
                entry["group"] = sub.group.as_str().into();
                entry["version"] = sub.version.as_str().into();
            }
            entries.push(entry);
        }
    }
    let group_version = group_version(group, version);
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}),
    )
}

/// `GET /api` (`core`) and `GET /apis` in the aggregated form. `version` is `v2` or `v2beta1`.
pub fn aggregated(resources: &[Resource], core: bool, version: &str) -> Value {
    let items: Vec<_> = groups(resources)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .into_iter()
                .map(|(version, resources)| {
                    let resources: Vec<_> =
                        resources.into_iter().map(aggregated_resource).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let metadata = if core {
                json!({})
            } else {
                json!({"name": group})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let subresources: Vec<_> = resource
        .subresources
        .iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sub.verbs,
            })
        })
        .collect();
    compact(json!({
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
        "shortNames": resource.short_names,
        "categories": resource.categories,
        "subresources": subresources,
    }))
}

type Versions<'a> = BTreeMap<&'a str, Vec<&'a Resource>>;

/// Group → version → resources, in a stable order.
fn groups(resources: &[Resource]) -> BTreeMap<&str, Versions<'_>> {
    let mut groups: BTreeMap<&str, Versions<'_>> = BTreeMap::new();
    for resource in resources {
        let versions = groups.entry(&resource.group).or_default();
        versions
            .entry(&resource.version)
            .or_default()
            .push(resource);
    }
    groups
}

fn group_entry<'a>(group: &str, versions: impl Iterator<Item = &'a &'a str>) -> Value {
    let versions: Vec<_> = versions
        .map(|v| json!({"groupVersion": group_version(group, v), "version": v}))
        .collect();
    json!({"name": group, "preferredVersion": versions.last(), "versions": versions})
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Without empty lists.
fn compact(mut entry: Value) -> Value {
    if let Some(fields) = entry.as_object_mut() {
        fields.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    fn resources() -> Vec<Resource> {
        let sub = |name: &str, group: &str, version: &str, kind: &str| Subresource {
            name: name.into(),
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            verbs: words(&["get", "patch", "update"]),
        };
        let set = Resource {
            group: "skysail.dev".into(),
            version: "v1alpha1".into(),
            kind: "ContainerSet".into(),
            plural: "containersets".into(),
            singular: "containerset".into(),
            short_names: words(&["cs"]),
            categories: words(&["all"]),
            namespaced: true,
            verbs: words(&["get", "list"]),
            subresources: vec![
                sub("status", "skysail.dev", "v1alpha1", "ContainerSet"),
                sub("scale", "autoscaling", "v1", "Scale"),
            ],
        };
        let namespace = Resource {
            group: String::new(),
            version: "v1".into(),
            kind: "Namespace".into(),
            plural: "namespaces".into(),
            singular: "namespace".into(),
            short_names: words(&["ns"]),
            categories: Vec::new(),
            namespaced: false,
            verbs: words(&["get"]),
            subresources: Vec::new(),
        };
        vec![set, namespace]
    }

    #[test]
    fn the_core_group_is_only_below_api() {
        let resources = resources();
        let groups = api_group_list(&resources);
        assert_eq!(groups["groups"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            groups["groups"][0]["preferredVersion"]["groupVersion"],
            "skysail.dev/v1alpha1"
        );
        assert_eq!(api_group(&resources, ""), None);
        assert_eq!(
            api_group(&resources, "skysail.dev").expect("served")["kind"],
            "APIGroup"
        );
        assert_eq!(
            api_resource_list(&resources, "", "v1").expect("served")["groupVersion"],
            "v1"
        );
        assert_eq!(api_resource_list(&resources, "", "v2"), None);
    }

    #[test]
    fn a_subresource_of_another_group_says_so() {
        let list = api_resource_list(&resources(), "skysail.dev", "v1alpha1").expect("served");
        let resources = &list["resources"];
        assert_eq!(resources[0]["shortNames"], json!(["cs"]));
        assert_eq!(resources[1]["name"], "containersets/status");
        assert_eq!(resources[1].get("group"), None);
        assert_eq!(resources[2]["name"], "containersets/scale");
        assert_eq!(
            (&resources[2]["group"], &resources[2]["kind"]),
            (&json!("autoscaling"), &json!("Scale"))
        );
    }

    #[test]
    fn the_aggregated_form_says_the_same() {
        let resources = resources();
        let ours = aggregated(&resources, false, "v2");
        assert_eq!(ours["apiVersion"], "apidiscovery.k8s.io/v2");
        assert_eq!(ours["items"][0]["metadata"]["name"], "skysail.dev");
        let set = &ours["items"][0]["versions"][0]["resources"][0];
        assert_eq!(
            (&set["scope"], &set["resource"]),
            (&json!("Namespaced"), &json!("containersets"))
        );
        assert_eq!(set["subresources"][1]["responseKind"]["kind"], "Scale");
        let core = aggregated(&resources, true, "v2beta1");
        assert_eq!(core["items"][0]["metadata"], json!({}));
        assert_eq!(
            core["items"][0]["versions"][0]["resources"][0]["scope"],
            "Cluster"
        );
    }
}
