//! The only place that runs a program: every call has a time limit, a trace and a typed failure.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

/// Lets no program that this one starts inherit what this one was given open by whoever started it. A process in a
/// container that held a file of the host's could not be moved to another host.
#[allow(unsafe_code)]
pub fn keep_descriptors() {
    let (first, last) = (3u32, u32::MAX);
    // SAFETY: the call takes numbers only and, with this flag, closes nothing: it sets a flag on descriptors that are
    // open, which makes a difference at execve(2) alone. No crate that is used here wraps it.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// A program that runs until it is dropped: it holds a namespace open.
pub struct Held {
    child: tokio::process::Child,
    pid: u32,
}

impl Held {
    /// Starts `unshare` with `flags` (such as `--user`) and returns once the new namespaces exist.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn unshare(flags: &[&str]) -> Result<Self, Failure> {
        let line = format!("unshare {} cat", flags.join(" "));
        let mut process = Process::new("unshare");
        process
            .args(flags)
            .arg("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let failed = |output: String| Failure::Failed {
            line: line.clone(),
            code: -1,
            output,
        };
        let mut child = process.spawn().map_err(|e| Failure::NotStarted {
            program: "unshare".into(),
            cause: e.to_string(),
        })?;
        let pid = child.id().ok_or_else(|| failed("ended at once".into()))?;
        // `cat` answers only after `unshare` has done its work and become `cat`.
        let echo = async {
            let (stdin, stdout) = child.stdin.as_mut().zip(child.stdout.as_mut())?;
            stdin.write_all(b".").await.ok()?;
            stdin.flush().await.ok()?;
            let mut answer = [0];
            AsyncReadExt::read_exact(stdout, &mut answer).await.ok()
        };
        let limit = Duration::from_secs(10);
        match tokio::time::timeout(limit, echo).await {
            Ok(Some(_)) => Ok(Self { child, pid }),
            Ok(None) => {
                let output = child
                    .wait_with_output()
                    .await
                    .map(|o| tail(&String::from_utf8_lossy(&o.stderr)))
                    .unwrap_or_default();
                Err(failed(output))
            }
            Err(_) => Err(Failure::TimedOut { line, limit }),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it.
    pub async fn end(mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill().await;
    }
}

/// A program that is fed through its standard input; dropped, it is killed.
pub struct Feed {
    line: String,
    child: tokio::process::Child,
    stdin: Option<tokio::process::ChildStdin>,
    /// What it says, read while it is fed: one whose words nobody reads would read no more itself.
    said: tokio::task::JoinHandle<Vec<u8>>,
}

/// The first of what a program says: a cause comes before what follows from it.
const FIRST: usize = 4 << 10;

/// Reads all and returns the beginning.
async fn beginning(mut from: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut buffer) = (vec![], [0; 1024]);
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        let room = FIRST - kept.len();
        kept.extend_from_slice(&buffer[..size.min(room)]);
    }
    kept
}

impl Feed {
    /// Starts `program`.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start<'a>(
        program: &str,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Failure> {
        let args: Vec<&str> = args.into_iter().collect();
        let mut process = Process::new(program);
        process
            .args(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = process.spawn().map_err(|e| Failure::NotStarted {
            program: program.to_owned(),
            cause: e.to_string(),
        })?;
        let stdin = child.stdin.take();
        let said = child.stderr.take();
        let said = tokio::spawn(async move {
            match said {
                Some(said) => beginning(said).await,
                None => vec![],
            }
        });
        Ok(Self {
            line: format!("{program} {}", args.join(" ")),
            child,
            stdin,
            said,
        })
    }

    /// Feeds it.
    ///
    /// # Errors
    /// It has ended; [`Feed::end`] tells why.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stdin {
            Some(stdin) => stdin.write_all(bytes).await,
            None => Ok(()),
        }
    }

    /// Ends its input and waits for its end.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn end(mut self) -> Result<(), Failure> {
        drop(self.stdin.take());
        let limit = Duration::from_secs(120);
        let ended = async {
            let status = self.child.wait().await?;
            let said = self.said.await.unwrap_or_default();
            Ok::<_, std::io::Error>((status, said))
        };
        let (status, said) = match tokio::time::timeout(limit, ended).await {
            Err(_) => {
                return Err(Failure::TimedOut {
                    line: self.line,
                    limit,
                });
            }
            Ok(Err(e)) => {
                return Err(Failure::NotStarted {
                    program: self.line,
                    cause: e.to_string(),
                });
            }
            Ok(Ok(ended)) => ended,
        };
        if status.success() {
            return Ok(());
        }
        let first: Vec<_> = String::from_utf8_lossy(&said)
            .lines()
            .take(3)
            .map(str::to_owned)
            .collect();
        Err(Failure::Failed {
            line: self.line,
            code: status.code().unwrap_or(-1),
            output: tail(&first.join("\n")),
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
    async fn a_fed_program_may_complain_as_much_as_it_likes() {
        let line = "while read l; do echo no room for $l >&2; done; exit 2";
        let mut feed = Feed::start("sh", ["-c", line]).unwrap();
        let fed = async {
            for _ in 0..20 {
                feed.write("abcdefg\n".repeat(1000).as_bytes())
                    .await
                    .unwrap();
            }
            feed.end().await
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), fed).await;
        match ended.expect("it hangs") {
            Err(Failure::Failed { code, output, .. }) => {
                assert_eq!(code, 2);
                assert!(output.starts_with("no room for abcdefg"), "{output}");
            }
            other => panic!("{other:?}"),
        }
    }

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
