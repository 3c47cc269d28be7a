//! A forecast as a picture: every host as a column of what is promised of its memory, before and after.

use super::forecast::{Forecast, HostLoad, Load};
use std::fmt::Write as _;

const COLUMN: usize = 150;
const HEIGHT: usize = 220;
const TOP: usize = 70;
const LEFT: usize = 20;

/// The picture. It names no fonts or files that are not everywhere.
pub fn svg(forecast: &Forecast) -> String {
    let width = LEFT * 2 + COLUMN * forecast.hosts.len().max(2);
    let rows = [("now", false), ("after", true)];
    let height = (TOP + HEIGHT + 40) * rows.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (row, (title, later)) in rows.into_iter().enumerate() {
        let y = row * (TOP + HEIGHT + 40);
        let cost = if later {
            forecast.cost.after
        } else {
            forecast.cost.before
        };
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\" font-size=\"16\" font-weight=\"bold\">{title}: {cost:.4} per hour</text>",
            y + 24
        );
        for (i, host) in forecast.hosts.iter().enumerate() {
            column(&mut svg, host, later, LEFT + i * COLUMN, y + TOP);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn column(svg: &mut String, host: &HostLoad, later: bool, x: usize, y: usize) {
    let absent = match host.fate.as_deref() {
        Some("new") => !later,
        Some("gone") => later,
        _ => false,
    };
    let label = escaped(&host.name);
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{}\">{label}</text>", y - 8);
    let box_width = COLUMN - 20;
    let (dash, fill) = if absent {
        (" stroke-dasharray=\"4 3\"", "#ffffff")
    } else {
        ("", "#f4f6f8")
    };
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{box_width}\" height=\"{HEIGHT}\" fill=\"{fill}\" stroke=\"#5f6b7a\"{dash}/>"
    );
    if absent {
        return;
    }
    let load = if later { &host.after } else { &host.before };
    stack(svg, load, &host.before, later, (x, y, box_width));
}

fn stack(svg: &mut String, load: &Load, before: &Load, later: bool, place: (usize, usize, usize)) {
    let (x, y, width) = place;
    let mut bottom = y + HEIGHT;
    for (name, share) in &load.containers {
        let height = ((*share as usize).min(1000) * HEIGHT / 1000).max(2);
        bottom = bottom.saturating_sub(height).max(y);
        // What comes is told apart from what was there.
        let new = later && !before.containers.contains_key(name);
        let fill = if new { "#2f9e63" } else { "#4c78b5" };
        let _ = writeln!(
            svg,
            "<rect x=\"{}\" y=\"{bottom}\" width=\"{}\" height=\"{height}\" fill=\"{fill}\" stroke=\"#ffffff\"><title>{}: {}.{}% of the memory</title></rect>",
            x + 1,
            width - 2,
            escaped(name),
            share / 10,
            share % 10
        );
        if height >= 14 {
            let short: String = name.chars().take(20).collect();
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" fill=\"#ffffff\">{}</text>",
                x + 5,
                bottom + height / 2 + 4,
                escaped(&short)
            );
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{}\" fill=\"#5f6b7a\">cpu {}%, memory {}%</text>",
        y + HEIGHT + 16,
        load.cpu / 10,
        load.memory / 10
    );
}

fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '&' => "&amp;".to_owned(),
            '"' => "&quot;".to_owned(),
            c if c.is_control() => " ".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_every_host_twice_and_no_name_breaks_it() {
        let containers = [("a/<b>&".to_owned(), 500)].into();
        let after = Load {
            containers,
            ..Load::default()
        };
        let host = HostLoad {
            name: "h".into(),
            after,
            ..HostLoad::default()
        };
        let picture = svg(&Forecast {
            hosts: vec![host],
            ..Forecast::default()
        });
        assert_eq!(picture.matches(">h</text>").count(), 2);
        assert!(picture.contains("a/&lt;b&gt;&amp;") && !picture.contains("<b>"));
    }
}
