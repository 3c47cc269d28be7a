//! The end of a write: what was stored, and the answer.

use crate::kinds::{Kind, events};
use crate::state::State;
use bytes::Bytes;
use serde_json::Value;
use skysail_store::Revision;

/// The answer to a write.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// 200 or 201.
    pub code: u16,
    /// The object in the view of its kind, or a Status.
    pub value: Value,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
}

/// An object's bytes as they are stored: in its stored form, without revision.
pub(crate) fn stored(kind: &Kind, object: &Value) -> Value {
    let mut value = if kind.plural == "events" {
        events::to_stored(object.clone())
    } else {
        object.clone()
    };
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    value
}

/// Its text.
pub(crate) fn encode(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Waits until reads see a write, and gives it its resourceVersion.
pub(crate) async fn acknowledged(state: &State, mut value: Value, revision: Revision) -> Value {
    state.cache.caught_up(revision).await;
    value["metadata"]["resourceVersion"] = Value::String(revision.to_string());
    value
}
