//! The only place here that runs a program: with a deadline, traced, and with a
//! failure that says which command, how it ended and what it printed.

use std::{process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command};

/// A program that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{command}` {how}")]
pub struct Failure {
    /// The command line.
    pub command: String,
    /// How it ended, with the end of what it printed.
    pub how: String,
}

/// Longest wait for a program that talks to the kernel only.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs `program` with `args` and returns what it printed.
pub async fn run(program: &str, args: &[&str]) -> Result<String, Failure> {
    feed(program, args, "").await
}

/// Runs `program` with `args`, gives it `input`, and returns what it printed.
pub async fn feed(program: &str, args: &[&str], input: &str) -> Result<String, Failure> {
    let line = format!("{program} {}", args.join(" "));
    let fail = |how: String| Failure {
        command: line.clone(),
        how,
    };
    tracing::trace!(command = line, "run");
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            fail(format!(
                "did not start: {e}; is the package that has it installed?"
            ))
        })?;
    let stdin = child.stdin.take();
    let input = input.to_owned();
    let work = async {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading is judged by its exit status.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(DEADLINE, work)
        .await
        .map_err(|_| fail(format!("did not end within {DEADLINE:?} and was killed")))?
        .map_err(|e| fail(format!("could not be waited for: {e}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(fail(format!(
        "failed ({}): {}",
        output.status,
        tail(&output.stderr)
    )))
}

/// The last lines of what a program printed, short enough for a condition.
pub fn tail(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines[lines.len().saturating_sub(4)..]
        .join("; ")
        .chars()
        .take(600)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_names_the_command_and_what_it_said() {
        let failure = run("sh", &["-c", "echo no such device >&2; exit 3"])
            .await
            .unwrap_err();
        assert!(failure.to_string().contains("exit status: 3"), "{failure}");
        assert!(failure.to_string().contains("no such device"), "{failure}");
        assert!(
            run("/no/such/program", &[])
                .await
                .unwrap_err()
                .to_string()
                .contains("did not start")
        );
    }
}
