//! The report for people: a table, the sentences that belong to it, and a plot per group of figures.

use super::{Figures, plot};
use anyhow::Result;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// The page; the plots that it shows are written into `folder`.
///
/// # Errors
/// When a plot cannot be written.
pub fn markdown(
    folder: &Path,
    figures: &Figures,
    notes: &BTreeMap<String, Vec<String>>,
) -> Result<String> {
    let mut text = String::from(
        "# Measurements\n\n| figure | value | unit | aim | met | baseline | ratio |\n|---|--:|---|--:|---|--:|--:|\n",
    );
    for (name, figure) in figures {
        let line = row(figure);
        writeln!(text, "| {name} | {line} |")?;
    }
    for note in notes.values().flatten() {
        write!(text, "\n{note}\n")?;
    }
    let group = |name: &str| name.rsplit_once('.').map(|(group, _)| group.to_owned());
    for group in figures
        .keys()
        .filter_map(|n| group(n))
        .collect::<BTreeSet<_>>()
    {
        let file = format!("{group}.svg");
        std::fs::write(
            folder.join(&file),
            plot::bars(&group, &bars(&group, figures)),
        )?;
        write!(text, "\n![{group}]({file})\n")?;
    }
    Ok(text)
}

fn row(figure: &Value) -> String {
    let number = |field: &str| figure[field].as_f64();
    let value = number("value").unwrap_or(f64::NAN);
    let show = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.3}"));
    let met = number("aim").map_or("", |aim| {
        if (figure["better"] == "lower") == (value <= aim) || value == aim {
            "yes"
        } else {
            "**no**"
        }
    });
    let ratio = number("baseline").filter(|b| *b > 0.0).map(|b| value / b);
    let unit = figure["unit"].as_str().unwrap_or_default();
    [
        format!("{value:.3}"),
        unit.to_owned(),
        show(number("aim")),
        met.to_owned(),
        show(number("baseline")),
        show(ratio),
    ]
    .join(" | ")
}

fn bars(group: &str, figures: &Figures) -> Vec<plot::Bar> {
    let own = figures.iter().filter_map(|(name, figure)| {
        let (of, label) = name.rsplit_once('.')?;
        (of == group).then(|| plot::Bar {
            label: label.to_owned(),
            value: figure["value"].as_f64().unwrap_or(f64::NAN),
            baseline: figure["baseline"].as_f64(),
            unit: figure["unit"].as_str().unwrap_or_default().to_owned(),
        })
    });
    own.collect()
}
