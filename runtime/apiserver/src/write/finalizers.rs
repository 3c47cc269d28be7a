//! What keeps an object that is being deleted.

use serde_json::Value;

/// Whether an object being deleted has nothing left that keeps it.
pub(crate) fn is_finished(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
        && finalizers(object).is_empty()
        && !is_held(object)
}

/// Namespaces are held by `spec.finalizers` too.
fn is_held(object: &Value) -> bool {
    object["kind"] == "Namespace"
        && object["apiVersion"] == "v1"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty())
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect()
}
