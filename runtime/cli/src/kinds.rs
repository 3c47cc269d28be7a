//! Which kinds the server has, under every name that people give them.

use crate::refusal::explain;
use crate::request::escaped;
use anyhow::{Context, Result, anyhow, bail};
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;

/// A kind that the server serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    /// Group, version, kind and plural.
    pub resource: ApiResource,
    /// For example `container`.
    pub singular: String,
    /// For example `ct`.
    pub short: Vec<String>,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Whether it has a status of its own, with conditions.
    pub has_status: bool,
    /// Whether its objects are kept: they can be listed and deleted, other than answers such as an access review.
    pub is_kept: bool,
}

impl Kind {
    /// Path of its collection (all namespaces for `None`), or of one object.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let ApiResource {
            group,
            api_version,
            plural,
            ..
        } = &self.resource;
        let root = if group.is_empty() { "api" } else { "apis" };
        let namespace = namespace
            .filter(|_| self.namespaced)
            .map(|n| format!("namespaces/{}/", escaped(n)))
            .unwrap_or_default();
        let name = name.map(|n| format!("/{}", escaped(n))).unwrap_or_default();
        format!("/{root}/{api_version}/{namespace}{plural}{name}")
    }

    /// One of its objects, as people write it.
    pub fn object(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{}/{name} -n {namespace}", self.resource.plural),
            None => format!("{}/{name}", self.resource.plural),
        }
    }

    /// kube's way to the objects.
    pub fn api(&self, client: &kube::Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }

    fn answers(&self, word: &str) -> bool {
        let ApiResource {
            group,
            version,
            plural,
            kind,
            ..
        } = &self.resource;
        let word = word.to_ascii_lowercase();
        let (name, suffix) = word
            .split_once('.')
            .map_or((word.as_str(), None), |(name, suffix)| (name, Some(suffix)));
        let named = name == plural
            || name == self.singular
            || name == kind.to_ascii_lowercase()
            || self.short.iter().any(|s| s == name);
        named && suffix.is_none_or(|s| s == group || s == format!("{version}.{group}"))
    }
}

/// All kinds, in the server's order of preference.
#[derive(Debug, Clone, PartialEq)]
pub struct Kinds(Vec<Kind>);

impl Kinds {
    /// Asks the server.
    ///
    /// # Errors
    /// When it cannot be reached or does not say.
    pub async fn discover(client: &kube::Client) -> Result<Self> {
        let asking = |e| explain(e, "asking the server which kinds it has");
        let core = client
            .list_core_api_versions_aggregated()
            .await
            .map_err(asking)?;
        let groups = client.list_api_groups_aggregated().await.map_err(asking)?;
        let mut kinds = vec![];
        for group in core.items.iter().chain(&groups.items) {
            let name = group
                .metadata
                .as_ref()
                .and_then(|m| m.name.clone())
                .unwrap_or_default();
            // The first version is the one that the server prefers.
            let Some(version) = group.versions.first() else {
                continue;
            };
            let number = version.version.clone().unwrap_or_default();
            for found in &version.resources {
                let Some(plural) = found.resource.clone() else {
                    continue;
                };
                let kind = found
                    .response_kind
                    .as_ref()
                    .and_then(|k| k.kind.clone())
                    .unwrap_or_default();
                let api_version = if name.is_empty() {
                    number.clone()
                } else {
                    format!("{name}/{number}")
                };
                kinds.push(Kind {
                    resource: ApiResource {
                        group: name.clone(),
                        version: number.clone(),
                        api_version,
                        kind,
                        plural,
                    },
                    singular: found.singular_resource.clone().unwrap_or_default(),
                    short: found.short_names.clone(),
                    namespaced: found.scope.as_deref() == Some("Namespaced"),
                    is_kept: ["list", "delete"]
                        .iter()
                        .all(|verb| found.verbs.iter().any(|v| v == verb)),
                    has_status: found
                        .subresources
                        .iter()
                        .any(|s| s.subresource.as_deref() == Some("status")),
                });
            }
        }
        Ok(Self(kinds))
    }

    /// The kind of this plural, singular, short or kind name, alone or with its group (`hosts.skysail.dev`).
    ///
    /// # Errors
    /// With the names that there are.
    pub fn find(&self, word: &str) -> Result<&Kind> {
        self.0.iter().find(|k| k.answers(word)).ok_or_else(|| {
            let ours: Vec<_> = self.0.iter().map(|k| k.resource.plural.as_str()).collect();
            anyhow!(
                "{word:?}: the server has no such kind; it has {}",
                ours.join(", ")
            )
        })
    }

    /// Every one.
    pub fn all(&self) -> &[Kind] {
        &self.0
    }

    /// The kind of a manifest.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.0
            .iter()
            .find(|k| k.resource.api_version == api_version && k.resource.kind == kind)
    }

    /// The kinds and names that words like `hosts,clouds`, `host h1 h2` or `host/h1 cloud/a` mean. No names: all objects.
    ///
    /// # Errors
    /// When a kind is unknown, or the two forms are mixed.
    pub fn select(&self, words: &[String]) -> Result<Vec<(&Kind, Vec<String>)>> {
        let first = words.first().context("which kind? For example: hosts")?;
        if words.iter().any(|w| w.contains('/')) {
            let mut found: Vec<(&Kind, Vec<String>)> = vec![];
            for word in words {
                let (kind, name) = word
                    .split_once('/')
                    .filter(|(k, n)| !k.is_empty() && !n.is_empty() && !n.contains('/'))
                    .ok_or_else(|| anyhow!("{word:?}: write KIND NAME… or KIND/NAME…, not both"))?;
                let kind = self.find(kind)?;
                match found.last_mut() {
                    Some((last, names)) if *last == kind => names.push(name.to_owned()),
                    _ => found.push((kind, vec![name.to_owned()])),
                }
            }
            return Ok(found);
        }
        let kinds = first
            .split(',')
            .filter(|w| !w.is_empty())
            .map(|w| self.find(w))
            .collect::<Result<Vec<_>>>()?;
        if let Some(name) = words[1..].iter().find(|n| n.is_empty()) {
            bail!("{name:?}: is not a name");
        }
        Ok(kinds
            .into_iter()
            .map(|k| (k, words[1..].to_vec()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Kinds {
        let kind = |group: &str, version: &str, kind: &str, short: &str| Kind {
            resource: ApiResource {
                group: group.into(),
                version: version.into(),
                api_version: if group.is_empty() {
                    version.into()
                } else {
                    format!("{group}/{version}")
                },
                kind: kind.into(),
                plural: format!("{}s", kind.to_lowercase()),
            },
            singular: kind.to_lowercase(),
            short: vec![short.into()],
            namespaced: kind != "Host",
            has_status: true,
            is_kept: true,
        };
        Kinds(vec![
            kind("", "v1", "Event", "ev"),
            kind("events.k8s.io", "v1", "Event", "ev"),
            kind("skysail.dev", "v1alpha1", "Host", "ho"),
        ])
    }

    #[test]
    fn a_kind_answers_to_all_its_names() {
        let kinds = kinds();
        for word in [
            "hosts",
            "host",
            "Host",
            "ho",
            "hosts.skysail.dev",
            "host.v1alpha1.skysail.dev",
        ] {
            assert_eq!(kinds.find(word).unwrap().resource.kind, "Host", "{word}");
        }
        assert_eq!(kinds.find("ev").unwrap().resource.group, "");
        assert_eq!(
            kinds.find("events.events.k8s.io").unwrap().resource.group,
            "events.k8s.io"
        );
        assert!(
            kinds
                .find("pods")
                .unwrap_err()
                .to_string()
                .contains("it has events")
        );
    }

    #[test]
    fn objects_are_named_by_kind_and_name_or_by_pairs() {
        let kinds = kinds();
        let select = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            kinds.select(&words).map(|found| {
                found
                    .into_iter()
                    .map(|(k, n)| format!("{} {}", k.singular, n.join(" ")))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(select(&["ho,ev"]).unwrap(), ["host ", "event "]);
        assert_eq!(select(&["ho", "a", "b"]).unwrap(), ["host a b"]);
        assert_eq!(
            select(&["ho/a", "host/b", "ev/c"]).unwrap(),
            ["host a b", "event c"]
        );
        assert!(
            select(&["ho/a", "b"]).is_err() && select(&[]).is_err() && select(&["ho/a/b"]).is_err()
        );
    }

    #[test]
    fn paths_have_the_namespace_only_where_the_kind_has() {
        let kinds = kinds();
        assert_eq!(
            kinds.find("ho").unwrap().path(Some("a"), Some("h")),
            "/apis/skysail.dev/v1alpha1/hosts/h"
        );
        assert_eq!(
            kinds.find("ev").unwrap().path(Some("a"), None),
            "/api/v1/namespaces/a/events"
        );
    }
}
