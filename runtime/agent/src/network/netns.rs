//! Working inside another network namespace, from a thread of its own, so that no other task is moved.

use super::error::{Error, Result};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `work` in a thread that has entered the network namespace mounted at `path`. The thread ends with the work.
pub async fn within<T, F>(path: &Path, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let path = path.to_owned();
    let (send, receive) = tokio::sync::oneshot::channel();
    let entered = move || {
        let failed = |e: String| Error::Namespace {
            path: path.clone(),
            message: e,
        };
        let file = File::open(&path).map_err(|e| failed(e.to_string()))?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| failed(e.to_string()))?;
        work()
    };
    let thread = move || {
        // A receiver that has gone away no longer wants the answer.
        let _ = send.send(entered());
    };
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(thread)
        .map_err(|e| Error::Switch(format!("no thread for a network namespace: {e}")))?;
    receive.await.map_err(|_| Error::Stopped)?
}

/// Runs a program in this thread's namespace with `input`; for use in [`within`] only, because it blocks.
pub fn run(program: &str, args: &[&str], input: &str) -> Result<String> {
    use crate::command::Failure;
    let line = std::iter::once(program)
        .chain(args.iter().copied())
        .collect::<Vec<_>>()
        .join(" ");
    let not_started = |e: std::io::Error| Failure::NotStarted {
        program: program.to_owned(),
        cause: e.to_string(),
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_started)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says so by its exit status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(not_started)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let output_text = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', "; ");
    Err(Failure::Failed {
        line,
        code: output.status.code().unwrap_or(-1),
        output: output_text,
    }
    .into())
}

/// Writes a file below `/proc/sys/net`, which shows the namespace of the thread that opens it.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    std::fs::write(&path, value).map_err(|source| Error::File { path, source })
}
