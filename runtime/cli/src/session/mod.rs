//! The client's side of sessions: a command in a container, captured or attached to
//! this terminal.

pub mod terminal;

use anyhow::{Context, Result, anyhow};
use futures::{SinkExt, StreamExt};
use http::Request;
use serde_json::Value;
use skysail_schemas::session::{ENDED, RESIZE, STATUS, STDERR, STDIN, STDOUT, Size, exit_code};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

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
    /// `exec`, `console`, `log` or `files`.
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
    let (mut stdout, mut stderr) = (vec![], vec![]);
    let code = stream(
        client,
        &session,
        tokio::io::empty(),
        &mut stdout,
        &mut stderr,
        None,
    )
    .await?;
    Ok(Finished {
        code,
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// New sizes of the client's terminal.
pub type Sizes = tokio::sync::mpsc::UnboundedReceiver<Size>;

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
    let request = Request::get(session.path()).body(vec![])?;
    let socket = client.connect(request).await.map_err(|e| match e {
        kube::Error::Api(status) => anyhow!("{}: {}", what(), status.message),
        other => anyhow!(other).context(what()),
    })?;
    let (mut sink, mut incoming) = socket.into_stream().split();
    // Both ways at once: a client that only sent while the process waits for its output
    // to be taken would wait for ever.
    let up = async {
        let (mut buffer, mut open) = (vec![0; 32 << 10], true);
        loop {
            let frame = tokio::select! {
                read = input.read(&mut buffer), if open => {
                    let size = match read {
                        Ok(size) => size,
                        Err(e) => return Err(anyhow!(e).context("reading standard input")),
                    };
                    open = size > 0;
                    if open { [&[STDIN][..], &buffer[..size]].concat() } else { vec![ENDED, STDIN] }
                }
                Some(size) = async { match &mut sizes { Some(sizes) => sizes.recv().await, None => None } } => {
                    [&[RESIZE][..], &serde_json::to_vec(&size)?].concat()
                }
                // Nothing more to send; the other way ends the session.
                else => std::future::pending().await,
            };
            if sink.send(Message::binary(frame)).await.is_err() {
                // The process may have ended without reading all: its status is on the way.
                std::future::pending::<()>().await;
            }
        }
    };
    let down = async {
        loop {
            match incoming.next().await {
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
                    _ => {}
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
