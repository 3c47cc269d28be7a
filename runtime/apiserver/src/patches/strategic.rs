//! Strategic merge patch. For the core kinds that we serve it is a merge patch plus three merged lists and four
//! directives.

use super::Error;
use serde_json::{Map, Value};

/// How a list is merged.
#[derive(Clone, Copy)]
enum Strategy {
    /// Members are objects, told apart by this field.
    ByKey(&'static str),
    /// Members are scalars.
    Set,
    Replace,
}

/// The lists of Namespace, Secret, ConfigMap, Event and Lease that are not simply replaced.
fn strategy(path: &str) -> Strategy {
    match path {
        ".metadata.ownerReferences" => Strategy::ByKey("uid"),
        ".metadata.finalizers" => Strategy::Set,
        ".status.conditions" => Strategy::ByKey("type"),
        _ => Strategy::Replace,
    }
}

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch with the merge keys of the core kinds.
pub fn strategic(object: &Value, patch: &Value) -> Result<Value, Error> {
    match patch {
        Value::Object(patch) => {
            map(object.as_object().cloned().unwrap_or_default(), patch, "").map(Value::Object)
        }
        _ => Err(Error::Malformed(
            "a strategic merge patch is an object".into(),
        )),
    }
}

type Fields = Map<String, Value>;

fn map(mut fields: Fields, patch: &Fields, path: &str) -> Result<Fields, Error> {
    match patch
        .get(PATCH)
        .map(|directive| directive.as_str().unwrap_or_default())
    {
        None | Some("merge") => {}
        Some("replace") => {
            let kept = patch.iter().filter(|(key, _)| *key != PATCH);
            return Ok(kept
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect());
        }
        Some("delete") => return Ok(Fields::new()),
        Some(other) => {
            return Err(Error::Malformed(format!(
                "{path}: unknown {PATCH} directive {other:?}"
            )));
        }
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = members(retained, RETAIN_KEYS)?;
        fields.retain(|key, _| retained.contains(&Value::from(key.as_str())));
    }
    for (key, removed) in directives(patch, DELETE_PRIMITIVES) {
        let removed = members(removed, DELETE_PRIMITIVES)?;
        if let Some(Value::Array(list)) = fields.get_mut(key) {
            list.retain(|member| !removed.contains(member));
        }
    }
    for (key, change) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let path = format!("{path}.{key}");
        match change {
            Value::Null => {
                fields.remove(key);
            }
            Value::Object(change) => {
                let old = fields
                    .get(key)
                    .and_then(Value::as_object)
                    .cloned()
                    .unwrap_or_default();
                fields.insert(key.clone(), Value::Object(map(old, change, &path)?));
            }
            Value::Array(change) => {
                let old = fields
                    .get(key)
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                fields.insert(key.clone(), Value::Array(list(old, change, &path)?));
            }
            scalar => {
                fields.insert(key.clone(), scalar.clone());
            }
        }
    }
    for (key, order) in directives(patch, ELEMENT_ORDER) {
        let order = members(order, ELEMENT_ORDER)?;
        if let Some(Value::Array(list)) = fields.get_mut(key) {
            reorder(list, order, strategy(&format!("{path}.{key}")));
        }
    }
    Ok(fields)
}

fn directives<'a>(patch: &'a Fields, prefix: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    patch
        .iter()
        .filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
}

fn members<'a>(value: &'a Value, directive: &str) -> Result<&'a [Value], Error> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| Error::Malformed(format!("{directive} must be a list")))
}

fn list(old: Vec<Value>, patch: &[Value], path: &str) -> Result<Vec<Value>, Error> {
    let replaces = |member: &Value| member.get(PATCH).and_then(Value::as_str) == Some("replace");
    match strategy(path) {
        Strategy::Replace => Ok(patch.to_vec()),
        Strategy::Set => {
            let mut merged = old;
            for member in patch {
                if !merged.contains(member) {
                    merged.push(member.clone());
                }
            }
            Ok(merged)
        }
        Strategy::ByKey(_) if patch.iter().any(replaces) => Ok(patch
            .iter()
            .filter(|member| !replaces(member))
            .cloned()
            .collect()),
        Strategy::ByKey(key) => keyed(old, patch, key, path),
    }
}

fn keyed(
    mut merged: Vec<Value>,
    patch: &[Value],
    key: &str,
    path: &str,
) -> Result<Vec<Value>, Error> {
    for change in patch {
        let (Some(change), Some(id)) = (change.as_object(), change.get(key)) else {
            return Err(Error::Malformed(format!(
                "{path}: each member must be an object with {key:?}"
            )));
        };
        let at = merged.iter().position(|member| member.get(key) == Some(id));
        if change.get(PATCH).and_then(Value::as_str) == Some("delete") {
            merged.retain(|member| member.get(key) != Some(id));
            continue;
        }
        let old = at
            .and_then(|at| merged[at].as_object().cloned())
            .unwrap_or_default();
        let new = Value::Object(map(old, change, path)?);
        match at {
            Some(at) => merged[at] = new,
            None => merged.push(new),
        }
    }
    Ok(merged)
}

/// Puts the members that `order` names into its order; the others stay where they are.
fn reorder(list: &mut [Value], order: &[Value], strategy: Strategy) {
    let rank = |member: &Value| match strategy {
        Strategy::ByKey(key) => order.iter().position(|o| o.get(key) == member.get(key)),
        _ => order.iter().position(|o| o == member),
    };
    let places: Vec<_> = (0..list.len())
        .filter(|i| rank(&list[*i]).is_some())
        .collect();
    let mut named: Vec<_> = places.iter().map(|i| list[*i].clone()).collect();
    named.sort_by_key(rank);
    for (place, member) in places.into_iter().zip(named) {
        list[place] = member;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn apply(object: Value, patch: Value) -> Value {
        strategic(&object, &patch).expect("applies")
    }

    #[test]
    fn maps_merge_and_null_removes() {
        let object = json!({"data": {"a": "1", "b": "2"}, "metadata": {"labels": {"x": "y"}}});
        let result = apply(
            object,
            json!({"data": {"a": null, "c": "3"}, "metadata": {"labels": null}}),
        );
        assert_eq!(
            result,
            json!({"data": {"b": "2", "c": "3"}, "metadata": {}})
        );
    }

    #[test]
    fn lists_merge_by_their_strategy() {
        let object = json!({"metadata": {"finalizers": ["a", "b"],
            "ownerReferences": [{"uid": "1", "name": "x"}, {"uid": "2", "name": "y"}]}, "list": [1, 2]});
        let patch = json!({"metadata": {"finalizers": ["b", "c"], "$deleteFromPrimitiveList/finalizers": ["a"],
            "ownerReferences": [{"uid": "2", "name": "z"}, {"uid": "1", "$patch": "delete"}, {"uid": "3"}]}, "list": [3]});
        let result = apply(object, patch);
        let metadata = json!({"finalizers": ["b", "c"],
            "ownerReferences": [{"uid": "2", "name": "z"}, {"uid": "3"}]});
        assert_eq!(result, json!({"metadata": metadata, "list": [3]}));
    }

    #[test]
    fn directives_replace_delete_retain_and_order() {
        let object = json!({"data": {"a": "1", "b": "2"}});
        assert_eq!(
            apply(
                object.clone(),
                json!({"data": {"$patch": "replace", "c": "3"}})
            ),
            json!({"data": {"c": "3"}})
        );
        assert_eq!(
            apply(object.clone(), json!({"data": {"$patch": "delete"}})),
            json!({"data": {}})
        );
        let retain = json!({"data": {"$retainKeys": ["a", "c"], "c": "3"}});
        assert_eq!(
            apply(object.clone(), retain),
            json!({"data": {"a": "1", "c": "3"}})
        );
        assert!(strategic(&object, &json!({"data": {"$patch": "bogus"}})).is_err());
        let conditions =
            json!({"status": {"conditions": [{"type": "A"}, {"type": "B"}, {"type": "C"}]}});
        let order =
            json!({"status": {"$setElementOrder/conditions": [{"type": "C"}, {"type": "A"}]}});
        let result = apply(conditions, order);
        assert_eq!(
            result["status"]["conditions"],
            json!([{"type": "C"}, {"type": "B"}, {"type": "A"}])
        );
    }

    #[test]
    fn a_replaced_list_drops_what_was_there() {
        let object = json!({"metadata": {"ownerReferences": [{"uid": "1"}]}});
        let result = apply(
            object,
            json!({"metadata": {"ownerReferences": [{"$patch": "replace"}, {"uid": "2"}]}}),
        );
        assert_eq!(result["metadata"]["ownerReferences"], json!([{"uid": "2"}]));
    }
}
