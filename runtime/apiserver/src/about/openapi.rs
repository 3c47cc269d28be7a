//! OpenAPI v3 documents, which kubectl needs to create, apply, edit, replace and explain.
//!
//! kubectl looks up a kind's PATCH operation and sends `fieldValidation` to the server only if that parameter is
//! described there; without it, it falls back to formats that we do not serve.

use super::discovery::Resource;
use crate::kinds::{list_meta, object_meta};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// A resource and its `openAPIV3Schema`.
#[derive(Debug, Clone)]
pub struct Described {
    /// Names and verbs.
    pub resource: Resource,
    /// The schema of the whole object.
    pub schema: Value,
}

/// The documents, made once at start.
#[derive(Debug)]
pub struct Documents {
    documents: BTreeMap<String, Document>,
}

/// One group version's document.
#[derive(Debug)]
pub struct Document {
    /// JSON text.
    pub body: String,
    /// Of the body: the value of `?hash=` and of the `ETag`.
    pub hash: String,
}

impl Documents {
    /// Makes the documents of all kinds.
    pub fn new(kinds: &[Described]) -> Self {
        let mut groups: BTreeMap<String, Vec<&Described>> = BTreeMap::new();
        for kind in kinds {
            groups
                .entry(api_path(&kind.resource))
                .or_default()
                .push(kind);
        }
        let documents = groups.into_iter().map(|(path, kinds)| {
            let body = document(&kinds).to_string();
            let hash = Sha256::digest(body.as_bytes())
                .iter()
                .map(|b| format!("{b:02X}"))
                .collect();
            (path, Document { body, hash })
        });
        Self {
            documents: documents.collect(),
        }
    }

    /// `GET /openapi/v3`.
    pub fn index(&self) -> Value {
        let paths: Map<_, _> = self
            .documents
            .iter()
            .map(|(path, document)| {
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                (path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        json!({"paths": paths})
    }

    /// `GET /openapi/v3/<path>`, path being `api/v1` or `apis/<group>/<version>`.
    pub fn get(&self, path: &str) -> Option<&Document> {
        self.documents.get(path)
    }
}

/// `api/v1` or `apis/<group>/<version>`.
fn api_path(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("api/{}", resource.version)
    } else {
        format!("apis/{}/{}", resource.group, resource.version)
    }
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

fn document(kinds: &[&Described]) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    schemas.insert(OBJECT_META.into(), object_meta());
    schemas.insert(LIST_META.into(), list_meta());
    for Described { resource, schema } in kinds {
        let name = component(resource);
        schemas.insert(format!("{name}List"), list_component(resource, &name));
        schemas.insert(name, object_component(resource, schema));
        add_paths(resource, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Skysail", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

/// For example `dev.skysail.v1alpha1.Container`; for core kinds the name that Kubernetes gives them.
fn component(resource: &Resource) -> String {
    let Resource {
        group,
        version,
        kind,
        ..
    } = resource;
    match group.as_str() {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        group if group.ends_with(".k8s.io") => {
            format!(
                "io.k8s.api.{}.{version}.{kind}",
                group.trim_end_matches(".k8s.io")
            )
        }
        group => {
            let reversed: Vec<_> = group.rsplit('.').collect();
            format!("{}.{version}.{kind}", reversed.join("."))
        }
    }
}

fn gvk(resource: &Resource, suffix: &str) -> Value {
    let kind = format!("{}{suffix}", resource.kind);
    json!({"group": resource.group, "version": resource.version, "kind": kind})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn with_type_meta(mut schema: Value, metadata: &str) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    if let Some(fields) = schema.as_object_mut() {
        let properties = fields.entry("properties").or_insert_with(|| json!({}));
        properties["apiVersion"] = text("The group and version of this object's form.");
        properties["kind"] = text("What this object is.");
        properties["metadata"] = json!({
            "description": "Standard object metadata: name, namespace, labels, annotations.",
            "allOf": [reference(metadata)], "default": {},
        });
    }
    schema
}

fn object_component(resource: &Resource, schema: &Value) -> Value {
    let mut schema = with_type_meta(schema.clone(), OBJECT_META);
    schema["x-kubernetes-group-version-kind"] = json!([gvk(resource, "")]);
    schema
}

fn list_component(resource: &Resource, name: &str) -> Value {
    let list = json!({"type": "object", "required": ["items"], "properties": {
        "items": {"type": "array", "items": reference(name), "description": "The objects."},
    }, "description": format!("A list of {}.", resource.plural)});
    let mut list = with_type_meta(list, LIST_META);
    list["x-kubernetes-group-version-kind"] = json!([gvk(resource, "List")]);
    list
}

fn add_paths(resource: &Resource, paths: &mut Map<String, Value>) {
    let root = format!("/{}", api_path(resource));
    let plural = &resource.plural;
    let collection = if resource.namespaced {
        paths.insert(
            format!("{root}/{plural}"),
            path_item(resource, "", &["get"], false),
        );
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    let item = format!("{collection}/{{name}}");
    paths.insert(collection, path_item(resource, "", &["get", "post"], false));
    paths.insert(
        item.clone(),
        path_item(resource, "", &["get", "put", "patch", "delete"], true),
    );
    for sub in resource
        .subresources
        .iter()
        .filter(|s| s.kind == resource.kind)
    {
        let path = format!("{item}/{}", sub.name);
        paths.insert(
            path,
            path_item(resource, &sub.name, &["get", "put", "patch"], true),
        );
    }
}

fn path_item(resource: &Resource, subresource: &str, methods: &[&str], one: bool) -> Value {
    let mut item = Map::new();
    for method in methods {
        item.insert(
            (*method).into(),
            operation(resource, subresource, method, one),
        );
    }
    let mut parameters = Vec::new();
    for (name, wanted) in [("namespace", resource.namespaced), ("name", one)] {
        if wanted {
            parameters.push(json!({"name": name, "in": "path", "required": true,
                "schema": {"type": "string", "uniqueItems": true}}));
        }
    }
    item.insert("parameters".into(), Value::Array(parameters));
    Value::Object(item)
}

fn operation(resource: &Resource, subresource: &str, method: &str, one: bool) -> Value {
    let name = component(resource);
    let writes = matches!(method, "post" | "put" | "patch");
    let (action, verb) = match (method, one) {
        ("get", true) => ("get", "read"),
        ("get", false) => ("list", "list"),
        ("put", _) => ("put", "replace"),
        ("patch", _) => ("patch", "patch"),
        ("post", _) => ("post", "create"),
        _ => ("delete", "delete"),
    };
    let query: &[&str] = if writes {
        &["dryRun", "fieldManager", "fieldValidation", "force"]
    } else {
        &[]
    };
    let parameters: Vec<_> = query
        .iter()
        .filter(|name| **name != "force" || method == "patch")
        .map(|name| {
            let schema = json!({"type": if *name == "force" { "boolean" } else { "string" }, "uniqueItems": true});
            json!({"name": name, "in": "query", "schema": schema})
        })
        .collect();
    let answer = if action == "list" {
        format!("{name}List")
    } else {
        name.clone()
    };
    let mut operation = json!({
        "operationId": format!("{verb}{}{}{}", title(&resource.version), resource.kind, title(subresource)),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference(&answer)}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(resource, ""),
    });
    if writes {
        let types: &[&str] = match method {
            "patch" if is_core(resource) => &[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
            ],
            "patch" => &[
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/apply-patch+yaml",
            ],
            _ => &["application/json", "application/yaml"],
        };
        let schema = if method == "patch" {
            json!({"type": "object"})
        } else {
            reference(&name)
        };
        let content: Map<_, _> = types
            .iter()
            .map(|t| ((*t).to_owned(), json!({"schema": schema})))
            .collect();
        operation["requestBody"] = json!({"content": content, "required": true});
    }
    operation
}

/// Is it a kind of Kubernetes' own, for which strategic merge patches are taken?
fn is_core(resource: &Resource) -> bool {
    resource.group.is_empty() || resource.group.ends_with(".k8s.io")
}

fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// `GET /openapi/v2` as [`V2_MEDIA_TYPE`]: a document without models (`swagger` and `info` only).
/// Clients that insist on the old format find one and nothing in it.
pub const V2_DOCUMENT: &[u8] = b"\x0a\x032.0\x12\x10\x0a\x07skysail\x12\x050.1.0";
/// The only media type of [`V2_DOCUMENT`]. Clients ask for `…spec.v2@v1.0+protobuf`, but an `@` is
/// no token of RFC 9110 and their own parsers refuse it in an answer; Kubernetes answers this too.
pub const V2_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::about::discovery::Subresource;
    use crate::kinds::core_schema;

    fn described(group: &str, kind: &str, plural: &str) -> Described {
        let schema = core_schema(group, kind).unwrap_or_else(
            || json!({"type": "object", "properties": {"spec": {"type": "object", "description": "What."}}}),
        );
        let version = if group.contains("skysail") {
            "v1alpha1"
        } else {
            "v1"
        };
        let status = Subresource {
            name: "status".into(),
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            verbs: vec!["get".into(), "patch".into(), "update".into()],
        };
        let resource = Resource {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            verbs: Vec::new(),
            subresources: vec![status],
        };
        Described { resource, schema }
    }

    #[test]
    fn the_index_leads_to_a_document_for_each_group_version() {
        let documents = Documents::new(&[
            described("skysail.dev", "Container", "containers"),
            described("", "Secret", "secrets"),
        ]);
        let index = documents.index();
        for path in ["api/v1", "apis/skysail.dev/v1alpha1"] {
            let document = documents.get(path).expect(path);
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            assert_eq!(index["paths"][path]["serverRelativeURL"], url);
        }
        assert!(documents.get("apis/none/v1").is_none());
    }

    #[test]
    fn patch_says_that_the_server_validates_fields_and_which_patches_it_takes() {
        let documents = Documents::new(&[
            described("skysail.dev", "Container", "containers"),
            described("", "Secret", "secrets"),
        ]);
        let patch = |path: &str, url: &str| -> Value {
            let document: Value =
                serde_json::from_str(&documents.get(path).expect(path).body).expect("json");
            document["paths"][url]["patch"].clone()
        };
        let ours = "/apis/skysail.dev/v1alpha1/namespaces/{namespace}/containers/{name}";
        for (path, url, core) in [
            ("apis/skysail.dev/v1alpha1", ours, false),
            (
                "api/v1",
                "/api/v1/namespaces/{namespace}/secrets/{name}",
                true,
            ),
        ] {
            let patch = patch(path, url);
            let parameters = patch["parameters"].as_array().expect("list");
            assert!(
                parameters
                    .iter()
                    .any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
            );
            assert!(patch["x-kubernetes-group-version-kind"]["kind"].is_string());
            let strategic =
                &patch["requestBody"]["content"]["application/strategic-merge-patch+json"];
            assert_eq!(strategic.is_object(), core);
        }
        assert!(patch("apis/skysail.dev/v1alpha1", &format!("{ours}/status")).is_object());
    }

    #[test]
    fn a_component_carries_its_kind_and_refers_to_the_metadata() {
        let documents = Documents::new(&[described("skysail.dev", "Container", "containers")]);
        let body = &documents
            .get("apis/skysail.dev/v1alpha1")
            .expect("there")
            .body;
        let document: Value = serde_json::from_str(body).expect("json");
        let schemas = &document["components"]["schemas"];
        let container = &schemas["dev.skysail.v1alpha1.Container"];
        let gvk = json!([{"group": "skysail.dev", "version": "v1alpha1", "kind": "Container"}]);
        assert_eq!(container["x-kubernetes-group-version-kind"], gvk);
        let reference = container
            .pointer("/properties/metadata/allOf/0/$ref")
            .and_then(Value::as_str);
        let target = reference.expect("a reference").trim_start_matches('#');
        let target = document.pointer(target).expect("the reference resolves");
        assert!(target["properties"]["labels"].is_object());
        assert!(!body.contains("$defs"));
    }

    #[test]
    fn the_old_document_is_well_formed_protobuf() {
        assert_eq!(V2_DOCUMENT.len(), 23);
        assert_eq!(V2_DOCUMENT[1], 3);
        assert_eq!(usize::from(V2_DOCUMENT[6]), V2_DOCUMENT.len() - 7);
    }
}
