//! Removal of unknown fields.

use super::{Node, Path};
use serde_json::Value;

pub(super) fn prune(node: &Node, value: &mut Value, path: &mut Path, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.retain(
                |key, value| match (node.properties.get(key), &node.additional) {
                    (Some(child), _) => {
                        path.field(key, |path| prune(child, value, path, unknown));
                        true
                    }
                    (None, Some(child)) => {
                        path.key(key, |path| prune(child, value, path, unknown));
                        true
                    }
                    // A value of the wrong type is told about as such, not taken apart.
                    (None, None) => {
                        let keep =
                            node.preserve_unknown || node.kind != Some(super::node::Type::Object);
                        if !keep {
                            path.field(key, |path| unknown.push(path.text()));
                        }
                        keep
                    }
                },
            );
        }
        Value::Array(members) => {
            if let Some(items) = &node.items {
                for (i, member) in members.iter_mut().enumerate() {
                    path.index(i, |path| prune(items, member, path, unknown));
                }
            }
        }
        _ => {}
    }
}
