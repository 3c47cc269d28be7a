//! The path of a request, resolved against the table of kinds: which verb of which object is called.

use super::query::{Query, is_true, percent_decode};
use crate::answer::Failure;
use crate::kinds::{Kind, Kinds};
use http::Method;

/// One call on a served kind.
#[derive(Clone)]
pub struct Call<'a> {
    /// What is asked about.
    pub kind: &'a Kind,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// Empty for cluster scope or all namespaces.
    pub namespace: &'a str,
    /// Empty for collections.
    pub name: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// What comes after the subresource in the path, without a leading slash.
    pub rest: String,
    pub(crate) query: &'a Query,
}

impl Call<'_> {
    /// The store prefix of what a call covers.
    pub(crate) fn prefix(&self) -> String {
        let prefix = self.kind.prefix();
        if self.namespace.is_empty() {
            prefix
        } else {
            format!("{prefix}{}/", self.namespace)
        }
    }

    /// Refuses subresources that the kind does not have.
    pub(crate) fn check_subresource(&self) -> Result<(), Failure> {
        let exists = match self.subresource {
            "" => true,
            "status" => self.kind.status,
            "scale" => self.kind.scale.is_some(),
            "finalize" => self.kind.plural == "namespaces",
            _ => false,
        };
        if exists && self.rest.is_empty() {
            Ok(())
        } else {
            Err(Failure::no_such_path())
        }
    }
}

/// The parts of a resource path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Path {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    pub rest: String,
    /// Whether the path has `/namespaces/<ns>/` before the resource.
    pub in_namespace: bool,
}

impl Path {
    /// Splits `/api/v1/…` and `/apis/<group>/<version>/…`; `None` if it names no resource.
    pub(crate) fn parse(path: &str) -> Result<Option<Self>, Failure> {
        let mut parts = Vec::new();
        for part in path.trim_matches('/').split('/') {
            parts.push(percent_decode(part, false)?);
        }
        let take = |from: usize| parts.get(from).cloned().unwrap_or_default();
        let (group, version, start) = match parts.first().map(String::as_str) {
            Some("api") if parts.len() > 2 => (String::new(), take(1), 2),
            Some("apis") if parts.len() > 3 => (take(1), take(2), 3),
            _ => return Ok(None),
        };
        // "/namespaces/<ns>/<resource>", but "/namespaces/<ns>/status" is the namespace itself.
        let own = matches!(
            parts.get(start + 2).map(String::as_str),
            None | Some("status" | "finalize")
        );
        let in_namespace = parts[start] == "namespaces" && !own;
        let at = if in_namespace { start + 2 } else { start };
        Ok(Some(Self {
            group,
            version,
            namespace: if in_namespace {
                take(start + 1)
            } else {
                String::new()
            },
            resource: take(at),
            name: take(at + 1),
            subresource: take(at + 2),
            rest: parts.get(at + 3..).unwrap_or_default().join("/"),
            in_namespace,
        }))
    }

    /// Resolves the path against the table. 404 for unknown resources, 405 for methods that make no sense.
    pub(crate) fn call<'a>(
        &'a self,
        kinds: &'a Kinds,
        method: &Method,
        query: &'a Query,
    ) -> Result<Call<'a>, Failure> {
        let kind = kinds
            .find(&self.group, &self.version, &self.resource)
            .ok_or_else(Failure::no_such_path)?;
        let scoped_right =
            kind.namespaced == self.in_namespace || (kind.namespaced && self.name.is_empty());
        if !scoped_right || (self.in_namespace && self.namespace.is_empty()) {
            return Err(Failure::no_such_path());
        }
        let watching = is_true(query.watch.as_deref());
        let verb = match (method.as_str(), self.name.is_empty()) {
            ("GET" | "HEAD", true) if watching => "watch",
            ("GET" | "HEAD", true) => "list",
            ("GET" | "HEAD", false) => "get",
            ("POST", _) => "create",
            ("PUT", false) => "update",
            ("PATCH", false) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            _ => return Err(Failure::method_not_allowed()),
        };
        Ok(Call {
            kind,
            verb,
            namespace: &self.namespace,
            name: &self.name,
            subresource: &self.subresource,
            rest: self.rest.clone(),
            query,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_namespaced_objects_subresources_and_namespaces_themselves() {
        let p = |s| Path::parse(s).expect("parses").expect("a resource");
        let c = p("/apis/skysail.dev/v1alpha1/namespaces/acme/containers/db/status");
        assert_eq!(
            (
                c.namespace.as_str(),
                c.resource.as_str(),
                c.name.as_str(),
                c.subresource.as_str()
            ),
            ("acme", "containers", "db", "status")
        );
        let n = p("/api/v1/namespaces/acme");
        assert_eq!(
            (n.resource.as_str(), n.name.as_str(), n.in_namespace),
            ("namespaces", "acme", false)
        );
        let s = p("/api/v1/namespaces/acme/finalize");
        assert_eq!(
            (s.name.as_str(), s.subresource.as_str()),
            ("acme", "finalize")
        );
        assert_eq!(p("/api/v1/namespaces/acme/secrets").resource, "secrets");
        assert_eq!(Path::parse("/apis/skysail.dev").expect("parses"), None);
    }
}
