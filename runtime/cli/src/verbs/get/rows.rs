//! The server's Tables as rows of text.

use super::{Format, Get, Question};
use crate::print::{Output, clean};
use serde_json::Value;

/// Rows of one kind. The columns come with the first Table; later ones of a watch have none.
pub struct Rows {
    columns: Vec<(usize, String)>,
    widths: Vec<usize>,
    wide: bool,
    header: bool,
    namespace: bool,
    /// Put before names when several kinds are shown.
    prefix: String,
}

impl Rows {
    pub fn new(question: &Question<'_>, args: &Get, several: bool) -> Self {
        Self {
            columns: vec![],
            widths: vec![],
            wide: args.output == Some(Format::Wide),
            header: !args.no_headers,
            namespace: question.namespace.is_none() && question.kind.namespaced,
            prefix: if several {
                format!("{}/", question.kind.singular)
            } else {
                String::new()
            },
        }
    }

    /// The cells of a Table.
    pub fn read(&mut self, table: &Value) -> Vec<Vec<String>> {
        let definitions = table["columnDefinitions"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if !definitions.is_empty() {
            let shown = definitions
                .iter()
                .enumerate()
                .filter(|(_, d)| self.wide || d["priority"].as_i64().unwrap_or(0) == 0);
            self.columns = shown
                .map(|(i, d)| (i, d["name"].as_str().unwrap_or_default().to_uppercase()))
                .collect();
        }
        let rows = table["rows"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        rows.iter().map(|row| self.cells(row)).collect()
    }

    fn cells(&self, row: &Value) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::Null => "<none>".to_owned(),
            Value::String(text) => clean(text),
            other => other.to_string(),
        };
        let mut cells: Vec<_> = self
            .columns
            .iter()
            .map(|(index, _)| text(&row["cells"][*index]))
            .collect();
        if let Some(name) = cells.first_mut() {
            name.insert_str(0, &self.prefix);
        }
        if self.namespace {
            cells.insert(0, text(&row["object"]["metadata"]["namespace"]));
        }
        cells
    }

    /// Lines, below the names of the columns the first time.
    pub fn text(&mut self, out: &Output, mut rows: Vec<Vec<String>>) -> String {
        let header = std::mem::take(&mut self.header);
        if header {
            let names = self.columns.iter().map(|(_, name)| name.clone());
            rows.insert(
                0,
                self.namespace
                    .then(|| "NAMESPACE".to_owned())
                    .into_iter()
                    .chain(names)
                    .collect(),
            );
        }
        out.aligned(&rows, &mut self.widths, header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(wide: bool, namespace: bool) -> Rows {
        Rows {
            columns: vec![],
            widths: vec![],
            wide,
            header: true,
            namespace,
            prefix: String::new(),
        }
    }

    fn table() -> Value {
        json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Host", "priority": 1}, {"name": "Ready", "priority": 0}],
            "rows": [{"cells": ["web", "h1", null], "object": {"metadata": {"namespace": "acme"}}}],
        })
    }

    #[test]
    fn columns_of_low_priority_are_for_wide() {
        assert_eq!(rows(false, false).read(&table()), [["web", "<none>"]]);
        assert_eq!(
            rows(true, true).read(&table()),
            [["acme", "web", "h1", "<none>"]]
        );
    }

    #[test]
    fn later_tables_of_a_watch_have_the_columns_of_the_first() {
        let mut rows = rows(false, false);
        rows.read(&table());
        let later = json!({"columnDefinitions": [], "rows": [{"cells": ["db", "h2", "True"]}]});
        assert_eq!(rows.read(&later), [["db", "True"]]);
    }
}
