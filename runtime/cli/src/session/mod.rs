//! The client's side of sessions: a command in a container, captured or attached to
//! this terminal.

pub mod terminal;
#[cfg(test)]
mod tests;
mod window;

use anyhow::{Context, Result, anyhow};
use futures::{SinkExt, StreamExt};
use http::Request;
use serde_json::Value;
use skysail_schemas::session::{
    ENDED, RESIZE, SILENCE, STATUS, STDERR, STDIN, STDOUT, Size, WINDOW_PARAMETER, exit_code,
    taken_of,
};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use window::Window;

/// How long an agent that is not connected is waited for, and between two tries.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(250);

/// A command that ended, with what it printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// What to do where.
#[derive(Debug, Clone)]
pub struct Session {
    /// Namespace of the container.
    pub namespace: String,
    /// The container.
    pub container: String,
    /// `exec`, `console`, `log`, `files`, `trace` or `probe`.
    pub action: &'static str,
    /// Query parameters.
    pub query: Vec<(&'static str, String)>,
}

impl Session {
    fn path(&self) -> String {
        let encode = |text: &str| {
            text.bytes().fold(String::new(), |mut out, byte| {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
                        out.push(char::from(byte))
                    }
                    other => out.push_str(&format!("%{other:02X}")),
                }
                out
            })
        };
        let query: Vec<_> = self
            .query
            .iter()
            .map(|(k, v)| format!("{k}={}", encode(v)))
            .chain([format!("{WINDOW_PARAMETER}=true")])
            .collect();
        format!(
            "/apis/skysail.dev/v1alpha1/namespaces/{}/containers/{}/{}?{}",
            encode(&self.namespace),
            encode(&self.container),
            self.action,
            query.join("&")
        )
    }
}

/// Runs a command in a container and returns what it printed.
///
/// # Errors
/// When it could not be run; a command that fails is no error.
pub async fn run(
    client: &kube::Client,
    namespace: &str,
    container: &str,
    command: &[String],
) -> Result<Finished> {
    let session = Session {
        namespace: namespace.into(),
        container: container.into(),
        action: "exec",
        query: command
            .iter()
            .map(|word| ("command", word.clone()))
            .collect(),
    };
    captured(client, &session).await
}

/// Runs a session without input and returns what it printed.
///
/// # Errors
/// When it cannot be had or breaks; a process that fails is no error.
pub async fn captured(client: &kube::Client, session: &Session) -> Result<Finished> {
    let (mut stdout, mut stderr) = (vec![], vec![]);
    let input = tokio::io::empty();
    let code = stream(client, session, input, &mut stdout, &mut stderr, None).await?;
    Ok(Finished {
        code,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// New sizes of the client's terminal.
pub type Sizes = tokio::sync::mpsc::UnboundedReceiver<Size>;

/// Connects, which takes a while when the host's agent is just starting again.
async fn connect(
    client: &kube::Client,
    session: &Session,
    what: &impl Fn() -> String,
) -> Result<kube::client::Connection> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let request = Request::get(session.path()).body(vec![])?;
        match client.connect(request).await {
            Ok(connection) => return Ok(connection),
            Err(kube::Error::Api(status))
                if status.code == 502 && tokio::time::Instant::now() < until => {}
            Err(kube::Error::Api(status)) => {
                return Err(anyhow!("{}: {}", what(), status.message));
            }
            Err(other) => return Err(anyhow!(other).context(what())),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Carries the streams of a session until it ends; the exit code.
///
/// # Errors
/// When the session cannot be had or breaks.
pub async fn stream(
    client: &kube::Client,
    session: &Session,
    mut input: impl AsyncRead + Unpin,
    output: &mut (impl AsyncWrite + Unpin),
    errors: &mut (impl AsyncWrite + Unpin),
    mut sizes: Option<Sizes>,
) -> Result<i32> {
    let what = || format!("container {} -n {}", session.container, session.namespace);
    let socket = connect(client, session, &what).await?;
    let (mut sink, mut incoming) = socket.into_stream().split();
    let window = Window::default();
    let mut pings = tokio::time::interval(SILENCE / 4);
    // Both ways at once: a client that only sent while the process waits for its output
    // to be taken would wait for ever.
    let up = async {
        let (mut buffer, mut open) = (vec![0; 32 << 10], true);
        loop {
            let read = async {
                window.room().await;
                input.read(&mut buffer).await
            };
            let message = tokio::select! {
                read = read, if open => {
                    let size = read.context("reading standard input")?;
                    open = size > 0;
                    window.sent(size);
                    Message::binary(if open { [&[STDIN][..], &buffer[..size]].concat() } else { vec![ENDED, STDIN] })
                }
                Some(size) = async { match &mut sizes { Some(sizes) => sizes.recv().await, None => None } } => {
                    Message::binary([&[RESIZE][..], &serde_json::to_vec(&size)?].concat())
                }
                // Whoever waits for its output to be taken, and so reads nothing, is there all the same.
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            if sink.send(message).await.is_err() {
                // The process may have ended without reading all: its status is on the way.
                std::future::pending::<()>().await;
            }
        }
    };
    let down = async {
        loop {
            let next = tokio::time::timeout(SILENCE, incoming.next());
            let message = next.await.map_err(|_| {
                anyhow!(
                    "{}: the API server was not heard for {} s; check the connection to it and try again",
                    what(),
                    SILENCE.as_secs()
                )
            })?;
            match message {
                Some(Ok(Message::Binary(data))) => match data.first() {
                    Some(&STDOUT) => {
                        output.write_all(&data[1..]).await?;
                        output.flush().await?;
                    }
                    Some(&STDERR) => {
                        errors.write_all(&data[1..]).await?;
                        errors.flush().await?;
                    }
                    Some(&STATUS) => {
                        let status: Value = serde_json::from_slice(&data[1..])
                            .context("the session's status cannot be read")?;
                        return exit_code(&status)
                            .map_err(|message| anyhow!("{}: {message}", what()));
                    }
                    _ => {
                        if let Some(bytes) = taken_of(&data) {
                            window.taken(bytes as usize);
                        }
                    }
                },
                Some(Ok(Message::Close(_))) | None => {
                    return Err(anyhow!(
                        "{}: the session ended without an exit code; the host's agent may have ended",
                        what()
                    ));
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(anyhow!(e).context(what())),
            }
        }
    };
    tokio::select! {
        ended = up => ended,
        code = down => code,
    }
}
