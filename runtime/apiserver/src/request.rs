//! A request path and query as what is asked: kind, verb, object, options.

use crate::failure::Failure;
use crate::kinds::{Kind, Kinds};
use http::Method;

/// Query parameters that anybody reads; all others are ignored, as in Kubernetes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    pub watch: Option<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub limit: Option<String>,
    pub continue_: Option<String>,
    pub resource_version: Option<String>,
    pub resource_version_match: Option<String>,
    pub timeout_seconds: Option<String>,
    pub allow_watch_bookmarks: Option<String>,
    pub send_initial_events: Option<String>,
    pub include_object: Option<String>,
    pub dry_run: Option<String>,
    pub field_manager: Option<String>,
    pub field_validation: Option<String>,
    pub force: Option<String>,
    pub propagation_policy: Option<String>,
    pub grace_period_seconds: Option<String>,
}

impl Query {
    /// Reads a query string.
    pub(crate) fn parse(query: &str) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(slot) = parsed.slot(key) else {
                continue;
            };
            if slot.is_none() {
                *slot = Some(percent_decode(value, true)?);
            }
        }
        Ok(parsed)
    }

    fn slot(&mut self, key: &str) -> Option<&mut Option<String>> {
        Some(match key {
            "watch" => &mut self.watch,
            "labelSelector" => &mut self.label_selector,
            "fieldSelector" => &mut self.field_selector,
            "limit" => &mut self.limit,
            "continue" => &mut self.continue_,
            "resourceVersion" => &mut self.resource_version,
            "resourceVersionMatch" => &mut self.resource_version_match,
            "timeoutSeconds" => &mut self.timeout_seconds,
            "allowWatchBookmarks" => &mut self.allow_watch_bookmarks,
            "sendInitialEvents" => &mut self.send_initial_events,
            "includeObject" => &mut self.include_object,
            "dryRun" => &mut self.dry_run,
            "fieldManager" => &mut self.field_manager,
            "fieldValidation" => &mut self.field_validation,
            "force" => &mut self.force,
            "propagationPolicy" => &mut self.propagation_policy,
            "gracePeriodSeconds" => &mut self.grace_period_seconds,
            _ => return None,
        })
    }

    /// Whether `dryRun=All`.
    pub(crate) fn is_dry_run(&self) -> Result<bool, Failure> {
        match self.dry_run.as_deref() {
            None | Some("") => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(Failure::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }
}

/// Whether a boolean parameter is set.
pub(crate) fn is_true(parameter: Option<&str>) -> bool {
    matches!(parameter, Some("true" | "1" | "True" | "TRUE" | "t" | "T"))
}

/// Decodes `%41` and, in queries, `+`.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Result<String, Failure> {
    let (bytes, mut out, mut i) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let hex = text
                    .get(i + 1..i + 3)
                    .and_then(|h| u8::from_str_radix(h, 16).ok());
                out.push(hex.ok_or_else(|| {
                    Failure::bad_request(format!("bad percent encoding in {text:?}"))
                })?);
                i += 2;
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8(out).map_err(|_| Failure::bad_request(format!("{text:?} is no UTF-8")))
}

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

    #[test]
    fn queries_are_decoded_and_unknown_parameters_ignored() {
        let q =
            Query::parse("timeout=32s&labelSelector=a%3Db%2Cc+in+(d)&limit=500").expect("parses");
        assert_eq!(q.label_selector.as_deref(), Some("a=b,c in (d)"));
        assert_eq!(q.limit.as_deref(), Some("500"));
        assert!(Query::parse("labelSelector=%zz").is_err());
    }
}
