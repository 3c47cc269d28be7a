//! JSON patch (RFC 6902) with the habits of Go's evanphx library, which Kubernetes' clients count on: `test` of a
//! missing key against `null` succeeds, indices may be negative.

use super::{Error, MAX_OPERATIONS};
use serde_json::Value;

/// The most values that `copy` operations may make together: small patches must not make huge objects.
const MAX_COPIED: usize = 1_000_000;

/// Applies a JSON patch (RFC 6902). As in Go, `test` of a missing path against `null` succeeds.
pub fn json(object: &Value, patch: &Value) -> Result<Value, Error> {
    let Value::Array(operations) = patch else {
        return Err(Error::Malformed(
            "a JSON patch is a list of operations".into(),
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Error::TooManyOperations(operations.len()));
    }
    let operations: Vec<_> = operations
        .iter()
        .map(Operation::parse)
        .collect::<Result<_, _>>()?;
    let mut result = object.clone();
    let mut copied = 0;
    for operation in operations {
        operation.apply(&mut result, &mut copied)?;
    }
    Ok(result)
}

/// A JSON pointer: its steps, unescaped.
#[derive(Debug)]
struct Pointer<'a> {
    text: &'a str,
    steps: Vec<String>,
}

#[derive(Debug)]
enum Operation<'a> {
    Add(Pointer<'a>, &'a Value),
    Remove(Pointer<'a>),
    Replace(Pointer<'a>, &'a Value),
    Move {
        from: Pointer<'a>,
        path: Pointer<'a>,
    },
    Copy {
        from: Pointer<'a>,
        path: Pointer<'a>,
    },
    Test(Pointer<'a>, &'a Value),
}

impl<'a> Operation<'a> {
    fn parse(operation: &'a Value) -> Result<Self, Error> {
        let malformed =
            |why: String| Error::Malformed(format!("JSON patch operation {operation}: {why}"));
        let pointer = |field: &str| {
            let text = operation.get(field).and_then(Value::as_str);
            let text = text.ok_or_else(|| malformed(format!("{field:?} is missing")))?;
            Pointer::parse(text)
                .ok_or_else(|| malformed(format!("{field:?} must be empty or begin with '/'")))
        };
        // Go cannot tell an absent value from null.
        let value = operation.get("value").unwrap_or(&Value::Null);
        let path = pointer("path")?;
        Ok(match operation.get("op").and_then(Value::as_str) {
            Some("add") => Self::Add(path, value),
            Some("remove") => Self::Remove(path),
            Some("replace") => Self::Replace(path, value),
            Some("move") => Self::Move {
                from: pointer("from")?,
                path,
            },
            Some("copy") => Self::Copy {
                from: pointer("from")?,
                path,
            },
            Some("test") => Self::Test(path, value),
            _ => {
                return Err(malformed(
                    "\"op\" is none of add, remove, replace, move, copy, test".into(),
                ));
            }
        })
    }

    fn apply(&self, object: &mut Value, copied: &mut usize) -> Result<(), Error> {
        match self {
            Self::Add(path, value) => path.add(object, (*value).clone()),
            Self::Remove(path) => path.remove(object).map(drop),
            Self::Replace(path, value) => {
                let place = path
                    .get_mut(object)
                    .ok_or_else(|| path.missing("replace"))?;
                *place = (*value).clone();
                Ok(())
            }
            Self::Move { from, path } => {
                if path.text.starts_with(&format!("{}/", from.text)) {
                    return Err(Error::Inapplicable(format!(
                        "move: {} is inside of {}",
                        path.text, from.text
                    )));
                }
                let value = from.remove(object)?;
                path.add(object, value)
            }
            Self::Copy { from, path } => {
                let value = from
                    .get_mut(object)
                    .ok_or_else(|| from.missing("copy"))?
                    .clone();
                *copied += count(&value);
                if *copied > MAX_COPIED {
                    return Err(Error::Inapplicable(format!(
                        "copy operations copy more than {MAX_COPIED} values"
                    )));
                }
                path.add(object, value)
            }
            Self::Test(path, value) => {
                let found = path.get_mut(object).map_or(&Value::Null, |found| found);
                if found == *value {
                    Ok(())
                } else {
                    Err(Error::Inapplicable(format!(
                        "testing value {} failed",
                        path.text
                    )))
                }
            }
        }
    }
}

impl<'a> Pointer<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self {
                text,
                steps: Vec::new(),
            });
        }
        let unescape = |step: &str| step.replace("~1", "/").replace("~0", "~");
        let steps = text.strip_prefix('/')?.split('/').map(unescape).collect();
        Some(Self { text, steps })
    }

    fn missing(&self, operation: &str) -> Error {
        Error::Inapplicable(format!(
            "{operation} operation does not apply: doc is missing path {:?}",
            self.text
        ))
    }

    fn get_mut<'v>(&self, object: &'v mut Value) -> Option<&'v mut Value> {
        walk(object, &self.steps)
    }

    fn add(&self, object: &mut Value, value: Value) -> Result<(), Error> {
        let Some((last, parents)) = self.steps.split_last() else {
            *object = value;
            return Ok(());
        };
        match walk(object, parents) {
            Some(Value::Object(fields)) => {
                fields.insert(last.clone(), value);
            }
            Some(Value::Array(members)) => {
                let at = if last == "-" {
                    Some(members.len())
                } else {
                    index(last, members.len() + 1)
                };
                members.insert(at.ok_or_else(|| self.missing("add"))?, value);
            }
            _ => return Err(self.missing("add")),
        }
        Ok(())
    }

    fn remove(&self, object: &mut Value) -> Result<Value, Error> {
        let removed = match self.steps.split_last() {
            Some((last, parents)) => match walk(object, parents) {
                Some(Value::Object(fields)) => fields.remove(last),
                Some(Value::Array(members)) => {
                    index(last, members.len()).map(|at| members.remove(at))
                }
                _ => None,
            },
            None => None,
        };
        removed.ok_or_else(|| self.missing("remove"))
    }
}

fn walk<'v>(object: &'v mut Value, steps: &[String]) -> Option<&'v mut Value> {
    steps.iter().try_fold(object, |value, step| match value {
        Value::Object(fields) => fields.get_mut(step),
        Value::Array(members) => {
            let at = index(step, members.len())?;
            members.get_mut(at)
        }
        _ => None,
    })
}

/// A list index below `length`; negative ones count from the end.
fn index(step: &str, length: usize) -> Option<usize> {
    let plain = step == "0" || !step.trim_start_matches('-').starts_with(['0', '+']);
    let index: i64 = step.parse().ok().filter(|_| plain)?;
    let index = if index < 0 {
        index + i64::try_from(length).ok()?
    } else {
        index
    };
    usize::try_from(index).ok().filter(|index| *index < length)
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(members) => members.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        Value::String(text) => text.len() / 16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    fn apply(object: Value, patch: Value) -> Result<Value, Error> {
        json(&object, &patch)
    }

    #[test]
    fn each_operation_does_what_the_rfc_says() {
        for (object, operation, result) in [
            (
                value!({"a": 1}),
                value!({"op": "add", "path": "/b", "value": 2}),
                value!({"a": 1, "b": 2}),
            ),
            (
                value!({"a": [1, 3]}),
                value!({"op": "add", "path": "/a/1", "value": 2}),
                value!({"a": [1, 2, 3]}),
            ),
            (
                value!({"a": [1]}),
                value!({"op": "add", "path": "/a/-", "value": 2}),
                value!({"a": [1, 2]}),
            ),
            (
                value!({"a": [1]}),
                value!({"op": "add", "path": "/a/1", "value": 2}),
                value!({"a": [1, 2]}),
            ),
            (
                value!({"a": 1}),
                value!({"op": "remove", "path": "/a"}),
                value!({}),
            ),
            (
                value!({"a": [1, 2]}),
                value!({"op": "remove", "path": "/a/-1"}),
                value!({"a": [1]}),
            ),
            (
                value!({"a": 1}),
                value!({"op": "replace", "path": "/a", "value": null}),
                value!({"a": null}),
            ),
            (
                value!({"a": {"b": 1}}),
                value!({"op": "move", "from": "/a/b", "path": "/c"}),
                value!({"a": {}, "c": 1}),
            ),
            (
                value!({"a": 1}),
                value!({"op": "copy", "from": "/a", "path": "/b"}),
                value!({"a": 1, "b": 1}),
            ),
            (
                value!({"a/b": {"~": 1}}),
                value!({"op": "replace", "path": "/a~1b/~0", "value": 2}),
                value!({"a/b": {"~": 2}}),
            ),
            (
                value!(1),
                value!({"op": "replace", "path": "", "value": 2}),
                value!(2),
            ),
        ] {
            assert_eq!(
                apply(object, value!([operation])),
                Ok(result),
                "{operation}"
            );
        }
    }

    #[test]
    fn test_takes_a_missing_key_for_null_as_go_does() {
        let object = value!({"metadata": {"name": "x"}});
        let finalizer = value!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": ["a/b"]},
        ]);
        let once = apply(object, finalizer.clone()).expect("applies");
        assert_eq!(once["metadata"]["finalizers"], value!(["a/b"]));
        assert!(matches!(
            apply(once, finalizer),
            Err(Error::Inapplicable(_))
        ));
        let same = value!([{"op": "test", "path": "/a/0", "value": {"b": 1}}]);
        assert!(apply(value!({"a": [{"b": 1}]}), same.clone()).is_ok());
        assert!(apply(value!({"a": [{"b": 2}]}), same).is_err());
    }

    #[test]
    fn what_does_not_apply_changes_nothing_and_says_why() {
        for operation in [
            value!({"op": "remove", "path": "/b"}),
            value!({"op": "replace", "path": "/b", "value": 1}),
            value!({"op": "add", "path": "/b/c", "value": 1}),
            value!({"op": "add", "path": "/a/3", "value": 1}),
            value!({"op": "add", "path": "/a/01", "value": 1}),
            value!({"op": "copy", "from": "/b", "path": "/c"}),
            value!({"op": "move", "from": "/a", "path": "/a/0"}),
        ] {
            let result = apply(value!({"a": [1, 2]}), value!([operation]));
            assert!(matches!(result, Err(Error::Inapplicable(_))), "{operation}");
        }
    }

    #[test]
    fn what_is_no_patch_is_malformed() {
        for patch in [
            value!({}),
            value!([1]),
            value!([{"op": "bogus", "path": "/a"}]),
            value!([{"op": "add", "value": 1}]),
            value!([{"op": "add", "path": "a", "value": 1}]),
            value!([{"op": "move", "path": "/a"}]),
        ] {
            assert!(
                matches!(apply(value!({}), patch.clone()), Err(Error::Malformed(_))),
                "{patch}"
            );
        }
    }

    #[test]
    fn hostile_patches_are_refused() {
        let operation = value!({"op": "test", "path": "/a", "value": null});
        let many = Value::Array(vec![operation; MAX_OPERATIONS + 1]);
        assert_eq!(
            apply(value!({}), many),
            Err(Error::TooManyOperations(MAX_OPERATIONS + 1))
        );
        let double = value!({"op": "copy", "from": "/a", "path": "/a/-"});
        let bomb = Value::Array(vec![double; 60]);
        assert!(matches!(
            apply(value!({"a": [1]}), bomb),
            Err(Error::Inapplicable(_))
        ));
    }
}
