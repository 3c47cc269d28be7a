//! Paths that are no resources: health, version, discovery, OpenAPI, metrics.
//!
//! Documents are made once out of the table of kinds. Needs [`crate::state`] for what
//! changes (is the store there? how many objects?) and [`crate::answer`].

mod discovery;
mod openapi;

use crate::answer::accept::first_of;
use crate::answer::{self};
use crate::kinds::{Kind, Kinds, VERBS};
use crate::state::State;
use axum::body::Body;
use discovery::{Resource, Subresource};
use http::{HeaderMap, HeaderValue, Response, header};
use openapi::{Described, Documents};
use serde_json::json;

/// The Kubernetes minor version that we claim: within the skew that kubectl 1.32 accepts without a warning.
const MINOR: &str = "33";

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

/// A row of the table as discovery describes it.
fn resource(kind: &Kind) -> Resource {
    let own = |name: &str, verbs: &[&str]| Subresource {
        name: name.into(),
        group: kind.group.clone(),
        version: kind.version.clone(),
        kind: kind.kind.clone(),
        verbs: words(verbs),
    };
    let mut subresources = Vec::new();
    if kind.status {
        subresources.push(own("status", &["get", "patch", "update"]));
    }
    if kind.scale.is_some() {
        subresources.push(Subresource {
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            ..own("scale", &["get", "patch", "update"])
        });
    }
    subresources.extend(
        kind.subresources
            .iter()
            .map(|(name, verbs)| own(name, verbs)),
    );
    Resource {
        group: kind.group.clone(),
        version: kind.version.clone(),
        kind: kind.kind.clone(),
        plural: kind.plural.clone(),
        singular: kind.singular.clone(),
        short_names: kind.short_names.clone(),
        categories: kind.categories.clone(),
        namespaced: kind.namespaced,
        verbs: words(&VERBS),
        subresources,
    }
}

/// A review as discovery describes it.
fn review(group: &str, plural: &str, kind: &str) -> Resource {
    Resource {
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: false,
        verbs: words(&["create"]),
        subresources: Vec::new(),
    }
}

/// What the server says about itself; made once.
pub(crate) struct About {
    resources: Vec<Resource>,
    open_api: Documents,
}

impl About {
    pub(crate) fn new(kinds: &Kinds) -> Self {
        let described: Vec<Described> = kinds
            .all()
            .iter()
            .map(|k| Described {
                resource: resource(k),
                schema: k.open_api.clone(),
            })
            .collect();
        let mut resources: Vec<Resource> = described.iter().map(|d| d.resource.clone()).collect();
        resources.extend([
            review(
                "authorization.k8s.io",
                "selfsubjectaccessreviews",
                "SelfSubjectAccessReview",
            ),
            review(
                "authorization.k8s.io",
                "selfsubjectrulesreviews",
                "SelfSubjectRulesReview",
            ),
            review(
                "authentication.k8s.io",
                "selfsubjectreviews",
                "SelfSubjectReview",
            ),
        ]);
        Self {
            resources,
            open_api: Documents::new(&described),
        }
    }

    /// Answers for everybody who is known.
    pub(crate) fn known(
        &self,
        state: &State,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        match path {
            "/" => {
                let paths = json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2",
                    "/openapi/v3", "/readyz", "/version"]});
                Some(answer::json(200, paths.to_string()))
            }
            "/metrics" => Some(answer::text(200, metrics(state))),
            "/openapi/v2" => {
                let mut response = Response::new(Body::from(openapi::V2_DOCUMENT));
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static(openapi::V2_MEDIA_TYPE),
                );
                Some(response)
            }
            _ if path.starts_with("/openapi/") => self.open_api(path, headers),
            _ => self.discovery(path, headers),
        }
    }

    fn discovery(&self, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let document = match parts.as_slice() {
            ["api"] | ["apis"] => return Some(self.root(parts[0] == "api", headers)),
            ["api", version] => discovery::api_resource_list(&self.resources, "", version)?,
            ["apis", group] => discovery::api_group(&self.resources, group)?,
            ["apis", group, version] => {
                discovery::api_resource_list(&self.resources, group, version)?
            }
            _ => return None,
        };
        Some(answer::json(200, document.to_string()))
    }

    fn root(&self, core: bool, headers: &HeaderMap) -> Response<Body> {
        let offered = [
            discovery::AGGREGATED_V2,
            discovery::AGGREGATED_V2BETA1,
            "application/json",
        ];
        let (document, media) = match first_of(headers, &offered) {
            Some(discovery::AGGREGATED_V2) => (
                discovery::aggregated(&self.resources, core, "v2"),
                discovery::AGGREGATED_V2,
            ),
            Some(discovery::AGGREGATED_V2BETA1) => (
                discovery::aggregated(&self.resources, core, "v2beta1"),
                discovery::AGGREGATED_V2BETA1,
            ),
            _ if core => (discovery::api_versions(), "application/json"),
            _ => (
                discovery::api_group_list(&self.resources),
                "application/json",
            ),
        };
        let mut response = answer::json(200, document.to_string());
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept"));
        response
    }

    fn open_api(&self, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let path = path.trim_end_matches('/');
        if path == "/openapi/v3" {
            return Some(answer::json(200, self.open_api.index().to_string()));
        }
        let document = self.open_api.get(path.strip_prefix("/openapi/v3/")?)?;
        let etag = format!("\"{}\"", document.hash);
        let known = headers
            .get(header::IF_NONE_MATCH)
            .is_some_and(|v| v.as_bytes() == etag.as_bytes());
        let mut response = if known {
            answer::json(304, Body::empty())
        } else {
            answer::json(200, document.body.clone())
        };
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept"));
        Some(response)
    }
}

/// Answers that need no identity: probes and the version.
pub(crate) async fn public(state: &State, path: &str, query: &str) -> Option<Response<Body>> {
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let probe = parts.next().unwrap_or_default();
    match probe {
        "version" => Some(answer::json(200, version().to_string())),
        "healthz" | "livez" | "readyz" => {
            let check = parts.next().unwrap_or_default();
            if !matches!(check, "" | "ping" | "store") {
                return None;
            }
            let store = state.store.revision().await.is_ok();
            let fine = store || probe == "livez";
            if query.contains("verbose") {
                let mark = if store {
                    "[+]store ok"
                } else {
                    "[-]store failed"
                };
                let end = if fine { "passed" } else { "failed" };
                return Some(answer::text(
                    if fine { 200 } else { 503 },
                    format!("[+]ping ok\n{mark}\n{probe} check {end}\n"),
                ));
            }
            Some(if fine {
                answer::text(200, "ok")
            } else {
                answer::text(503, "store unavailable")
            })
        }
        _ => None,
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+skysail.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn metrics(state: &State) -> String {
    let mut out = String::from("# TYPE skysail_store_revision counter\n");
    out += &format!(
        "skysail_store_revision {}\n# TYPE skysail_objects gauge\n",
        state.cache.revision()
    );
    for kind in state.kinds.all().iter().filter(|k| !k.is_new_event()) {
        let count = state.cache.range(&kind.prefix()).len();
        out += &format!(
            "skysail_objects{{resource=\"{}\"}} {count}\n",
            kind.qualified_resource()
        );
    }
    out
}
