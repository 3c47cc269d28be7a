//! `skysail describe`: one object for people: fields, conditions, what happened to it.

use crate::kinds::{Kind, Kinds};
use crate::print::{Output, clean};
use crate::refusal::explain;
use crate::request::{self, JSON, url};
use crate::verbs::get::{Scope, Selector, together, yaml};
use anyhow::Result;
use jiff::Timestamp;
use serde_json::Value;
use skysail_apiserver::table::age;

/// Flags of `describe`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail describe host h1\n  skysail describe container/web -n acme\n  skysail describe containers -A -l app=web     all of these"
)]
pub struct Describe {
    /// KIND [NAME…] or KIND/NAME…
    #[arg(required = true, value_name = "KIND")]
    what: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    selector: Selector,
}

/// Runs the verb.
///
/// # Errors
/// When an object is not there or the server refuses.
pub async fn run(client: &kube::Client, default: &str, args: Describe) -> Result<()> {
    let kinds = Kinds::discover(client).await?;
    let namespace = args.scope.place(default);
    let out = Output::stdout();
    let (mut found, mut missing) = (vec![], vec![]);
    for (kind, names) in kinds.select(&args.what)? {
        for name in &names {
            match request::get(client, &kind.path(namespace, Some(name)), JSON).await {
                Ok(object) => found.push((kind, object)),
                Err(e) => missing.push(explain(e, kind.object(namespace, name))),
            }
        }
        if names.is_empty() {
            let url = url(
                &kind.path(namespace, None),
                &[("labelSelector", &args.selector.labels)],
            );
            let list = request::get(client, &url, JSON)
                .await
                .map_err(|e| explain(e, &kind.resource.plural))?;
            found.extend(
                list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|o| (kind, o.clone())),
            );
        }
    }
    if found.is_empty() && missing.is_empty() {
        eprintln!("nothing found");
    }
    for (number, (kind, object)) in found.iter().enumerate() {
        let events = events(client, kind, object).await?;
        let text = text(&out, kind, object, &events, Timestamp::now())?;
        out.write(&format!("{}{text}", if number > 0 { "\n" } else { "" }))?;
    }
    together(missing)
}

async fn events(client: &kube::Client, kind: &Kind, object: &Value) -> Result<Vec<Value>> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let fields = format!(
        "involvedObject.kind={},involvedObject.name={name}",
        kind.resource.kind
    );
    let path = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/api/v1/namespaces/{namespace}/events"),
        None => "/api/v1/events".into(),
    };
    let list = request::get(client, &url(&path, &[("fieldSelector", &fields)]), JSON)
        .await
        .map_err(|e| explain(e, "its events"))?;
    // An earlier object of this name had its own.
    let same = |event: &&Value| {
        event["involvedObject"]["uid"]
            .as_str()
            .is_none_or(|uid| uid.is_empty() || object["metadata"]["uid"] == uid)
    };
    let mut events: Vec<Value> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(same)
        .cloned()
        .collect();
    events.sort_by_key(|e| last_seen(e).as_str().map(str::to_owned));
    Ok(events)
}

fn last_seen(event: &Value) -> Value {
    let times = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ];
    times
        .iter()
        .filter_map(|t| event.pointer(t))
        .find(|t| t.is_string())
        .cloned()
        .unwrap_or(Value::Null)
}

fn text(
    out: &Output,
    kind: &Kind,
    object: &Value,
    events: &[Value],
    now: Timestamp,
) -> Result<String> {
    let mut text = head(out, kind, object, now);
    let empty = serde_json::Map::new();
    for (field, value) in object.as_object().unwrap_or(&empty) {
        if ["apiVersion", "kind", "metadata"].contains(&field.as_str()) {
            continue;
        }
        let mut value = value.clone();
        let is_secret = kind.resource.kind == "Secret" && kind.resource.group.is_empty();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("conditions");
            if is_secret {
                fields.values_mut().for_each(|v| {
                    *v = format!("{} characters of base64", v.as_str().map_or(0, str::len)).into()
                });
            }
            if fields.is_empty() {
                continue;
            }
        }
        let shown = yaml(&value)?;
        text.push_str(&out.coloured(&format!("{}:", title(field)), "1"));
        if value.is_object() || value.is_array() {
            text.push('\n');
            shown
                .lines()
                .for_each(|line| text.push_str(&format!("  {}\n", clean(line))));
        } else {
            text.push_str(&format!(" {}", clean(shown.trim_end())));
            text.push('\n');
        }
    }
    text.push_str(&conditions(out, object, now));
    text.push_str(&history(out, events, now));
    Ok(text)
}

fn title(field: &str) -> String {
    let mut letters = field.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(letters)
        .collect()
}

fn head(out: &Output, kind: &Kind, object: &Value, now: Timestamp) -> String {
    let metadata = &object["metadata"];
    let mut rows: Vec<Vec<String>> = vec![];
    let mut row = |key: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![format!("{key}:"), clean(&value)]);
        }
    };
    let plain = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    row("Name", plain(&metadata["name"]));
    row("Namespace", plain(&metadata["namespace"]));
    row(
        "Kind",
        format!("{} ({})", kind.resource.kind, kind.resource.api_version),
    );
    for (key, field) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let pairs = metadata[field].as_object().into_iter().flatten();
        for (number, (name, value)) in pairs
            .filter(|(name, _)| !name.ends_with("/last-applied-configuration"))
            .enumerate()
        {
            row(
                if number == 0 { key } else { "" },
                format!("{name}={}", plain(value)),
            );
        }
    }
    let since = |time: &Value| match time.as_str() {
        Some(text) => format!("{text} ({} ago)", plain(&age::since(time, now))),
        None => String::new(),
    };
    row("Created", since(&metadata["creationTimestamp"]));
    row("Deleting since", since(&metadata["deletionTimestamp"]));
    let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    row(
        "Owned by",
        owners
            .map(|o| format!("{}/{}", plain(&o["kind"]), plain(&o["name"])))
            .collect::<Vec<_>>()
            .join(", "),
    );
    let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
    row(
        "Finalizers",
        finalizers.map(plain).collect::<Vec<_>>().join(", "),
    );
    for row in &mut rows {
        if row[0] == ":" {
            row[0].clear();
        }
    }
    out.aligned(&rows, &mut vec![], false)
}

fn conditions(out: &Output, object: &Value, now: Timestamp) -> String {
    let list = object["status"]["conditions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let rows = list.iter().map(|c| {
        vec![
            cell(&c["type"]),
            cell(&c["status"]),
            cell(&age::since(&c["lastTransitionTime"], now)),
            cell(&c["reason"]),
            cell(&c["message"]),
        ]
    });
    section(
        out,
        "Conditions",
        ["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"],
        rows.collect(),
    )
}

fn history(out: &Output, events: &[Value], now: Timestamp) -> String {
    let rows = events.iter().map(|e| {
        let count = [&e["series"]["count"], &e["count"]]
            .into_iter()
            .find_map(Value::as_i64)
            .unwrap_or(1);
        let age = cell(&age::since(&last_seen(e), now));
        let age = if count > 1 {
            format!("{age} (x{count})")
        } else {
            age
        };
        let from = [&e["reportingComponent"], &e["source"]["component"]]
            .into_iter()
            .map(cell)
            .find(|t| !t.is_empty())
            .unwrap_or_default();
        vec![
            age,
            cell(&e["type"]),
            cell(&e["reason"]),
            from,
            cell(&e["message"]),
        ]
    });
    let text = section(
        out,
        "Events",
        ["AGE", "TYPE", "REASON", "FROM", "MESSAGE"],
        rows.collect(),
    );
    if text.is_empty() {
        format!("{} none\n", out.coloured("Events:", "1"))
    } else {
        text
    }
}

fn cell(value: &Value) -> String {
    clean(value.as_str().unwrap_or_default())
}

fn section(out: &Output, name: &str, header: [&str; 5], mut rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    rows.insert(0, header.map(str::to_owned).to_vec());
    rows.iter_mut().for_each(|row| row[0].insert_str(0, "  "));
    format!(
        "{}\n{}",
        out.coloured(&format!("{name}:"), "1"),
        out.aligned(&rows, &mut vec![], true)
    )
}
