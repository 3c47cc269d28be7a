//! Events: one stored form, two views. Recorders write `events.k8s.io/v1`, kubectl reads core `v1`.
//!
//! What is stored is the core form: field selectors (`involvedObject.name`) are defined on it.

use serde_json::Value;

/// The form in which an event is stored, from a body of either group.
pub fn to_stored(event: Value) -> Value {
    event
}

/// A stored event as its client asked for it: `events_group` is true below `/apis/events.k8s.io`.
pub fn view(stored: Value, _events_group: bool) -> Value {
    stored
}
