//! What happens to an object between a request's body and the store: unknown
//! fields, defaults, normal form, metadata that only the server sets, validation.

use crate::apply::{self, Writer};
use crate::core_kinds;
use crate::failure::Failure;
use crate::kinds::{Kind, Origin};
use crate::metadata;
use crate::protobuf;
use crate::request::{Call, is_true};
use crate::strict::{self, Format};
use http::{HeaderMap, header};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// What to do about fields that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// 400.
    Strict,
    /// Drop and say so.
    Warn,
    /// Drop.
    Ignore,
}

/// Options of a write, from its query.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub dry_run: bool,
    pub manager: String,
    pub unknown: Unknown,
    pub force: bool,
    /// Server-side apply keeps `managedFields` itself.
    pub applies: bool,
}

impl Options {
    pub(crate) fn of(call: &Call<'_>, headers: &HeaderMap) -> Result<Self, Failure> {
        let agent = headers
            .get(header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let agent = agent
            .split('/')
            .next()
            .filter(|a| !a.is_empty())
            .unwrap_or("unknown");
        let unknown = match call.query.field_validation.as_deref() {
            None | Some("" | "Warn") => Unknown::Warn,
            Some("Strict") => Unknown::Strict,
            Some("Ignore") => Unknown::Ignore,
            Some(other) => {
                return Err(Failure::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}"
                )));
            }
        };
        Ok(Self {
            dry_run: call.query.is_dry_run()?,
            manager: call
                .query
                .field_manager
                .clone()
                .filter(|m| !m.is_empty())
                .unwrap_or_else(|| agent.into()),
            unknown,
            force: is_true(call.query.force.as_deref()),
            applies: false,
        })
    }

    /// Who writes, for `managedFields`.
    pub(crate) fn writer<'a>(&'a self, api_version: &'a str, subresource: &'a str) -> Writer<'a> {
        Writer {
            manager: &self.manager,
            subresource,
            api_version,
            now: Timestamp::now(),
        }
    }
}

/// A body, read.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// The media type of a request's body, without parameters; absent means JSON.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "" => "application/json",
        media => media,
    }
}

/// Reads a body in one of the formats for whole objects.
pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Document, Failure> {
    let media = media_type(headers);
    let format = match media {
        "application/json" => Format::Json,
        "application/yaml" => Format::Yaml,
        protobuf::MEDIA_TYPE => {
            return match protobuf::decode(body) {
                Ok(value) => Ok(Document {
                    value,
                    duplicates: Vec::new(),
                }),
                Err(e @ protobuf::Error::Unsupported(_)) => {
                    Err(Failure::unsupported_media_type(e.to_string()))
                }
                Err(e @ protobuf::Error::Malformed(_)) => Err(Failure::bad_request(e.to_string())),
            };
        }
        other => {
            return Err(Failure::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, \
                 application/yaml, {}; not {other}",
                protobuf::MEDIA_TYPE
            )));
        }
    };
    parse(format, body)
}

/// Parses JSON or YAML with the limits of [`strict`].
pub(crate) fn parse(format: Format, body: &[u8]) -> Result<Document, Failure> {
    match strict::parse(format, body) {
        Ok(parsed) => Ok(Document {
            value: parsed.value,
            duplicates: parsed.duplicates,
        }),
        Err(e @ strict::Error::TooLarge { .. }) => Err(Failure::too_large(e.to_string())),
        Err(strict::Error::Syntax(text)) => Err(Failure::bad_request(text)),
    }
}

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
    core_kinds::normalize(kind, object);
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
