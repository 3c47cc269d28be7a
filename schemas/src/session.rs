//! Sessions (exec, console, logs, cp): what client, API server and agent agree on.
//!
//! Frames are Kubernetes' `v5.channel.k8s.io`: the first byte of each binary message
//! names its channel; `255` and a channel say that the channel has ended.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The WebSocket subprotocol.
pub const PROTOCOL: &str = "v5.channel.k8s.io";
/// To the process.
pub const STDIN: u8 = 0;
/// From the process.
pub const STDOUT: u8 = 1;
/// From the process.
pub const STDERR: u8 = 2;
/// How it ended: a `Status` as JSON.
pub const STATUS: u8 = 3;
/// The terminal's new size: `{"Width": 80, "Height": 24}`.
pub const RESIZE: u8 = 4;
/// The channel in the second byte has ended.
pub const ENDED: u8 = 255;
/// The process has taken bytes of the channel in the second byte: how many, in four bytes, the
/// highest first. Sent only to clients that ask for it with the parameter [`WINDOW_PARAMETER`].
pub const TAKEN: u8 = 254;
/// The query parameter of a client that heeds [`TAKEN`]: once it has seen one, it sends at most
/// [`WINDOW`] bytes ahead of what was taken, so that a process that does not read its input
/// stands in the way of nothing else that the client sends.
pub const WINDOW_PARAMETER: &str = "window";
/// How much input a client sends ahead, in bytes.
pub const WINDOW: usize = 256 << 10;
/// A side of a session that is not heard for this long, be it a ping, is gone. Whoever may be
/// busy otherwise pings at a fourth of it.
pub const SILENCE: Duration = Duration::from_secs(60);

/// What an agent is asked to do.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Offer {
    /// Names the session when the agent dials back.
    pub id: String,
    /// Namespace of the container.
    pub namespace: String,
    /// The container.
    pub container: String,
    /// `exec`, `console`, `log`, `files`, `trace` or `probe`.
    pub action: String,
    /// The request's query, as it came.
    pub query: String,
}

/// A terminal's size, as it is sent on [`RESIZE`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The exit code that a `Status` on [`STATUS`] tells, or its message if the process never ran.
///
/// # Errors
/// With the message of a status that carries no exit code.
pub fn exit_code(status: &serde_json::Value) -> Result<i32, String> {
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status.pointer("/details/causes").and_then(|c| c.as_array());
    let code = causes
        .and_then(|c| c.iter().find(|c| c["reason"] == "ExitCode"))
        .and_then(|c| c["message"].as_str()?.parse().ok());
    code.ok_or_else(|| {
        status["message"]
            .as_str()
            .unwrap_or("the session ended without a status")
            .to_owned()
    })
}

/// The `Status` for a process that ended with `code`.
pub fn exit_status(code: i32) -> serde_json::Value {
    if code == 0 {
        return serde_json::json!({ "metadata": {}, "status": "Success" });
    }
    serde_json::json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with exit code {code}"),
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] }
    })
}

/// A [`TAKEN`] frame of standard input.
pub fn taken(bytes: u32) -> Vec<u8> {
    [&[TAKEN, STDIN][..], &bytes.to_be_bytes()].concat()
}

/// The bytes that a [`TAKEN`] frame of standard input tells; `None` for any other frame.
pub fn taken_of(frame: &[u8]) -> Option<u32> {
    let bytes = frame.strip_prefix(&[TAKEN, STDIN])?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_survives_its_status() {
        for code in [0, 1, 127, 255] {
            assert_eq!(exit_code(&exit_status(code)), Ok(code));
        }
        assert_eq!(
            exit_code(&serde_json::json!({ "status": "Failure", "message": "no" })),
            Err("no".to_owned())
        );
    }
}
