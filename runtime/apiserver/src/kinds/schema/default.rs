//! Defaults.

use super::Node;
use serde_json::Value;

/// Kubernetes' order: first every absent or wrongly null field with a default gets it, then the other wrong nulls
/// go. Nested defaults apply only where the parent exists.
pub(super) fn default(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, child) in &node.properties {
                let Some(default) = child.default.as_ref().filter(|d| !d.is_null()) else {
                    continue;
                };
                let missing = fields
                    .get(name)
                    .is_none_or(|v| v.is_null() && !child.nullable);
                if missing {
                    fields.insert(name.clone(), default.clone());
                }
            }
            fields.retain(|key, value| {
                let Some(child) = node.child(key) else {
                    return true;
                };
                fill_null(child, value);
                default(child, value);
                !value.is_null() || child.nullable || child.preserve_unknown
            });
        }
        Value::Array(members) => {
            if let Some(items) = &node.items {
                for member in members {
                    fill_null(items, member);
                    default(items, member);
                }
            }
        }
        _ => {}
    }
}

fn fill_null(node: &Node, value: &mut Value) {
    if let (Value::Null, false, Some(default)) = (&value, node.nullable, &node.default) {
        *value = default.clone();
    }
}
