//! Measurements, and how they are written: `report.json` for programs, `report.md`
//! with plots for people. Nothing here judges; an aim stands beside its figure.

pub mod migration;
mod page;
pub mod placement;
mod plot;
pub mod spine;

use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
}

/// One figure.
#[derive(Debug, Clone)]
pub struct Metric {
    /// What was measured.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it should be.
    pub aim: Option<f64>,
    /// Which direction is good.
    pub better: Better,
    /// The raw tool's figure in the same run, or a published one.
    pub baseline: Option<f64>,
}

/// Every figure of a run, by dotted name.
#[derive(Debug, Default)]
pub struct Report {
    metrics: BTreeMap<String, Metric>,
    notes: BTreeMap<String, Vec<String>>,
}

/// Figures as they are in `report.json`.
type Figures = BTreeMap<String, serde_json::Value>;

impl Report {
    /// Adds a figure.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        better: Better,
    ) -> &mut Metric {
        let name = name.into();
        eprintln!("report: {name} = {value:.3} {unit}");
        let metric = Metric {
            value,
            unit,
            aim: None,
            better,
            baseline: None,
        };
        match self.metrics.entry(name) {
            Entry::Occupied(mut old) => {
                old.insert(metric);
                old.into_mut()
            }
            Entry::Vacant(new) => new.insert(metric),
        }
    }

    /// Says what a figure that is there compares with.
    pub fn baseline(&mut self, name: &str, value: f64) {
        if let Some(metric) = self.metrics.get_mut(name) {
            metric.baseline = Some(value);
        }
    }

    /// Adds a sentence about `part` (`spine.start`) that a reader needs, for example why a figure is missing.
    pub fn note(&mut self, part: &str, text: impl Into<String>) {
        let text = text.into();
        eprintln!("report: {text}");
        self.notes.entry(part.into()).or_default().push(text);
    }

    /// Writes `report.json`, `report.md` and the plots into `folder`. What earlier runs found of other parts stays.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut all: Figures = earlier(&folder.join("report.json"));
        for (name, m) in &self.metrics {
            let better = if m.better == Better::Lower {
                "lower"
            } else {
                "higher"
            };
            all.insert(name.clone(), json!({ "value": m.value, "unit": m.unit, "aim": m.aim, "better": better, "baseline": m.baseline }));
        }
        // One list of sentences per part: those of a part that was measured again are over.
        let mut notes: BTreeMap<String, Vec<String>> = earlier(&folder.join("notes.json"));
        notes.retain(|part, _| !self.metrics.keys().any(|name| name.starts_with(part)));
        notes.extend(self.notes.clone());
        for (file, text) in [
            ("report.json", serde_json::to_string_pretty(&all)?),
            ("notes.json", serde_json::to_string_pretty(&notes)?),
            ("report.md", page::markdown(folder, &all, &notes)?),
        ] {
            std::fs::write(folder.join(file), text)?;
        }
        Ok(())
    }
}

fn earlier<T: serde::de::DeserializeOwned + Default>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).ok();
    text.and_then(|t| serde_json::from_str(&t).ok())
        .unwrap_or_default()
}

/// The value below which a share `q` of `values` lies.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get(((last as f64) * q).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values = [3.0, 1.0, 2.0];
        assert_eq!(
            (quantile(&mut values, 0.5), quantile(&mut values, 0.95)),
            (2.0, 3.0)
        );
    }

    #[test]
    fn a_report_keeps_the_figures_of_other_parts() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = Report::default();
        one.add("spine.a.x", 1.0, "s", Better::Lower).aim = Some(2.0);
        one.write(folder.path()).unwrap();
        let mut two = Report::default();
        two.add("clouds.a.x", 3.0, "s", Better::Higher);
        two.write(folder.path()).unwrap();
        let all: serde_json::Value = serde_json::from_str(
            &std::fs::read_to_string(folder.path().join("report.json")).unwrap(),
        )
        .unwrap();
        let page = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
        assert!(
            page.contains("spine.a.x") && page.contains("clouds.a.svg"),
            "{page}"
        );
        assert_eq!(
            (
                all["spine.a.x"]["aim"].as_f64(),
                all["clouds.a.x"]["value"].as_f64()
            ),
            (Some(2.0), Some(3.0))
        );
    }
}
