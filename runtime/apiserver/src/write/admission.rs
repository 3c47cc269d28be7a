//! What happens to an object between a request's body and the store: unknown
//! fields, defaults, normal form, metadata that only the server sets, validation.

use super::options::{Options, Unknown};
use crate::answer::Failure;
use crate::kinds::{Kind, Origin, core, metadata};
use crate::patches::apply;
use crate::request::Call;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Checks type, name and namespace of a body against the path, and fills them in where they are absent.
pub(crate) fn address(call: &Call<'_>, object: &mut Value) -> Result<(), Failure> {
    let kind = call.kind;
    if !object.is_object() {
        return Err(Failure::bad_request("the body is no object"));
    }
    for (field, wanted) in [
        ("apiVersion", kind.api_version()),
        ("kind", kind.kind.clone()),
    ] {
        match object[field].as_str() {
            None | Some("") => object[field] = Value::String(wanted),
            Some(given) if given == wanted => {}
            Some(given) => {
                let text = format!(
                    "the {field} in the data ({given}) does not match the expected {field} ({wanted})"
                );
                return Err(Failure::bad_request(text));
            }
        }
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let metadata = &mut object["metadata"];
    if kind.namespaced {
        match metadata["namespace"].as_str() {
            None | Some("") => metadata["namespace"] = Value::String(call.namespace.into()),
            Some(given) if given == call.namespace => {}
            Some(_) => {
                let text = "the namespace of the provided object does not match the namespace sent on the request";
                return Err(Failure::bad_request(text));
            }
        }
    } else if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("namespace");
    }
    if !call.name.is_empty() {
        match metadata["name"].as_str() {
            None | Some("") => metadata["name"] = Value::String(call.name.into()),
            Some(given) if given == call.name => {}
            Some(given) => {
                let text = format!(
                    "the name of the object ({given}) does not match the name on the URL ({})",
                    call.name
                );
                return Err(Failure::bad_request(text));
            }
        }
    }
    Ok(())
}

/// Takes out unknown fields and says so as the caller wishes. Returns warnings.
pub(crate) fn prune(
    kind: &Kind,
    object: &mut Value,
    duplicates: &[String],
    unknown: Unknown,
) -> Result<Vec<String>, Failure> {
    let mut found: Vec<String> = kind
        .schema
        .prune(object)
        .into_iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    found.extend(
        duplicates
            .iter()
            .map(|path| format!("duplicate field \"{path}\"")),
    );
    match unknown {
        Unknown::Strict if !found.is_empty() => {
            let text = format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                kind.kind,
                kind.version,
                kind.kind,
                found.join(", ")
            );
            Err(Failure::bad_request(text))
        }
        Unknown::Ignore => Ok(Vec::new()),
        _ => Ok(found),
    }
}

/// Now, to the second, as `creationTimestamp` has it.
pub(crate) fn now() -> Value {
    Value::String(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn metadata_of(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        // The line above made it a map.
        _ => unreachable!("metadata is a map"),
    }
}

/// Metadata of a new object, and what a client may not say itself.
pub(crate) fn begin(kind: &Kind, object: &mut Value) -> Result<(), Failure> {
    let version = object["metadata"]["resourceVersion"].as_str();
    if version.is_some_and(|v| !v.is_empty() && v != "0") {
        return Err(Failure::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let metadata = metadata_of(object);
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert(
        "uid".into(),
        Value::String(uuid::Uuid::new_v4().to_string()),
    );
    metadata.insert("creationTimestamp".into(), now());
    if kind.has_generation() {
        metadata.insert("generation".into(), json!(1));
    }
    if kind.status
        && kind.origin == Origin::Custom
        && let Some(object) = object.as_object_mut()
    {
        object.remove("status");
    }
    Ok(())
}

/// Metadata of a changed object: what only the server sets stays as it was.
pub(crate) fn carry_over(kind: &Kind, old: &Value, new: &mut Value) -> Result<(), Failure> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let (was, is) = (&old["metadata"]["uid"], &new["metadata"]["uid"]);
    if is
        .as_str()
        .is_some_and(|is| !is.is_empty() && Some(is) != was.as_str())
    {
        let why =
            format!("Precondition failed: UID in precondition: {is}, UID in object meta: {was}");
        return Err(Failure::conflict(kind, name, &why.replace('"', "")));
    }
    let metadata = metadata_of(new);
    metadata.remove("selfLink");
    metadata.remove("generateName");
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        match old["metadata"].get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    Ok(())
}

/// Lays what an endpoint may change over what is there.
pub(crate) fn confine(kind: &Kind, subresource: &str, old: &Value, new: Value) -> Value {
    let put = |target: &mut Value, field: &str, source: &Value| match source.get(field) {
        Some(value) => target[field] = value.clone(),
        None => {
            if let Some(target) = target.as_object_mut() {
                target.remove(field);
            }
        }
    };
    let mut result = match subresource {
        "status" => {
            let mut result = old.clone();
            put(&mut result, "status", &new);
            put(&mut result["metadata"], "managedFields", &new["metadata"]);
            put(&mut result["metadata"], "resourceVersion", &new["metadata"]);
            return result;
        }
        _ => new,
    };
    if kind.status {
        put(&mut result, "status", old);
    }
    if kind.plural == "namespaces" && subresource != "finalize" {
        put(&mut result, "spec", old);
    }
    result
}

/// Raises `generation` when anything but metadata and status changed.
pub(crate) fn raise_generation(kind: &Kind, old: &Value, new: &mut Value) {
    if !kind.has_generation() {
        return;
    }
    let counts = |object: &Value| {
        let mut object = object.clone();
        if let Some(map) = object.as_object_mut() {
            map.remove("metadata");
            if kind.status {
                map.remove("status");
            }
        }
        object
    };
    if counts(old) != counts(new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = json!(generation);
    }
}

/// Defaults, normal form and every mistake.
pub(crate) fn complete(
    kind: &Kind,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<(), Failure> {
    core::normalize(kind, object);
    // As in Kubernetes, whose metadata is typed: empty lists and maps are none.
    metadata_of(object).retain(|_, value| !is_empty(value));
    kind.schema.default(object);
    let mut errors = metadata::validate(object, old, kind.namespaced, kind.plural == "namespaces");
    let by_schema = kind.schema.check(object);
    let schema_holds = by_schema.is_empty();
    errors.extend(by_schema);
    // As in Kubernetes, what was once accepted does not stand in the way of a status or a finalizer.
    let unchanged =
        kind.origin == Origin::Custom && old.is_some_and(|old| old["spec"] == object["spec"]);
    if schema_holds && !unchanged {
        errors.extend((kind.validate)(object, old));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Failure::invalid(kind, name, &errors))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Whether two objects differ in nothing but the times of their `managedFields` and their revision.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
            for entry in metadata
                .get_mut("managedFields")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                entry.as_object_mut().map(|e| e.remove("time"));
            }
        }
        object
    };
    strip(a) == strip(b)
}

/// Records in `managedFields` what a write other than an apply changed.
pub(crate) fn track(
    kind: &Kind,
    old: Option<&Value>,
    new: &mut Value,
    options: &Options,
    subresource: &str,
) {
    apply::track_update(
        old,
        new,
        options.writer(&kind.api_version(), subresource),
        &kind.schema,
    );
}
