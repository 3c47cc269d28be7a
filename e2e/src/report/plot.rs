//! Bars as SVG: enough to see a ratio at a glance.

use std::fmt::Write as _;

pub struct Bar {
    pub label: String,
    pub value: f64,
    pub baseline: Option<f64>,
    pub unit: String,
}

/// Horizontal bars; a baseline is a grey bar below its figure.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 220.0;
    const WIDE: f64 = 420.0;
    let most = bars
        .iter()
        .flat_map(|b| [b.value, b.baseline.unwrap_or(0.0)])
        .filter(|v| v.is_finite())
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let height = 40.0 + 34.0 * bars.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/><text x=\"8\" y=\"20\" font-weight=\"bold\">{title}</text>\n"
    );
    for (i, bar) in bars.iter().enumerate() {
        let y = 36.0 + 34.0 * i as f64;
        let length = |v: f64| (v / most * WIDE).max(0.0);
        let _ = writeln!(svg, "<text x=\"8\" y=\"{}\">{}</text>", y + 13.0, bar.label);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"14\" fill=\"#2b6cb0\"/>",
            length(bar.value)
        );
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\">{:.3} {}</text>",
            LEFT + length(bar.value) + 6.0,
            y + 12.0,
            bar.value,
            bar.unit
        );
        if let Some(baseline) = bar.baseline {
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"8\" fill=\"#a0aec0\"/>",
                y + 16.0,
                length(baseline)
            );
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" fill=\"#4a5568\" font-size=\"10\">{baseline:.3}</text>",
                LEFT + length(baseline) + 6.0,
                y + 24.0
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
