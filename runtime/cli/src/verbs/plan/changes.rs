//! What an apply would change, field by field. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is not there yet.
    Create,
    /// Fields change.
    Change,
    /// It goes.
    Delete,
}

/// One field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// For example `spec.replicas`.
    pub path: String,
    /// What it is; absent where it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it would be; absent where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// One object that would not stay as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What becomes of it.
    pub action: Action,
    /// `containers/web -n acme`.
    pub object: String,
    /// The version that was looked at; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

/// What every write changes, and what is not the user's.
const NOT_SAID: [&str; 7] = [
    "metadata.resourceVersion",
    "metadata.managedFields",
    "metadata.generation",
    "metadata.uid",
    "metadata.creationTimestamp",
    "metadata.annotations.kubectl.kubernetes.io/last-applied-configuration",
    "status",
];

/// The change from `live` (null where it is not there) to `after` (null where it goes), if there is one.
pub fn change(object: &str, live: &Value, after: &Value) -> Option<Change> {
    let action = match (live, after) {
        (Value::Null, Value::Null) => return None,
        (Value::Null, _) => Action::Create,
        (_, Value::Null) => Action::Delete,
        _ => Action::Change,
    };
    let mut fields = vec![];
    if action == Action::Change {
        let secret = live["kind"] == "Secret";
        compare("", Some(live), Some(after), &mut fields);
        if secret {
            fields.iter_mut().for_each(hide);
        }
        if fields.is_empty() {
            return None;
        }
    }
    let version = live.pointer("/metadata/resourceVersion");
    Some(Change {
        action,
        object: object.to_owned(),
        version: version.and_then(Value::as_str).map(str::to_owned),
        fields,
    })
}

/// What a secret holds is not printed, only that it changes.
fn hide(field: &mut Field) {
    if field.path.starts_with("data") || field.path.starts_with("stringData") {
        let hidden = |v: &mut Option<Value>| {
            if v.is_some() {
                *v = Some("***".into());
            }
        };
        hidden(&mut field.before);
        hidden(&mut field.after);
    }
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, fields: &mut Vec<Field>) {
    if before == after || NOT_SAID.contains(&path) {
        return;
    }
    let below = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match (before, after) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for (key, before) in a {
                compare(&below(key), Some(before), b.get(key), fields);
            }
            for (key, after) in b.iter().filter(|(k, _)| !a.contains_key(*k)) {
                compare(&below(key), None, Some(after), fields);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (before, after)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), Some(before), Some(after), fields);
            }
        }
        // What is empty on either side says nothing.
        (None, Some(v)) | (Some(v), None) if is_empty(v) => {}
        _ => fields.push(Field {
            path: path.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        }),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_field_that_differs_is_said_and_nothing_else() {
        let live = json!({"kind": "A", "metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"n": 1, "list": [{"x": 1}, 2], "gone": true}, "status": {"x": 1}});
        let after = json!({"kind": "A", "metadata": {"name": "a", "resourceVersion": "8", "labels": {"l": "v"}}, "spec": {"n": 2, "list": [{"x": 3}, 2]}, "status": {"x": 2}});
        let said = change("as/a", &live, &after).unwrap();
        let paths: Vec<_> = said.fields.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(said.version.as_deref(), Some("7"));
        assert_eq!(
            paths,
            ["metadata.labels", "spec.gone", "spec.list[0].x", "spec.n"]
        );
        assert_eq!(change("as/a", &live, &live), None);
    }

    #[test]
    fn a_secret_s_content_is_not_in_the_plan() {
        let secret =
            |v: &str| json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"key": v}});
        let said = change("secrets/s", &secret("b2xk"), &secret("bmV3")).unwrap();
        assert!(!format!("{said:?}").contains("bmV3"), "{said:?}");
        assert_eq!(said.fields[0].path, "data.key");
    }
}
