//! A forecast as people read it.

use super::changes::{Action, Change};
use super::forecast::{Forecast, HostLoad};
use crate::print::{Output, clean};
use serde_json::Value;
use std::fmt::Write as _;

/// All of it; one sentence where there is nothing.
pub fn text(out: &Output, forecast: &Forecast) -> String {
    let mut text = String::new();
    if forecast.is_nothing() {
        text.push_str("nothing would change\n");
    }
    for change in &forecast.changes {
        changed(out, change, &mut text);
    }
    if !forecast.placements.is_empty() {
        let mut rows = vec![["CONTAINER", "HOST", "WHY"].map(str::to_owned).to_vec()];
        for p in &forecast.placements {
            rows.push(vec![p.container.clone(), p.host.clone(), clean(&p.why)]);
        }
        section(out, "Placements", &rows, &mut text);
    }
    if !forecast.refusals.is_empty() {
        let mut rows = vec![
            ["CONTAINER", "REASON", "MESSAGE"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for r in &forecast.refusals {
            rows.push(vec![
                r.container.clone(),
                r.reason.clone(),
                clean(&r.message),
            ]);
        }
        section(out, "Without a host", &rows, &mut text);
    }
    let touched = |h: &&HostLoad| h.before != h.after || h.fate.is_some();
    if forecast.hosts.iter().any(|h| touched(&h)) {
        section(
            out,
            "Hosts (promised: before, after)",
            &hosts(&forecast.hosts),
            &mut text,
        );
    }
    let cost = &forecast.cost;
    if !forecast.is_nothing() {
        let unknown = match cost.unknown {
            0 => String::new(),
            n => format!("; the price of {n} hosts is not known"),
        };
        let _ = writeln!(
            text,
            "\nCost per hour: {} now, {} after{unknown}",
            money(cost.before),
            money(cost.after)
        );
    }
    for remark in &forecast.remarks {
        let _ = writeln!(text, "note: {}", clean(remark));
    }
    let counts = |action| {
        forecast
            .changes
            .iter()
            .filter(|c| c.action == action)
            .count()
    };
    if !forecast.is_nothing() {
        let _ = writeln!(
            text,
            "\n{} to create, {} to change, {} to delete; {} to place, {} without a host",
            counts(Action::Create),
            counts(Action::Change),
            counts(Action::Delete),
            forecast.placements.len(),
            forecast.refusals.len()
        );
    }
    text
}

fn section(out: &Output, title: &str, rows: &[Vec<String>], text: &mut String) {
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "{}", out.coloured(title, "1"));
    text.push_str(&out.aligned(rows, &mut vec![], true));
}

fn changed(out: &Output, change: &Change, text: &mut String) {
    let (mark, colour) = match change.action {
        Action::Create => ("+", "32"),
        Action::Change => ("~", "33"),
        Action::Delete => ("-", "31"),
    };
    let line = clean(&format!("{mark} {}", change.object));
    let _ = writeln!(text, "{}", out.coloured(&line, colour));
    for field in &change.fields {
        let line = match (&field.before, &field.after) {
            (None, Some(after)) => format!("    {}: {} (new)", field.path, short(after)),
            (Some(before), None) => format!("    {}: {} (removed)", field.path, short(before)),
            (before, after) => {
                let one = |v: &Option<Value>| v.as_ref().map_or_else(String::new, short);
                format!("    {}: {} -> {}", field.path, one(before), one(after))
            }
        };
        let _ = writeln!(text, "{}", clean(&line));
    }
}

/// A value on one line; what is very long is cut.
fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn hosts(hosts: &[HostLoad]) -> Vec<Vec<String>> {
    let header = [
        "HOST",
        "CLOUD",
        "",
        "CONTAINERS",
        "CPU",
        "MEMORY",
        "DISK",
        "PRICE/H",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for host in hosts {
        let (b, a) = (&host.before, &host.after);
        let from_to = |b: String, a: String| if a == b { a } else { format!("{b} -> {a}") };
        let percent = |b: u64, a: u64| {
            let one = |v: u64| format!("{}%", (v + 5) / 10);
            from_to(one(b), one(a))
        };
        rows.push(vec![
            host.name.clone(),
            host.cloud.clone().unwrap_or_default(),
            host.fate.clone().unwrap_or_default(),
            from_to(
                b.containers.len().to_string(),
                a.containers.len().to_string(),
            ),
            percent(b.cpu, a.cpu),
            percent(b.memory, a.memory),
            percent(b.disk, a.disk),
            host.price.map_or_else(|| "-".to_owned(), money),
        ]);
    }
    rows
}

fn money(amount: f64) -> String {
    let text = format!("{amount:.4}");
    let short = text.trim_end_matches('0');
    match short.split_once('.') {
        Some((whole, cents)) if cents.len() < 2 => format!("{whole}.{cents:0<2}"),
        _ => short.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::plan::forecast::{Cost, Load, Placement};

    #[test]
    fn a_forecast_is_aligned_and_has_no_colour_in_a_pipe() {
        let load = |memory, names: &[&str]| Load {
            memory,
            containers: names.iter().map(|n| ((*n).to_owned(), 100)).collect(),
            ..Load::default()
        };
        let forecast = Forecast {
            changes: vec![Change {
                action: Action::Create,
                object: "containers/web -n acme".into(),
                version: None,
                fields: vec![],
            }],
            placements: vec![Placement {
                container: "acme/web".into(),
                host: "east-1".into(),
                why: "east-1 is the best of 1 possible of 1 host".into(),
            }],
            hosts: vec![HostLoad {
                name: "east-1".into(),
                cloud: Some("east".into()),
                before: load(0, &[]),
                after: load(100, &["acme/web"]),
                price: Some(0.05),
                fate: None,
            }],
            cost: Cost {
                before: 0.05,
                after: 0.05,
                unknown: 0,
            },
            ..Forecast::default()
        };
        let expected = "\
+ containers/web -n acme

Placements
CONTAINER   HOST     WHY
acme/web    east-1   east-1 is the best of 1 possible of 1 host

Hosts (promised: before, after)
HOST     CLOUD      CONTAINERS   CPU   MEMORY      DISK   PRICE/H
east-1   east       0 -> 1       0%    0% -> 10%   0%     0.05

Cost per hour: 0.05 now, 0.05 after

1 to create, 0 to change, 0 to delete; 1 to place, 0 without a host
";
        assert_eq!(text(&Output::plain(), &forecast), expected);
        let nothing = text(&Output::plain(), &Forecast::default());
        assert_eq!(nothing, "nothing would change\n");
    }
}
