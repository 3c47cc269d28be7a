//! How a change of each of the four kinds is made: JSON patch as Go's evanphx library applies it, JSON merge
//! patch (RFC 7386), strategic merge patch for the core kinds, and server-side [`apply`].
//!
//! Pure functions of an object and a patch; needs only the schemas of [`crate::kinds`].

pub(crate) mod apply;
mod json;
mod strategic;

pub use json::json;
pub use strategic::strategic;

use serde_json::{Map, Value};

/// A patch that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 400: not a patch at all.
    #[error("{0}")]
    Malformed(String),
    /// 422: a patch, but not one for this object (a failed `test`, a missing path).
    #[error("{0}")]
    Inapplicable(String),
    /// 413.
    #[error("the patch has {0} operations, more than the limit of {MAX_OPERATIONS}")]
    TooManyOperations(usize),
}

/// The most operations of a JSON patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Applies a JSON merge patch (RFC 7386): `null` removes, lists are replaced.
pub fn merge(object: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else {
        return patch.clone();
    };
    let mut fields = object.as_object().cloned().unwrap_or_else(Map::new);
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            let merged = merge(fields.get(key).unwrap_or(&Value::Null), change);
            fields.insert(key.clone(), merged);
        }
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_follows_the_examples_of_the_rfc() {
        for (object, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!([1, 2]),
                json!({"a": "b", "c": null}),
                json!({"a": "b"}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            assert_eq!(merge(&object, &patch), result, "{object} + {patch}");
        }
    }
}
