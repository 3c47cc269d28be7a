//! Rules for `metadata`, the same for every kind.

use serde_json::{Map, Value};
use skysail_schemas::validate::{Cause, Errors, FieldError};

/// The most bytes of all annotations together, keys and values.
pub const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Every mistake in the object's metadata. `old` is the object before an update: what may not change then is
/// checked too. Names are DNS subdomains (RFC 1123), those of namespaces DNS labels.
pub fn validate(
    object: &Value,
    old: Option<&Value>,
    namespaced: bool,
    name_is_label: bool,
) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let empty = Value::Object(Map::new());
    let metadata = object.get("metadata").unwrap_or(&empty);
    names(metadata, namespaced, name_is_label, &mut errors);
    labels(metadata, &mut errors);
    annotations(metadata, &mut errors);
    finalizers(metadata, &mut errors);
    owners(metadata, &mut errors);
    if let Some(old) = old.and_then(|old| old.get("metadata")) {
        unchanged(metadata, old, &mut errors);
    }
    errors.0
}

fn text<'a>(metadata: &'a Value, field: &str) -> &'a str {
    metadata
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn invalid(errors: &mut Errors, field: impl Into<String>, value: &str, why: &str) {
    errors.push(
        Cause::Invalid,
        field,
        format!("Invalid value: {value:?}: {why}"),
    );
}

fn names(metadata: &Value, namespaced: bool, name_is_label: bool, errors: &mut Errors) {
    let rule = if name_is_label {
        dns_label
    } else {
        dns_subdomain
    };
    let (name, prefix) = (text(metadata, "name"), text(metadata, "generateName"));
    if name.is_empty() && prefix.is_empty() {
        errors.push(
            Cause::Required,
            "metadata.name",
            "Required value: name or generateName is required",
        );
    }
    if let Err(why) = rule(name).or_else(|why| if name.is_empty() { Ok(()) } else { Err(why) }) {
        invalid(errors, "metadata.name", name, why);
    }
    // What is appended to it are letters and digits.
    if !prefix.is_empty() && rule(&format!("{prefix}x")).is_err() {
        invalid(
            errors,
            "metadata.generateName",
            prefix,
            "must be the beginning of a valid name",
        );
    }
    let namespace = text(metadata, "namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(Cause::Required, "metadata.namespace", "Required value"),
        (false, false) => {
            errors.push(
                Cause::Forbidden,
                "metadata.namespace",
                "Forbidden: not allowed on this type",
            );
        }
        (true, false) => {
            if let Err(why) = dns_label(namespace) {
                invalid(errors, "metadata.namespace", namespace, why);
            }
        }
        (false, true) => {}
    }
}

fn entries<'a>(metadata: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a str)> {
    let map = metadata
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    map.map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

fn labels(metadata: &Value, errors: &mut Errors) {
    for (key, value) in entries(metadata, "labels") {
        if let Err(why) = qualified_name(key) {
            invalid(errors, "metadata.labels", key, why);
        }
        if let Err(why) = label_value(value) {
            invalid(errors, format!("metadata.labels[{key}]"), value, why);
        }
    }
}

fn annotations(metadata: &Value, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in entries(metadata, "annotations") {
        size += key.len() + value.len();
        // Unlike those of labels, keys of annotations may have upper-case prefixes.
        if let Err(why) = qualified_name(&key.to_lowercase()) {
            invalid(errors, "metadata.annotations", key, why);
        }
    }
    if size > MAX_ANNOTATIONS {
        let message =
            format!("Too long: {size} bytes: may not be more than {MAX_ANNOTATIONS} bytes");
        errors.push(Cause::TooLong, "metadata.annotations", message);
    }
}

fn finalizers(metadata: &Value, errors: &mut Errors) {
    let finalizers = list(metadata, "finalizers");
    for (i, finalizer) in finalizers.iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        let field = format!("metadata.finalizers[{i}]");
        if let Err(why) = qualified_name(name) {
            invalid(errors, field, name, why);
        } else if !name.contains('/')
            && !matches!(name, "orphan" | "foregroundDeletion" | "kubernetes")
        {
            invalid(
                errors,
                field,
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    if finalizers.contains(&"orphan".into()) && finalizers.contains(&"foregroundDeletion".into()) {
        let why = "finalizers orphan and foregroundDeletion cannot be both set";
        errors.push(
            Cause::Invalid,
            "metadata.finalizers",
            format!("Invalid value: {why}"),
        );
    }
}

fn list<'a>(metadata: &'a Value, field: &str) -> &'a [Value] {
    metadata
        .get(field)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn owners(metadata: &Value, errors: &mut Errors) {
    let mut controllers = Vec::new();
    for (i, owner) in list(metadata, "ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                let path = format!("metadata.ownerReferences[{i}].{field}");
                errors.push(Cause::Required, path, "Required value: must not be empty");
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            controllers.push(text(owner, "name"));
        }
    }
    if let [first, second, ..] = controllers[..] {
        let message = format!(
            "Invalid value: only one reference can have controller set to true, found it for {first} and {second}"
        );
        errors.push(Cause::Invalid, "metadata.ownerReferences", message);
    }
}

/// What an update may not change. The server fills in most of it, so only a contradiction arrives here.
fn unchanged(new: &Value, old: &Value, errors: &mut Errors) {
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let (new, old) = (
            new.get(field).unwrap_or(&Value::Null),
            old.get(field).unwrap_or(&Value::Null),
        );
        if new != old {
            let message = format!("Invalid value: {new}: field is immutable");
            errors.push(Cause::Invalid, format!("metadata.{field}"), message);
        }
    }
    if !old.get("deletionTimestamp").is_none_or(Value::is_null) {
        let before = list(old, "finalizers");
        for (i, finalizer) in list(new, "finalizers")
            .iter()
            .enumerate()
            .filter(|(_, f)| !before.contains(f))
        {
            let message = format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizer {finalizer}"
            );
            errors.push(
                Cause::Forbidden,
                format!("metadata.finalizers[{i}]"),
                message,
            );
        }
    }
}

/// A name that may carry a prefix: `app`, `skysail.dev/host`.
pub(crate) fn qualified_name(text: &str) -> Result<(), &'static str> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(
                |_| "the prefix must be a lower-case DNS subdomain such as 'example.com'",
            )?;
            name
        }
        None => text,
    };
    if name.is_empty() || name.len() > 63 {
        return Err("name part must have 1 to 63 characters");
    }
    word(
        name,
        "name part must consist of letters, digits, '-', '_' or '.', and must begin and end with a letter or digit",
    )
}

/// The value of a label; may be empty.
pub(crate) fn label_value(text: &str) -> Result<(), &'static str> {
    match text.len() {
        0 => Ok(()),
        1..=63 => word(
            text,
            "must consist of letters, digits, '-', '_' or '.', and must begin and end with a letter or digit, or be empty",
        ),
        _ => Err("must be no more than 63 characters"),
    }
}

fn word(text: &str, why: &'static str) -> Result<(), &'static str> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let fine =
        text.bytes().all(inner) && ends(text.as_bytes().first()) && ends(text.as_bytes().last());
    if fine { Ok(()) } else { Err(why) }
}

/// RFC 1123 label: at most 63 characters.
pub(crate) fn dns_label(text: &str) -> Result<(), &'static str> {
    let fine = text.len() <= 63 && is_label(text);
    let why = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', must start and \
               end with an alphanumeric character, and have at most 63 characters (e.g. 'my-name')";
    if fine { Ok(()) } else { Err(why) }
}

/// RFC 1123 subdomain: labels with dots between them, at most 253 characters.
pub(crate) fn dns_subdomain(text: &str) -> Result<(), &'static str> {
    let fine = text.len() <= 253 && text.split('.').all(is_label);
    let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', must \
               start and end with an alphanumeric character, and have at most 253 characters (e.g. 'example.com')";
    if fine { Ok(()) } else { Err(why) }
}

fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().all(|b| alphanumeric(b) || b == b'-')
        && text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().last().is_some_and(alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(metadata: Value) -> Vec<(String, Cause)> {
        let errors = validate(&json!({"metadata": metadata}), None, true, false);
        errors.into_iter().map(|e| (e.field, e.cause)).collect()
    }

    #[test]
    fn good_metadata_has_no_mistakes() {
        let owner =
            json!({"apiVersion": "v1", "kind": "K", "name": "o", "uid": "u", "controller": true});
        let metadata = json!({"name": "a.b-1", "namespace": "acme", "labels": {"skysail.dev/x": "A_1", "y": ""},
            "annotations": {"Example.com/Free": "any text"}, "finalizers": ["skysail.dev/agent", "orphan"],
            "ownerReferences": [owner]});
        assert_eq!(errors(metadata), []);
        assert_eq!(
            errors(json!({"generateName": "web-", "namespace": "acme"})),
            []
        );
    }

    #[test]
    fn each_mistake_names_its_field() {
        let one = |patch: Value, field: &str, cause| {
            let mut metadata = json!({"name": "x", "namespace": "acme"});
            for (key, value) in patch.as_object().expect("object") {
                metadata[key] = value.clone();
            }
            assert_eq!(errors(metadata), [(field.to_owned(), cause)]);
        };
        one(json!({"name": ""}), "metadata.name", Cause::Required);
        for name in ["A", "a_b", "-a", "a.", ".a", "a..b", &"a".repeat(254)] {
            one(json!({"name": name}), "metadata.name", Cause::Invalid);
        }
        one(
            json!({"namespace": ""}),
            "metadata.namespace",
            Cause::Required,
        );
        one(
            json!({"namespace": "a.b"}),
            "metadata.namespace",
            Cause::Invalid,
        );
        one(
            json!({"generateName": "A"}),
            "metadata.generateName",
            Cause::Invalid,
        );
        one(
            json!({"labels": {"a b": "c"}}),
            "metadata.labels",
            Cause::Invalid,
        );
        one(
            json!({"labels": {"a/b": "c d"}}),
            "metadata.labels[a/b]",
            Cause::Invalid,
        );
        one(
            json!({"labels": {"a": "x".repeat(64)}}),
            "metadata.labels[a]",
            Cause::Invalid,
        );
        one(
            json!({"annotations": {"a/": "c"}}),
            "metadata.annotations",
            Cause::Invalid,
        );
        one(
            json!({"annotations": {"a": "x".repeat(MAX_ANNOTATIONS)}}),
            "metadata.annotations",
            Cause::TooLong,
        );
        one(
            json!({"finalizers": ["a/b", "plain"]}),
            "metadata.finalizers[1]",
            Cause::Invalid,
        );
        one(
            json!({"finalizers": ["orphan", "foregroundDeletion"]}),
            "metadata.finalizers",
            Cause::Invalid,
        );
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "K", "name": name, "uid": "u", "controller": true});
        one(
            json!({"ownerReferences": [owner("a"), owner("b")]}),
            "metadata.ownerReferences",
            Cause::Invalid,
        );
        one(
            json!({"ownerReferences": [owner("")]}),
            "metadata.ownerReferences[0].name",
            Cause::Required,
        );
    }

    #[test]
    fn cluster_wide_objects_have_no_namespace_and_namespaces_are_labels() {
        let of = |metadata: Value| validate(&json!({"metadata": metadata}), None, false, true);
        assert_eq!(of(json!({"name": "acme"})), []);
        assert_eq!(
            of(json!({"name": "acme", "namespace": "x"}))[0].cause,
            Cause::Forbidden
        );
        assert_eq!(of(json!({"name": "a.b"}))[0].field, "metadata.name");
    }

    #[test]
    fn an_update_changes_neither_identity_nor_the_promise_to_delete() {
        let old = json!({"metadata": {"name": "x", "namespace": "a", "uid": "1", "deletionTimestamp": "t",
            "finalizers": ["a/b", "a/c"]}});
        let check = |edit: fn(&mut Value)| {
            let mut new = old.clone();
            edit(&mut new["metadata"]);
            let errors = validate(&new, Some(&old), true, false);
            errors.into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        assert_eq!(check(|m| m["finalizers"] = json!(["a/c"])), [""; 0]);
        assert_eq!(check(|m| m["uid"] = "2".into()), ["metadata.uid"]);
        assert_eq!(
            check(|m| m["deletionTimestamp"] = Value::Null),
            ["metadata.deletionTimestamp"]
        );
        assert_eq!(
            check(|m| m["finalizers"] = json!(["a/c", "a/new"])),
            ["metadata.finalizers[1]"]
        );
    }
}
