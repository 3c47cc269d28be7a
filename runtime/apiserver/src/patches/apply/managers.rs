//! The entries of `metadata.managedFields`.

use super::Writer;
use super::field_set::FieldSet;
use serde_json::{Map, Value, json};

/// More updating managers than this are merged into one, oldest first.
const MAX_UPDATERS: usize = 10;
/// Who that one is.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes. What it applies it also takes back; what it updates it only owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// What one manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// RFC 3339.
    pub(super) time: String,
    pub(super) fields: FieldSet,
}

impl Entry {
    pub(super) fn new(manager: &str, operation: Operation, writer: Writer<'_>) -> Self {
        Self {
            manager: manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: format!("{:.0}", writer.now),
            fields: FieldSet::default(),
        }
    }

    /// Is it this writer's? There is one version of each kind, so the version does not tell entries apart.
    pub(super) fn is_of(&self, writer: Writer<'_>, operation: Operation) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource
    }

    fn decode(entry: &Value) -> Option<Self> {
        let text = |field: &str| {
            entry
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::decode(entry.get("fieldsV1")?)?,
        })
    }

    fn encode(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": match self.operation { Operation::Apply => "Apply", Operation::Update => "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.encode(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }
}

/// Takes the entries of an object: none if there are none or if they cannot be read.
pub(super) fn decode(object: &Value) -> Vec<Entry> {
    let entries = object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let entries: Option<Vec<_>> = entries
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(Entry::decode)
        .collect();
    entries.unwrap_or_default()
}

/// Has a client asked to forget all owners (`managedFields: [{}]`)?
pub(super) fn is_reset(object: &Value) -> bool {
    object.pointer("/metadata/managedFields") == Some(&json!([{}]))
}

/// Writes the entries into an object, without empty ones.
pub(super) fn encode(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    cap(&mut entries);
    entries.sort_by(|a, b| {
        let key = |e: &Entry| {
            (
                e.operation,
                e.time.clone(),
                e.manager.clone(),
                e.subresource.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    let metadata = fields
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if entries.is_empty() {
        forget(object);
    } else {
        metadata["managedFields"] = entries.iter().map(Entry::encode).collect();
    }
}

/// Removes all entries from an object.
pub(super) fn forget(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn cap(entries: &mut Vec<Entry>) {
    let (mut updaters, mut kept): (Vec<_>, Vec<_>) = entries
        .drain(..)
        .partition(|entry| entry.operation == Operation::Update);
    if updaters.len() > MAX_UPDATERS {
        updaters.sort_by(|a, b| a.time.cmp(&b.time));
        let recent = updaters.split_off(updaters.len() - (MAX_UPDATERS - 1));
        let merged = updaters.into_iter().reduce(|mut ancient, entry| {
            ancient.fields.add(&entry.fields);
            ancient.time = entry.time;
            ancient
        });
        kept.extend(merged.map(|entry| Entry {
            manager: ANCIENT.to_owned(),
            subresource: String::new(),
            ..entry
        }));
        updaters = recent;
    }
    kept.append(&mut updaters);
    *entries = kept;
}
