//! Network namespaces with names, and what is plugged into them. Every function
//! says what shall be, not what to do: what is there already stays.

use crate::{Error, Result, command};
use std::{collections::BTreeSet, path::PathBuf};

/// The file that keeps the namespace `name`.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// The names of all namespaces.
pub async fn names() -> Result<BTreeSet<String>> {
    let listing = command::run("ip", &["netns", "list"]).await?;
    Ok(listing
        .lines()
        .filter_map(|l| l.split(' ').next())
        .map(str::to_owned)
        .collect())
}

/// Whether the namespace `name` exists and is not just the file of one.
pub async fn exists(name: &str) -> bool {
    file(name).exists()
        && command::run("ip", &["-n", name, "link", "show", "dev", "lo"])
            .await
            .is_ok()
}

/// Makes the namespace `name` with its loopback up.
pub async fn ensure(name: &str) -> Result<()> {
    if !exists(name).await {
        if file(name).exists() {
            // Its maker was killed between the file and the mount.
            command::run("ip", &["netns", "delete", name]).await?;
        }
        command::run("ip", &["netns", "add", name]).await?;
    }
    batch(name, "link set dev lo up\n").await
}

/// Removes the namespace `name`; what runs in it keeps it alive without its name.
pub async fn remove(name: &str) -> Result<()> {
    if file(name).exists() {
        command::run("ip", &["netns", "delete", name]).await?;
    }
    Ok(())
}

/// Gives `commands` (one `ip` command a line) to the namespace `name`.
pub async fn batch(name: &str, commands: &str) -> Result<()> {
    command::feed("ip", &["-n", name, "-batch", "-"], commands).await?;
    Ok(())
}

/// Whether the namespace `name` (`None`: this machine's own) has the link `device`.
pub async fn has_link(name: Option<&str>, device: &str) -> bool {
    let mut args = name.map_or(vec![], |n| vec!["-n", n]);
    args.extend(["link", "show", "dev", device]);
    command::run("ip", &args).await.is_ok()
}

/// A cable from `device` in `name` to `peer` in `other`. An end without its other end is replaced.
pub async fn cable(name: &str, device: &str, other: &str, peer: &str) -> Result<()> {
    let (here, there) = tokio::join!(has_link(Some(name), device), has_link(Some(other), peer));
    if here && there && connected(name, device, other, peer).await? {
        return Ok(());
    }
    if here {
        command::run("ip", &["-n", name, "link", "delete", "dev", device]).await?;
    }
    if has_link(Some(other), peer).await {
        command::run("ip", &["-n", other, "link", "delete", "dev", peer]).await?;
    }
    command::run(
        "ip",
        &[
            "-n", name, "link", "add", "name", device, "type", "veth", "peer", "name", peer,
            "netns", other,
        ],
    )
    .await?;
    Ok(())
}

/// Whether the two ends belong to one cable.
pub async fn connected(name: &str, device: &str, other: &str, peer: &str) -> Result<bool> {
    let (near, far) = (link(name, device).await?, link(other, peer).await?);
    Ok(matches!((near, far), (Some(near), Some(far)) if near.1 == far.0 && far.1 == near.0))
}

/// Index of `device` and of the link at its other end.
async fn link(name: &str, device: &str) -> Result<Option<(u64, u64)>> {
    let Ok(json) = command::run("ip", &["-n", name, "-json", "link", "show", "dev", device]).await
    else {
        return Ok(None);
    };
    let links: serde_json::Value =
        serde_json::from_str(&json).map_err(|e| Error::Transient(format!("ip -json link: {e}")))?;
    let number = |key: &str| {
        links
            .get(0)
            .and_then(|l| l.get(key))
            .and_then(serde_json::Value::as_u64)
    };
    Ok(number("ifindex").zip(number("link_index")))
}

/// Sets kernel parameters of the namespace `name`, as far as this kernel has them.
pub async fn parameters(name: &str, parameters: &[(&str, &str)]) -> Result<()> {
    let script: String = parameters
        .iter()
        .map(|(path, value)| {
            format!("[ ! -w /proc/sys/{path} ] || echo {value} >/proc/sys/{path}\n")
        })
        .collect();
    command::feed("ip", &["netns", "exec", name, "sh", "-e"], &script).await?;
    Ok(())
}
