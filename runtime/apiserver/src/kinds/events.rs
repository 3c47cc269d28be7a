//! Events: one stored form, two views. Recorders write `events.k8s.io/v1`, kubectl reads core `v1`.
//!
//! What is stored is the core form: field selectors (`involvedObject.name`) are defined on it. Both forms hold the
//! same facts under other names, so either can be made from the other without loss.

use serde_json::{Value, json};

/// Names in `events.k8s.io/v1` and in core `v1`.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

const EVENTS: &str = "events.k8s.io/v1";

/// The form in which an event is stored, from a body of either group (told apart by its `apiVersion`).
pub fn to_stored(mut event: Value) -> Value {
    if event.get("apiVersion").and_then(Value::as_str) == Some(EVENTS) {
        rename(&mut event, NAMES.iter().map(|(new, core)| (*new, *core)));
    }
    if let Some(fields) = event.as_object_mut() {
        fields.insert("apiVersion".into(), "v1".into());
        fields.insert("kind".into(), "Event".into());
        // Go prints its zero times.
        fields.retain(|_, value| !value.is_null());
        fields.entry("involvedObject").or_insert_with(|| json!({}));
    }
    event
}

/// A stored event as its client asked for it: `events_group` is true below `/apis/events.k8s.io`.
pub fn view(mut stored: Value, events_group: bool) -> Value {
    if events_group {
        rename(&mut stored, NAMES.iter().map(|(new, core)| (*core, *new)));
        if let Some(fields) = stored.as_object_mut() {
            fields.insert("apiVersion".into(), EVENTS.into());
            fields.insert("kind".into(), "Event".into());
            // Required there; clients of the core form leave it out.
            fields.entry("eventTime").or_insert(Value::Null);
        }
    }
    stored
}

fn rename<'a>(event: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(fields) = event.as_object_mut() else {
        return;
    };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Value {
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "web.1", "namespace": "acme"},
            "regarding": {"kind": "Container", "name": "web"}, "note": "placed on h1", "reason": "Scheduled",
            "reportingController": "placement", "reportingInstance": "p-1", "action": "Bind", "type": "Normal",
            "eventTime": "2026-11-21T09:00:00.000001Z", "series": {"count": 2}, "deprecatedCount": null,
        })
    }

    #[test]
    fn a_recorded_event_reads_as_a_core_event() {
        let stored = to_stored(recorded());
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["involvedObject"]["name"], "web");
        assert_eq!(stored["message"], "placed on h1");
        assert_eq!(stored["reportingComponent"], "placement");
        assert_eq!((stored.get("note"), stored.get("count")), (None, None));
        assert_eq!(view(stored.clone(), false), stored);
    }

    #[test]
    fn both_ways_lead_back() {
        let mut recorded = recorded();
        recorded
            .as_object_mut()
            .expect("object")
            .remove("deprecatedCount");
        assert_eq!(view(to_stored(recorded.clone()), true), recorded);
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "x"}, "message": "m",
            "source": {"component": "c"}, "firstTimestamp": "t", "lastTimestamp": "t", "count": 3,
            "eventTime": "t", "reportingComponent": "c"});
        assert_eq!(to_stored(view(core.clone(), true)), core);
    }

    #[test]
    fn storing_twice_changes_nothing() {
        let once = to_stored(recorded());
        assert_eq!(to_stored(once.clone()), once);
    }
}
