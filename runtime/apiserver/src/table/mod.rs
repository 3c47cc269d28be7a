//! `kubectl get`: objects as rows of a Table, and as PartialObjectMetadata.
//!
//! Ages are rendered here, as text: kubectl prints cells as they come.

pub mod age;
mod core;
pub mod path;

use jiff::Timestamp;
use path::JsonPath;
use serde_json::{Value, json};

/// What `rows[].object` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// `null`.
    None,
    /// PartialObjectMetadata.
    #[default]
    Metadata,
    /// The object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`; `None` if it has another value.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// The columns of a kind.
#[derive(Debug, Clone)]
pub struct Columns {
    columns: Vec<Column>,
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    kind: String,
    format: String,
    description: String,
    /// 0 is always shown, 1 with `-o wide`.
    priority: i64,
    cell: Cell,
}

#[derive(Debug, Clone)]
enum Cell {
    Path(JsonPath),
    Computed(fn(&Value, Timestamp) -> Value),
}

impl Columns {
    /// From a CRD version's `additionalPrinterColumns` (a JSON list; absent or null gives Name and Age). A column
    /// whose path is not understood stays empty.
    pub fn from_crd(printer_columns: &Value) -> Self {
        let mut columns = vec![Column::name()];
        for printed in printer_columns
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let text = |field: &str| {
                printed
                    .get(field)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let cell = match JsonPath::parse(text("jsonPath")) {
                Some(path) => Cell::Path(path),
                None => Cell::Computed(|_, _| Value::Null),
            };
            columns.push(Column {
                name: text("name").into(),
                kind: text("type").into(),
                format: text("format").into(),
                description: text("description").into(),
                priority: printed
                    .get("priority")
                    .and_then(Value::as_i64)
                    .unwrap_or_default(),
                cell,
            });
        }
        if columns.len() == 1 {
            columns.push(Column::age());
        }
        Self { columns }
    }

    /// The columns of a core kind (Namespace, ConfigMap, Secret, Lease, Event), else Name and Age. Events are taken
    /// in their stored, core form.
    pub fn core(kind: &str) -> Self {
        Self {
            columns: core::columns(kind),
        }
    }

    /// A Table with one row for each object. `list_metadata` becomes its `metadata`; `headers` is false for all
    /// but the first Table of a watch. `now` is what ages are counted from.
    pub fn table<'a>(
        &self,
        objects: impl IntoIterator<Item = &'a Value>,
        list_metadata: Value,
        include: IncludeObject,
        headers: bool,
        now: Timestamp,
    ) -> Value {
        let definitions: Vec<_> = self
            .columns
            .iter()
            .filter(|_| headers)
            .map(Column::definition)
            .collect();
        let rows: Vec<_> = objects
            .into_iter()
            .map(|object| {
                let cells: Vec<_> = self
                    .columns
                    .iter()
                    .map(|column| column.cell(object, now))
                    .collect();
                let object = match include {
                    IncludeObject::None => Value::Null,
                    IncludeObject::Metadata => partial(object),
                    IncludeObject::Object => object.clone(),
                };
                json!({"cells": cells, "object": object})
            })
            .collect();
        json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": list_metadata,
            "columnDefinitions": definitions,
            "rows": rows,
        })
    }
}

impl Column {
    fn new(name: &str, kind: &str, priority: i64, cell: fn(&Value, Timestamp) -> Value) -> Self {
        Self {
            name: name.into(),
            kind: kind.into(),
            format: String::new(),
            description: String::new(),
            priority,
            cell: Cell::Computed(cell),
        }
    }

    fn name() -> Self {
        let name = Self::new("Name", "string", 0, |object, _| {
            object["metadata"]["name"].clone()
        });
        Self {
            format: "name".into(),
            description: "The object's name, unique in its namespace.".into(),
            ..name
        }
    }

    fn age() -> Self {
        let age = |object: &Value, now| age::since(&object["metadata"]["creationTimestamp"], now);
        Self {
            description: "Time since the object was created.".into(),
            ..Self::new("Age", "string", 0, age)
        }
    }

    fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let path = match &self.cell {
            Cell::Computed(cell) => return cell(object, now),
            Cell::Path(path) => path,
        };
        let found = path.find(object);
        match (self.kind.as_str(), found.as_slice()) {
            (_, []) => Value::Null,
            ("date", [first, ..]) if first.is_null() => Value::Null,
            ("date", [first, ..]) => age::since(first, now),
            ("integer", [first, ..]) if first.is_i64() || first.is_u64() => (*first).clone(),
            ("number", [first, ..]) if first.is_number() => (*first).clone(),
            ("boolean", [first, ..]) if first.is_boolean() => (*first).clone(),
            ("string", found) => {
                let texts: Vec<_> = found.iter().filter_map(|value| shown(value)).collect();
                if texts.is_empty() {
                    Value::Null
                } else {
                    texts.join(",").into()
                }
            }
            _ => Value::Null,
        }
    }
}

/// A value as the text of a cell.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The PartialObjectMetadata of an object.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// A PartialObjectMetadataList of objects.
pub fn partial_list<'a>(
    objects: impl IntoIterator<Item = &'a Value>,
    list_metadata: Value,
) -> Value {
    let items: Vec<_> = objects.into_iter().map(partial).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "items": items,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().expect("a time")
    }

    fn cells(columns: &Columns, object: &Value) -> Value {
        columns.table([object], json!({}), IncludeObject::None, true, now())["rows"][0]["cells"]
            .clone()
    }

    fn container() -> Value {
        json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": "web", "creationTimestamp": "2026-11-21T09:57:00Z"},
            "status": {"phase": "Running", "restarts": 2,
                "addresses": [{"address": "10.0.0.2"}, {"address": "10.1.0.2"}],
                "conditions": [{"type": "Running", "status": "False"}, {"type": "Ready", "status": "True"}]}})
    }

    #[test]
    fn the_columns_of_a_crd_are_read_from_the_object() {
        let columns = Columns::from_crd(&json!([
            {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Address", "type": "string", "jsonPath": ".status.addresses[*].address"},
            {"name": "Restarts", "type": "integer", "jsonPath": ".status.restarts", "priority": 1},
            {"name": "Host", "type": "string", "jsonPath": ".status.host"},
            {"name": "Odd", "type": "integer", "jsonPath": ".status.phase"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ]));
        let cells = cells(&columns, &container());
        assert_eq!(
            cells,
            json!([
                "web",
                "Running",
                "True",
                "10.0.0.2,10.1.0.2",
                2,
                null,
                null,
                "3m"
            ])
        );
        let table = columns.table(
            [&container()],
            json!({"resourceVersion": "7"}),
            IncludeObject::Metadata,
            true,
            now(),
        );
        assert_eq!(table["columnDefinitions"][4]["priority"], 1);
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        assert_eq!(table["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn every_column_of_our_kinds_is_understood() {
        for kind in skysail_schemas::kinds::all() {
            for column in kind.crd.spec.versions[0]
                .additional_printer_columns
                .iter()
                .flatten()
            {
                assert!(
                    JsonPath::parse(&column.json_path).is_some(),
                    "{}",
                    column.json_path
                );
            }
        }
    }

    #[test]
    fn without_columns_there_are_name_and_age() {
        let columns = Columns::from_crd(&Value::Null);
        assert_eq!(cells(&columns, &container()), json!(["web", "3m"]));
    }

    #[test]
    fn a_row_carries_what_was_asked_for_and_only_the_first_table_has_headers() {
        let columns = Columns::core("Other");
        let object = |include| {
            columns.table([&container()], json!({}), include, false, now())["rows"][0]["object"]
                .clone()
        };
        assert_eq!(object(IncludeObject::None), Value::Null);
        assert_eq!(object(IncludeObject::Object), container());
        let metadata = object(IncludeObject::Metadata);
        assert_eq!(
            (&metadata["kind"], &metadata["status"]),
            (&json!("PartialObjectMetadata"), &Value::Null)
        );
        let table = columns.table([], json!({}), IncludeObject::None, false, now());
        assert_eq!(table["columnDefinitions"], json!([]));
    }

    #[test]
    fn partial_objects_keep_only_metadata() {
        let list = partial_list([&container()], json!({"resourceVersion": "7"}));
        assert_eq!(list["items"][0]["metadata"], container()["metadata"]);
        assert_eq!(list["kind"], "PartialObjectMetadataList");
    }

    #[test]
    fn include_object_has_three_values() {
        assert_eq!(IncludeObject::parse("Object"), Some(IncludeObject::Object));
        assert_eq!(IncludeObject::parse("bogus"), None);
    }
}
