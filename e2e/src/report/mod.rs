//! Measurements, and how they are written: `report.json` for programs, `report.md`
//! with plots for people. Nothing here judges; an aim stands beside its figure.

mod plot;
pub mod spine;

use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
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
    notes: Vec<String>,
}

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

    /// Adds a sentence that a reader needs, for example why a figure is missing.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("report: {text}");
        self.notes.push(text);
    }

    /// Writes `report.json`, `report.md` and the plots into `folder`. Figures of other parts that are there already stay.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join("report.json");
        let mut all: serde_json::Map<String, serde_json::Value> = std::fs::read_to_string(&path)
            .ok()
            .and_then(|t| serde_json::from_str(&t).ok())
            .unwrap_or_default();
        for (name, m) in &self.metrics {
            let better = if m.better == Better::Lower {
                "lower"
            } else {
                "higher"
            };
            all.insert(name.clone(), json!({ "value": m.value, "unit": m.unit, "aim": m.aim, "better": better, "baseline": m.baseline }));
        }
        std::fs::write(&path, serde_json::to_string_pretty(&all)?)?;
        std::fs::write(folder.join("report.md"), self.markdown(folder)?)?;
        Ok(())
    }

    fn markdown(&self, folder: &Path) -> Result<String> {
        let mut text = String::from(
            "# Measurements\n\n| figure | value | unit | aim | met | baseline | ratio |\n|---|--:|---|--:|---|--:|--:|\n",
        );
        for (name, m) in &self.metrics {
            let show = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.3}"));
            let met = m.aim.map_or("", |aim| {
                if (m.better == Better::Lower) == (m.value <= aim) || m.value == aim {
                    "yes"
                } else {
                    "**no**"
                }
            });
            let ratio = m.baseline.filter(|b| *b > 0.0).map(|b| m.value / b);
            writeln!(
                text,
                "| {name} | {:.3} | {} | {} | {met} | {} | {} |",
                m.value,
                m.unit,
                show(m.aim),
                show(m.baseline),
                show(ratio)
            )?;
        }
        for note in &self.notes {
            write!(text, "\n{note}\n")?;
        }
        let groups: std::collections::BTreeSet<_> = self
            .metrics
            .keys()
            .filter_map(|n| n.rsplit_once('.').map(|(g, _)| g.to_owned()))
            .collect();
        for group in groups {
            let bars: Vec<_> = self
                .metrics
                .iter()
                .filter(|(n, _)| n.rsplit_once('.').is_some_and(|(g, _)| g == group))
                .map(|(n, m)| plot::Bar {
                    label: n[group.len() + 1..].to_owned(),
                    value: m.value,
                    baseline: m.baseline,
                    unit: m.unit,
                })
                .collect();
            let file = format!("{group}.svg");
            std::fs::write(folder.join(&file), plot::bars(&group, &bars))?;
            write!(text, "\n![{group}]({file})\n")?;
        }
        Ok(text)
    }
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
        assert_eq!(
            (
                all["spine.a.x"]["aim"].as_f64(),
                all["clouds.a.x"]["value"].as_f64()
            ),
            (Some(2.0), Some(3.0))
        );
    }
}
