//! The difference between two JSON values, as a merge patch: a writer sends only
//! what it changed, so an older program does not erase fields that it does not know.

use serde_json::{Map, Value};

/// The merge patch (RFC 7396) that makes `old` into `new`; `None` where they are equal.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(a), Value::Object(b)) = (old, new) else {
        return Some(new.clone());
    };
    let gone = a
        .keys()
        .filter(|k| !b.contains_key(*k))
        .map(|k| (k.clone(), Value::Null));
    let changed = b.iter().filter_map(|(k, v)| match a.get(k) {
        Some(old) => merge_diff(old, v).map(|d| (k.clone(), d)),
        None => Some((k.clone(), v.clone())),
    });
    Some(Value::Object(gone.chain(changed).collect::<Map<_, _>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_values_need_no_patch() {
        assert_eq!(
            merge_diff(&json!({"a": [1, {"b": 2}]}), &json!({"a": [1, {"b": 2}]})),
            None
        );
    }

    #[test]
    fn only_what_changed_is_sent_and_what_went_is_null() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1]});
        let new = json!({"a": 1, "b": {"c": 3}, "e": [2], "f": {}});
        assert_eq!(
            merge_diff(&old, &new),
            Some(json!({"b": {"c": 3, "d": null}, "e": [2], "f": {}}))
        );
    }
}
