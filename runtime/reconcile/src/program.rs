//! Which program runs here, so that a server and its agents can tell whether they are of one build.

use std::fs::File;
use std::io;
use tokio::process::Command;

/// SHA-256 of the program that runs here, in hexadecimal, though its file was replaced; by a program, as a debug build
/// of ours takes seconds.
///
/// # Errors
/// When it cannot be read, or there is no `sha256sum`.
pub async fn hash() -> io::Result<String> {
    let file = File::open("/proc/self/exe")?;
    let output = Command::new("sha256sum").stdin(file).output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let hash = text.split(' ').next().filter(|h| h.len() == 64);
    hash.map(str::to_owned)
        .ok_or_else(|| io::Error::other("sha256sum cannot hash /proc/self/exe"))
}
