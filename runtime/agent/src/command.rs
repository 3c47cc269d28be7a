//! The only place that runs a program: every call has a time limit, a trace and a typed failure.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::Command as Process;

/// Why a program did not do its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It is not installed, or could not be started.
    #[error("{program} could not be started: {cause}; is its package installed?")]
    NotStarted {
        /// The program.
        program: String,
        /// The system's words.
        cause: String,
    },
    /// It ended with an error.
    #[error("{line}: exit {code}: {output}")]
    Failed {
        /// The command line.
        line: String,
        /// Its exit status, `-1` if a signal ended it.
        code: i32,
        /// The last of what it said.
        output: String,
    },
    /// It did not end in time and was killed.
    #[error("{line}: no end within {limit:?}")]
    TimedOut {
        /// The command line.
        line: String,
        /// The time limit.
        limit: Duration,
    },
}

/// One program call.
#[derive(Debug, Clone)]
pub struct Command {
    program: String,
    args: Vec<String>,
    limit: Duration,
    input: Option<String>,
}

impl Command {
    /// A call of `program`, with ten seconds to end.
    pub fn new(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            limit: Duration::from_secs(10),
            input: None,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(
            args.into_iter()
                .map(|a| a.as_ref().to_string_lossy().into_owned()),
        );
        self
    }

    /// Text for its standard input.
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// How long it may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command line, for people.
    pub fn line(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs it to its end and returns what it printed.
    ///
    /// # Errors
    /// See [`Failure`]. A program that outlives its time limit is killed.
    pub async fn run(self) -> Result<String, Failure> {
        let line = self.line();
        let started = Instant::now();
        let mut process = Process::new(&self.program);
        process
            .args(&self.args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        process.stdin(if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let not_started = |e: std::io::Error| Failure::NotStarted {
            program: self.program.clone(),
            cause: e.to_string(),
        };
        let mut child = process.spawn().map_err(not_started)?;
        let stdin = child.stdin.take();
        let input = self.input.clone().unwrap_or_default();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A program that ends without reading says so by its exit status.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let work = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = match tokio::time::timeout(self.limit, work).await {
            Err(_) => {
                return Err(Failure::TimedOut {
                    line,
                    limit: self.limit,
                });
            }
            Ok(Err(e)) => return Err(not_started(e)),
            Ok(Ok(output)) => output,
        };
        tracing::debug!(command = %line, code = output.status.code(), took = ?started.elapsed(), "ran");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = if output.stderr.is_empty() {
            &output.stdout
        } else {
            &output.stderr
        };
        Err(Failure::Failed {
            line,
            code: output.status.code().unwrap_or(-1),
            output: tail(&String::from_utf8_lossy(said)),
        })
    }
}

/// The last lines of `text`, short enough for a condition's message.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    let skip = last.chars().count().saturating_sub(400);
    last.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_prints_is_returned() {
        assert_eq!(
            Command::new("cat").input("hello").run().await,
            Ok("hello".to_owned())
        );
    }

    #[tokio::test]
    async fn a_failing_program_is_reported_with_its_line_status_and_words() {
        let failure = Command::new("sh")
            .args(["-c", "echo broken >&2; exit 3"])
            .run()
            .await;
        let line = "sh -c echo broken >&2; exit 3".to_owned();
        assert_eq!(
            failure,
            Err(Failure::Failed {
                line,
                code: 3,
                output: "broken".into()
            })
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_at_its_limit() {
        let failure = Command::new("sleep")
            .arg("60")
            .limit(Duration::from_millis(50))
            .run()
            .await;
        assert!(
            matches!(failure, Err(Failure::TimedOut { .. })),
            "{failure:?}"
        );
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let failure = Command::new("skysail-no-such-program").run().await;
        assert!(
            matches!(failure, Err(Failure::NotStarted { ref program, .. }) if program == "skysail-no-such-program")
        );
    }
}
