//! How one object becomes another: kubectl's three-way merge. Pure.

use super::LAST_APPLIED;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// The object with its own text as annotation.
pub(super) fn annotated(object: &Value) -> Result<Value> {
    let mut bare = object.clone();
    if let Some(annotations) = bare
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    let text = serde_json::to_string(&bare)?;
    let metadata = bare
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .context("metadata: must be a map")?;
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    annotations
        .as_object_mut()
        .context("metadata.annotations: must be a map")?
        .insert(LAST_APPLIED.into(), text.into());
    Ok(bare)
}

/// The merge patch (RFC 7386) that sets what `wanted` has and removes what `last` had and `wanted` has not; `None` if `live` is so already.
pub(super) fn three_way(last: &Value, wanted: &Value, live: &Value) -> Option<Value> {
    let empty = Map::new();
    let (last, live_map) = (
        last.as_object().unwrap_or(&empty),
        live.as_object().unwrap_or(&empty),
    );
    let wanted = wanted.as_object()?;
    let mut patch = Map::new();
    for (key, value) in wanted {
        match (value, live_map.get(key)) {
            (_, Some(same)) if same == value => {}
            (Value::Object(_), Some(there @ Value::Object(_))) => {
                if let Some(inner) = three_way(last.get(key).unwrap_or(&Value::Null), value, there)
                {
                    patch.insert(key.clone(), inner);
                }
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in last
        .keys()
        .filter(|k| !wanted.contains_key(*k) && live_map.contains_key(*k))
    {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_before_and_is_not_any_more_is_removed() {
        let last = json!({ "spec": { "a": 1, "b": 2 } });
        let wanted = json!({ "spec": { "a": 1 } });
        let live = json!({ "spec": { "a": 1, "b": 2, "c": 3 } });
        assert_eq!(
            three_way(&last, &wanted, &live),
            Some(json!({ "spec": { "b": null } }))
        );
    }

    #[test]
    fn what_others_set_stays_and_an_equal_object_needs_no_patch() {
        let wanted = json!({ "spec": { "a": [1] } });
        assert_eq!(
            three_way(
                &wanted,
                &wanted,
                &json!({ "spec": { "a": [1], "z": 0 }, "status": {} })
            ),
            None
        );
        assert_eq!(
            three_way(&wanted, &wanted, &json!({ "spec": { "a": [2] } })),
            Some(wanted)
        );
    }
}
