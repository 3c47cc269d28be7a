//! Root filesystems from a Debian suite's packages, by `mmdebstrap`.

use crate::{Error, Result, command};
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Runs `mmdebstrap` with `args`; `progress` gets a line for people at each stage.
/// Needs root and the suite's mirror. What a failed run leaves is the caller's to remove.
pub async fn run(args: &[String], progress: impl Fn(&str) + Send + Sync) -> Result<()> {
    let mut child = Command::new("mmdebstrap")
        .args(args)
        // Files that the packages' scripts make get this date at the latest: the same recipe gives much the same bytes.
        .env("SOURCE_DATE_EPOCH", "1735689600")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            Error::Refused(format!(
                "mmdebstrap did not start: {e}; install the package mmdebstrap"
            ))
        })?;
    let mut said = vec![];
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(stage) = line.strip_prefix("I: ") {
                tracing::debug!(stage, "mmdebstrap");
                if ["downloading", "extracting", "installing"]
                    .iter()
                    .any(|word| stage.starts_with(word))
                {
                    progress(stage.trim_end_matches('.'));
                }
            }
            said.extend_from_slice(line.as_bytes());
            said.push(b'\n');
        }
    }
    let status = child
        .wait()
        .await
        .map_err(|e| Error::Transient(e.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Transient(format!(
        "mmdebstrap failed ({status}): {}",
        complaint(&said)
    )))
}

/// What it complained of: its own errors and those of apt, or the end of what it said.
fn complaint(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("E:") || l.contains("Err:") || l.contains("No space left"))
        .collect();
    if lines.is_empty() {
        command::tail(said)
    } else {
        command::tail(lines.join("\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complaint_is_what_apt_said_and_not_the_stages_after_it() {
        let said = b"I: installing\nE: Unable to locate package nosuch\nI: cleaning\nI: done\n";
        assert_eq!(complaint(said), "E: Unable to locate package nosuch");
        assert_eq!(complaint(b"odd\n"), "odd");
    }
}
