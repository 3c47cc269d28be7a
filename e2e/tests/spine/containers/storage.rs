//! A host whose disk is full while it unpacks an image.

use super::{LIMIT, Trial};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use skysail_e2e::{Cluster, times, until};
use std::time::Duration;

/// A small file system over a host's images; what was there shows again when it is dropped.
struct Small<'a> {
    cluster: &'a Cluster,
    host: &'a str,
}

const IMAGES: &str = "/var/lib/skysail/images";
/// What the small file system is called in a list of mounts; no folder of an instance bears it.
const SOURCE: &str = "images-made-small";

impl<'a> Small<'a> {
    fn mount(cluster: &'a Cluster, host: &'a str) -> Result<Self> {
        let line = format!("mount -t tmpfs -o size=32m {SOURCE} {IMAGES}");
        cluster.on_host(host, &line)?.ok()?;
        Ok(Self { cluster, host })
    }

    fn becomes(&self, options: &str) -> Result<()> {
        let line = format!("mount -o remount,{options} {IMAGES}");
        self.cluster.on_host(self.host, &line)?.ok().map(drop)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let line = format!("umount -l {IMAGES}");
        let done = self.cluster.on_host(self.host, &line);
        if let Err(e) = done.and_then(skysail_e2e::Output::ok) {
            eprintln!("{IMAGES} of {} stays mounted: {e:#}", self.host);
        }
    }
}

/// Waits until it says that the disk is full, in words that hold all of `words`.
fn says(trial: &Trial, words: &[&str]) -> Result<()> {
    until("it to say that the disk is full", LIMIT, || {
        let object = trial.object()?;
        let conditions = object["status"]["conditions"].as_array();
        let running = conditions
            .and_then(|all| all.iter().find(|c| c["type"] == "Running"))
            .context("nothing is said")?;
        let message = running["message"].as_str().unwrap_or_default();
        ensure!(
            running["reason"] == "DiskFull" && words.iter().all(|w| message.contains(w)),
            "{running}"
        );
        Ok(())
    })
    .map(drop)
}

pub fn full(cluster: &Cluster) -> Result<()> {
    let object = cluster.get("container", "acme", "web-0")?;
    let host = object["status"]["host"].as_str().context("no host")?;
    let small = Small::mount(cluster, host)?;
    let spec = json!({ "placement": { "host": host } });
    Trial::with(cluster, "unpacked", &spec, |trial| {
        says(trial, &[host, "must stay free", "free some disk"])?;
        // Now it is let begin, and the disk is full in the middle of it: of files, however small.
        small.becomes("size=4g,nr_inodes=500")?;
        says(trial, &[host, "does not fit", "free some"])?;
        until("nothing half unpacked to be left", LIMIT, || {
            let left = cluster.on_host(host, &format!("ls -A {IMAGES}"))?.ok()?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        small.becomes("nr_inodes=0")?;
        let (_, took) = until("it to run", Duration::from_secs(40), || {
            let told = trial.condition("Ready")?;
            ensure!(told.0 == "True", "{told:?}");
            Ok(())
        })?;
        times::record("disk_full_and_freed", took)
    })?;
    // Its root lies on the small file system.
    let object = cluster.get("container", "acme", "unpacked");
    ensure!(object.is_err(), "it is still there");
    drop(small);
    let left = format!("grep -c ^{SOURCE} /proc/mounts || true");
    let left = cluster.on_host(host, &left)?.ok()?;
    ensure!(left.trim() == "0", "{left} mounts are left");
    Ok(())
}
