//! A conversation with a running QEMU over its monitor (QMP): lines of JSON.

use crate::{Error, Result};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// A held connection.
pub struct Monitor {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

fn trouble(what: impl std::fmt::Display) -> Error {
    Error::Transient(format!("QEMU's monitor: {what}"))
}

impl Monitor {
    /// Connects to the socket at `path` and makes the monitor take commands.
    pub async fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).await.map_err(trouble)?;
        let (reader, writer) = stream.into_split();
        let mut this = Self {
            lines: BufReader::new(reader).lines(),
            writer,
        };
        this.line().await?; // its greeting
        this.ask("qmp_capabilities", json!({})).await?;
        Ok(this)
    }

    /// Runs a command and returns what it answers.
    pub async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut text = json!({ "execute": command, "arguments": arguments }).to_string();
        text.push('\n');
        self.writer
            .write_all(text.as_bytes())
            .await
            .map_err(trouble)?;
        loop {
            let mut answer = self.line().await?;
            if let Some(error) = answer.get("error") {
                return Err(trouble(format!("{command}: {error}")));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            // Anything else is an event.
        }
    }

    async fn line(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line())
            .await
            .map_err(|_| trouble("no answer"))?
            .map_err(trouble)?
            .ok_or_else(|| trouble("it closed the connection"))?;
        serde_json::from_str(&line).map_err(trouble)
    }
}
