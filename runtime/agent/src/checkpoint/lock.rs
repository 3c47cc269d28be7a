//! The network lock: a table of our own in the container's network namespace that
//! drops everything. Packets that come in while the container is in its images
//! would be acknowledged by a kernel that forgets them.
//!
//! One table, one name, both on the source and on the target, so whoever finds a
//! namespace can tell whether it is locked and unlock it, whatever was killed.

use super::error::Error;
use crate::network::{self, netns};
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

/// The table's name.
const TABLE: &str = "skysail-checkpoint";

/// An nftables that has started in a namespace and waits for what to do: starting it is most of what it takes.
/// Dropped, it ends and changes nothing.
#[derive(Debug)]
pub struct Lock(Child);

impl Lock {
    /// Gets ready to change the lock of the namespace at `netns`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or nftables is not installed.
    pub async fn ready(netns: &Path) -> Result<Self, Error> {
        let runtime = Handle::current();
        let start = move || {
            let _inside = runtime.enter();
            let mut nft = Command::new("nft");
            nft.args(["-f", "-"]).kill_on_drop(true);
            nft.stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            nft.spawn()
                .map_err(|e| network::Error::Switch(format!("nft could not be started: {e}")))
        };
        let started = netns::within(netns, start).await;
        started.map(Self).map_err(|e| Error::Network(e.to_string()))
    }

    /// Lets nothing in or out of the namespace, apart from ARP. Locking twice is fine.
    ///
    /// # Errors
    /// nftables does not work there.
    pub async fn close(self) -> Result<(), Error> {
        let chain = |hook: &str| {
            format!("chain {hook} {{ type filter hook {hook} priority -450; policy drop; }}\n")
        };
        let (input, output) = (chain("input"), chain("output"));
        self.apply(&format!(
            "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{input}{output}}}\n"
        ))
        .await
    }

    /// Undoes [`Self::close`]; fine where it is open.
    ///
    /// # Errors
    /// nftables does not work there.
    pub async fn open(self) -> Result<(), Error> {
        self.apply(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n"))
            .await
    }

    async fn apply(mut self, text: &str) -> Result<(), Error> {
        let failed = |e: &dyn std::fmt::Display| Error::Network(format!("nft: {e}"));
        if let Some(mut stdin) = self.0.stdin.take() {
            let written = stdin.write_all(text.as_bytes()).await;
            written.map_err(|e| failed(&e))?;
        }
        let output = self.0.wait_with_output().await.map_err(|e| failed(&e))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(&said.trim().replace('\n', "; ")))
    }
}

/// [`Lock::close`] at once.
///
/// # Errors
/// nftables does not work there.
pub async fn close(netns: &Path) -> Result<(), Error> {
    Lock::ready(netns).await?.close().await
}

/// [`Lock::open`] at once.
///
/// # Errors
/// nftables does not work there.
pub async fn open(netns: &Path) -> Result<(), Error> {
    Lock::ready(netns).await?.open().await
}
