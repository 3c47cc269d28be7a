//! `kubectl get`: objects as rows of a Table, and as PartialObjectMetadata.

use jiff::Timestamp;
use serde_json::Value;

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
    pub fn parse(_text: &str) -> Option<Self> {
        Some(Self::Metadata)
    }
}

/// The columns of a kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {}

impl Columns {
    /// From a CRD version's `additionalPrinterColumns` (a JSON list; absent or null gives Name and Age).
    pub fn from_crd(_printer_columns: &Value) -> Self {
        Self {}
    }

    /// The columns of a core kind (Namespace, ConfigMap, Secret, Lease, Event), else Name and Age.
    pub fn core(_kind: &str) -> Self {
        Self {}
    }

    /// A Table with one row for each object. `list_metadata` becomes its `metadata`; `headers` is false for all
    /// but the first Table of a watch. `now` is what ages are counted from.
    pub fn table<'a>(
        &self,
        _objects: impl IntoIterator<Item = &'a Value>,
        _list_metadata: Value,
        _include: IncludeObject,
        _headers: bool,
        _now: Timestamp,
    ) -> Value {
        Value::Null
    }
}

/// The PartialObjectMetadata of an object.
pub fn partial(_object: &Value) -> Value {
    Value::Null
}

/// A PartialObjectMetadataList of objects.
pub fn partial_list<'a>(
    _objects: impl IntoIterator<Item = &'a Value>,
    _list_metadata: Value,
) -> Value {
    Value::Null
}
