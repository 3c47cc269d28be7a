//! Times that the cases measured, kept for the report.

use std::time::Duration;

/// How many times of one name are kept.
const KEPT: usize = 20;

/// Appends one measured time to `target/report/drift.jsonl`, from where the oldest of its name go in time.
///
/// # Errors
/// When the file cannot be written.
pub fn record(name: &str, took: Duration) -> anyhow::Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/report");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("drift.jsonl");
    let name = format!("spine.drift.{name}");
    let line = serde_json::json!({ "name": name, "value": took.as_secs_f64(), "unit": "s" });
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let draft = folder.join("drift.new");
    std::fs::write(&draft, appended(&text, &name, &line.to_string()))?;
    Ok(std::fs::rename(draft, file)?)
}

/// `text` with one more line, of which only so many are about `name`.
fn appended(text: &str, name: &str, line: &str) -> String {
    let about = |l: &str| l.contains(&format!("\"{name}\""));
    let mut surplus = (text.lines().filter(|l| about(l)).count() + 1).saturating_sub(KEPT);
    let mut out = String::new();
    for l in text.lines() {
        if surplus > 0 && about(l) {
            surplus -= 1;
            continue;
        }
        out.push_str(l);
        out.push('\n');
    }
    out + line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_a_name_go_and_others_stay() {
        let mut text = String::from("{\"name\":\"b\"}\n");
        for n in 0..50 {
            text = appended(&text, "a", &format!("{{\"name\":\"a\",\"value\":{n}}}"));
        }
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (1 + KEPT, "{\"name\":\"b\"}"));
        assert!(lines[1].contains("30") && lines[KEPT].contains("49"));
    }
}
