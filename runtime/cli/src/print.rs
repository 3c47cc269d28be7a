//! What people read: aligned rows, colours on a terminal and nowhere else, no control characters from objects.

use std::io::{IsTerminal as _, Write as _};

/// Standard output. Colours only where it is a terminal and `NO_COLOR` is not set.
pub struct Output {
    colours: bool,
}

impl Output {
    /// Looks at what standard output is.
    pub fn stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            colours: !refused && std::io::stdout().is_terminal(),
        }
    }

    /// Without colours, whatever standard output is.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { colours: false }
    }

    /// Text as it is, at once.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn write(&self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// The text in a colour (an ANSI code), where there are colours.
    pub fn coloured(&self, text: &str, code: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Rows as lines with columns of at least `widths`, which grow. The first row is bold if it is a header.
    pub fn aligned(&self, rows: &[Vec<String>], widths: &mut Vec<usize>, header: bool) -> String {
        for row in rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for (number, row) in rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let code = if header && number == 0 {
                    Some("1")
                } else {
                    colour_of(cell)
                };
                line.push_str(&code.map_or_else(|| cell.clone(), |code| self.coloured(cell, code)));
                if column + 1 < row.len() {
                    line.push_str(&" ".repeat(widths[column] + 3 - cell.chars().count()));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn colour_of(cell: &str) -> Option<&'static str> {
    match cell {
        "True" | "Ready" | "Running" | "Active" | "Available" => Some("32"),
        "False" | "Failed" | "Lost" | "Warning" => Some("31"),
        "Unknown" | "Pending" | "Deleting" | "Terminating" | "Creating" | "Starting"
        | "Stopping" => Some("33"),
        _ => None,
    }
}

/// One line without control characters: what an object says can neither move the cursor nor break a row.
pub fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        [["NAME", "READY"], ["a-long-name", "True"], ["b", ""]]
            .map(|r| r.map(str::to_owned).to_vec())
            .to_vec()
    }

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let text = Output { colours: false }.aligned(&rows(), &mut vec![], true);
        assert_eq!(text, "NAME          READY\na-long-name   True\nb\n");
    }

    #[test]
    fn colours_change_no_column() {
        let text = Output { colours: true }.aligned(&rows(), &mut vec![], true);
        assert!(
            text.contains("a-long-name   \x1b[32mTrue\x1b[0m"),
            "{text:?}"
        );
    }

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(clean("\u{e9}\x1b[2J\nb"), "\u{e9}\\u{1b}[2J\\nb");
    }
}
