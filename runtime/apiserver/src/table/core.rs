//! The columns of the core kinds, as Kubernetes has them.

use super::{Column, age};
use jiff::Timestamp;
use serde_json::{Map, Value};

pub(super) fn columns(kind: &str) -> Vec<Column> {
    let own = match kind {
        "Namespace" => vec![Column::new("Status", "string", 0, |o, _| {
            o["status"]["phase"].clone()
        })],
        "ConfigMap" => {
            vec![Column::new("Data", "integer", 0, |o, _| {
                (entries(&o["data"]) + entries(&o["binaryData"])).into()
            })]
        }
        "Secret" => vec![
            Column::new("Type", "string", 0, |o, _| o["type"].clone()),
            Column::new("Data", "integer", 0, |o, _| entries(&o["data"]).into()),
        ],
        "Lease" => vec![Column::new("Holder", "string", 0, |o, _| {
            o["spec"]["holderIdentity"].clone()
        })],
        "Event" => return events(),
        _ => Vec::new(),
    };
    let mut columns = vec![Column::name()];
    columns.extend(own);
    columns.push(Column::age());
    columns
}

fn entries(map: &Value) -> usize {
    map.as_object().map_or(0, Map::len)
}

fn events() -> Vec<Column> {
    let text = |name, priority, cell| Column::new(name, "string", priority, cell);
    vec![
        text("Last Seen", 0, |e, now| age::since(last_seen(e), now)),
        text("Type", 0, |e, _| e["type"].clone()),
        text("Reason", 0, |e, _| e["reason"].clone()),
        text("Object", 0, object),
        text("Subobject", 1, |e, _| {
            e["involvedObject"]["fieldPath"].clone()
        }),
        text("Source", 1, source),
        text("Message", 0, |e, _| {
            e["message"].as_str().unwrap_or_default().trim().into()
        }),
        text("First Seen", 1, |e, now| age::since(first_seen(e), now)),
        Column::new("Count", "integer", 1, |e, _| count(e)),
        Column {
            format: "name".into(),
            ..text("Name", 1, |e, _| e["metadata"]["name"].clone())
        },
    ]
}

/// The first that is there.
fn first<'a>(candidates: &[&'a Value]) -> &'a Value {
    candidates
        .iter()
        .find(|value| !value.is_null())
        .copied()
        .unwrap_or(&Value::Null)
}

fn first_seen(event: &Value) -> &Value {
    first(&[
        &event["firstTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ])
}

fn last_seen(event: &Value) -> &Value {
    first(&[
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        first_seen(event),
    ])
}

fn count(event: &Value) -> Value {
    let count = first(&[&event["series"]["count"], &event["count"]]);
    if count.as_i64().unwrap_or_default() == 0 {
        1.into()
    } else {
        count.clone()
    }
}

fn object(event: &Value, _: Timestamp) -> Value {
    let text = |field: &str| event["involvedObject"][field].as_str().unwrap_or_default();
    let kind = text("kind").to_lowercase();
    match text("name") {
        "" => kind.into(),
        name => format!("{kind}/{name}").into(),
    }
}

fn source(event: &Value, _: Timestamp) -> Value {
    let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
    let component = text(first(&[
        &event["source"]["component"],
        &event["reportingComponent"],
    ]));
    match text(first(&[
        &event["source"]["host"],
        &event["reportingInstance"],
    ])) {
        host if host.is_empty() => component.into(),
        host => format!("{component}, {host}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Columns, IncludeObject};
    use serde_json::json;

    fn cells(kind: &str, mut object: Value) -> Value {
        object["metadata"] = json!({"name": "x", "creationTimestamp": "2026-11-21T09:59:55Z"});
        let now = "2026-11-21T10:00:00Z".parse().expect("a time");
        Columns::core(kind).table([&object], json!({}), IncludeObject::None, true, now)["rows"][0]["cells"].clone()
    }

    #[test]
    fn core_kinds_look_as_in_kubernetes() {
        assert_eq!(
            cells("Namespace", json!({"status": {"phase": "Active"}})),
            json!(["x", "Active", "5s"])
        );
        assert_eq!(
            cells(
                "ConfigMap",
                json!({"data": {"a": ""}, "binaryData": {"b": ""}})
            ),
            json!(["x", 2, "5s"])
        );
        assert_eq!(
            cells("Secret", json!({"type": "Opaque"})),
            json!(["x", "Opaque", 0, "5s"])
        );
        assert_eq!(
            cells("Lease", json!({"spec": {"holderIdentity": "h"}})),
            json!(["x", "h", "5s"])
        );
    }

    #[test]
    fn an_event_shows_what_and_when() {
        let event = json!({"type": "Normal", "reason": "Placed", "message": "on h1 ", "reportingComponent": "placement",
            "involvedObject": {"kind": "Container", "name": "web"}, "eventTime": "2026-11-21T09:58:00Z",
            "series": {"count": 3, "lastObservedTime": "2026-11-21T09:59:58Z"}});
        let shown = json!([
            "2s",
            "Normal",
            "Placed",
            "container/web",
            null,
            "placement",
            "on h1",
            "2m",
            3,
            "x"
        ]);
        assert_eq!(cells("Event", event), shown);
        assert_eq!(cells("Event", json!({}))[8], 1);
    }
}
