//! The network lock: a table of our own in the container's network namespace that
//! drops everything. Packets that come in while the container is in its images
//! would be acknowledged by a kernel that forgets them.
//!
//! One table, one name, both on the source and on the target, so whoever finds a
//! namespace can tell whether it is locked and unlock it, whatever was killed.

use super::error::Error;
use crate::network::netns;
use std::path::Path;

/// The table's name.
const TABLE: &str = "skysail-checkpoint";

/// Lets nothing in or out of the namespace at `netns`, apart from ARP. Locking twice is fine.
///
/// # Errors
/// nftables does not work there.
pub async fn close(netns: &Path) -> Result<(), Error> {
    let chain = |hook: &str| {
        format!("chain {hook} {{ type filter hook {hook} priority -450; policy drop; }}\n")
    };
    let text = format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{}{}}}\n",
        chain("input"),
        chain("output")
    );
    apply(netns, text).await
}

/// Undoes [`close`]; fine where it is open.
///
/// # Errors
/// nftables does not work there.
pub async fn open(netns: &Path) -> Result<(), Error> {
    apply(
        netns,
        format!("table inet {TABLE}\ndelete table inet {TABLE}\n"),
    )
    .await
}

async fn apply(at: &Path, text: String) -> Result<(), Error> {
    let run = move || netns::run("nft", &["-f", "-"], &text).map(drop);
    netns::within(at, run)
        .await
        .map_err(|e| Error::Network(e.to_string()))
}
