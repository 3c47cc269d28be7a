//! The few Kubernetes kinds that are served beside Skysail's own, and what is
//! special about each: validation, normal form, columns.

use super::core_schemas::core_schema;
use super::kind::{Kind, Origin};
use super::schema::{CompileError, Schema};
use crate::table::Columns;
use serde_json::{Value, json};
use skysail_schemas::validate::{Cause, Errors, FieldError};

/// The rows of the core kinds.
pub(crate) fn all() -> Result<Vec<Kind>, CompileError> {
    let event_fields = [
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];
    let new_event_fields = event_fields.map(|f| f.replace("involvedObject", "regarding"));
    Ok(vec![
        Kind {
            short_names: vec!["ns".into()],
            status: true,
            subresources: vec![("finalize", &["update"])],
            selectable: vec!["status.phase".into()],
            ..row("", "namespaces", "Namespace", false)?
        },
        Kind {
            selectable: vec!["type".into()],
            validate: validate_secret,
            ..row("", "secrets", "Secret", true)?
        },
        Kind {
            short_names: vec!["cm".into()],
            validate: validate_config_map,
            ..row("", "configmaps", "ConfigMap", true)?
        },
        Kind {
            short_names: vec!["ev".into()],
            selectable: event_fields.map(str::to_owned).to_vec(),
            ..row("", "events", "Event", true)?
        },
        row("coordination.k8s.io", "leases", "Lease", true)?,
        Kind {
            short_names: vec!["ev".into()],
            selectable: new_event_fields.to_vec(),
            stored: ("core".into(), "events".into()),
            ..row("events.k8s.io", "events", "Event", true)?
        },
    ])
}

fn row(group: &str, plural: &str, kind: &str, namespaced: bool) -> Result<Kind, CompileError> {
    let open_api = core_schema(group, kind)
        .unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let stored_group = if group.is_empty() { "core" } else { group };
    Ok(Kind {
        group: group.into(),
        version: "v1".into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        kind: kind.into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        status: false,
        scale: None,
        subresources: Vec::new(),
        schema: Schema::compile(&open_api)?,
        open_api,
        columns: Columns::core(kind),
        selectable: Vec::new(),
        origin: Origin::Core,
        stored: (stored_group.into(), plural.into()),
        validate: |_, _| Vec::new(),
    })
}

fn data_key_is_valid(key: &str) -> bool {
    let fits = !key.is_empty() && key.len() <= 253 && key != "." && !key.starts_with("..");
    fits && key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn check_keys(object: &Value, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        for key in object[*field]
            .as_object()
            .into_iter()
            .flat_map(|m| m.keys())
        {
            errors.check(
                data_key_is_valid(key),
                &format!("{field}[{key}]"),
                "a key may have letters, digits, '-', '_' and '.', at most 253",
            );
        }
    }
}

fn check_immutable(new: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else {
        return;
    };
    errors.immutable(
        "immutable",
        &new["immutable"],
        Some(&old["immutable"]),
        "delete the object and make it again",
    );
    for field in fields {
        errors.immutable(
            field,
            &new[*field],
            Some(&old[*field]),
            "the object is immutable; delete it and make it again",
        );
    }
}

fn validate_secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut errors = Errors::default();
    check_keys(new, &["data"], &mut errors);
    for (key, value) in new["data"].as_object().into_iter().flatten() {
        let fine = value.is_null() || value.as_str().is_some_and(|v| STANDARD.decode(v).is_ok());
        errors.check(
            fine,
            &format!("data[{key}]"),
            "must be base64; plain text goes into stringData",
        );
    }
    errors.immutable(
        "type",
        &new["type"],
        old.map(|o| &o["type"]),
        "delete the Secret and make it again",
    );
    check_immutable(new, old, &["data"], &mut errors);
    errors.0
}

fn validate_config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check_keys(new, &["data", "binaryData"], &mut errors);
    for key in new["data"].as_object().into_iter().flat_map(|m| m.keys()) {
        if new["binaryData"].get(key).is_some() {
            errors.push(
                Cause::Invalid,
                format!("data[{key}]"),
                "the same key stands in binaryData",
            );
        }
    }
    check_immutable(new, old, &["data", "binaryData"], &mut errors);
    errors.0
}

/// The normal form of built-in kinds: what Kubernetes fills in or folds together.
pub(crate) fn normalize(kind: &Kind, object: &mut Value) {
    if kind.origin != Origin::Core {
        return;
    }
    match kind.plural.as_str() {
        "namespaces" => normalize_namespace(object),
        "secrets" => normalize_secret(object),
        _ => {}
    }
}

fn normalize_namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    if !object["metadata"]["labels"].is_object() {
        object["metadata"]["labels"] = json!({});
    }
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    let deleting = object["metadata"].get("deletionTimestamp").is_some();
    if !deleting && object["spec"].get("finalizers").is_none() {
        object["spec"]["finalizers"] = json!(["kubernetes"]);
    }
    object["status"]["phase"] = json!(if deleting { "Terminating" } else { "Active" });
}

fn normalize_secret(object: &mut Value) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    if object["type"].as_str().unwrap_or_default().is_empty() {
        object["type"] = json!("Opaque");
    }
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|o| o.remove("stringData"))
    else {
        return;
    };
    if !object["data"].is_object() {
        object["data"] = json!({});
    }
    for (key, value) in plain {
        object["data"][key] = json!(STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}
