//! Images on this host: content-addressed, one unpacked copy each, shared by every container.
//!
//! An archive streams from the API server through the digest into `tar`; nothing is
//! used before the digest is right, and a directory gets its name only when it is
//! complete. So a copy that exists is a good copy, and a killed agent leaves only
//! `new-*` directories, which the next start removes. Images that no container here
//! has give way in time ([`evict`]).

pub mod evict;
mod retry;
mod tidy;
pub mod unpack;

use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use jiff::Timestamp;
use retry::Failed;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use unpack::Unpack;

/// Free space that a fetch must leave for the containers that run.
const SPARE: u64 = 256 << 20;

/// An image that did not fit, however large it is, is tried again when so much was freed.
const FREED: u64 = 16 << 20;

/// Whether a container's image is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// Not here, and nobody fetches it.
    Absent,
    /// On its way; bytes so far.
    Fetching(u64),
    /// Unpacked and verified.
    Present,
    /// It could not be fetched or unpacked.
    Failed {
        /// When it is worth another try.
        again: Timestamp,
        /// CamelCase word.
        reason: String,
        /// What happened and the way out.
        message: String,
    },
}

/// Why an image is not here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// CamelCase word for the condition.
    pub reason: &'static str,
    /// What happened and the way out.
    pub message: String,
    /// Free bytes that would do, where that is what is missing.
    pub room: Option<u64>,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            room: None,
        }
    }
}

/// The images of this host.
pub struct Images {
    host: String,
    root: PathBuf,
    client: kube::Client,
    fetches: Mutex<HashMap<String, Fetch>>,
    changed: watch::Sender<u64>,
}

enum Fetch {
    Running(Arc<AtomicU64>),
    Failed(Failed),
}

impl Images {
    /// The images of `host`, which are under `root`. Removes what a killed agent left half done.
    pub fn open(host: &str, root: PathBuf, client: kube::Client) -> std::io::Result<Arc<Self>> {
        std::fs::create_dir_all(&root)?;
        for entry in std::fs::read_dir(&root)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("new-") {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Arc::new(Self {
            host: host.to_owned(),
            root,
            client,
            fetches: Mutex::default(),
            changed: watch::Sender::new(0),
        }))
    }

    fn fetches(&self) -> MutexGuard<'_, HashMap<String, Fetch>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self, digest: &str) -> PathBuf {
        self.root.join(digest.replace(':', "-"))
    }

    /// Where the root file system of an image is, once it is present.
    pub fn rootfs(&self, digest: &str) -> PathBuf {
        self.directory(digest).join("rootfs")
    }

    /// Counts fetches that ended, well or not, and removals.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is known of an image.
    pub fn state(&self, digest: &str) -> ImageState {
        match self.fetches().get(digest) {
            Some(Fetch::Running(bytes)) => {
                return ImageState::Fetching(bytes.load(Ordering::Relaxed));
            }
            Some(Fetch::Failed(failed)) => {
                return ImageState::Failed {
                    again: failed.again(self.free()),
                    reason: failed.refusal.reason.to_owned(),
                    message: failed.refusal.message.clone(),
                };
            }
            None => {}
        }
        if self.directory(digest).is_dir() {
            ImageState::Present
        } else {
            ImageState::Absent
        }
    }

    /// Free bytes of the disk that holds the images.
    fn free(&self) -> u64 {
        crate::usage::machine::disk(&self.root).1
    }

    /// Digests of the images that are here.
    pub fn present(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.root) else {
            return vec![];
        };
        let mut all: Vec<String> = entries
            .flatten()
            .filter_map(|e| {
                e.file_name()
                    .to_str()?
                    .strip_prefix("sha256-")
                    .map(|hex| format!("sha256:{hex}"))
            })
            .collect();
        all.sort();
        all
    }

    /// Begins to fetch an image; returns at once. Callers that want the same image share one fetch.
    pub fn fetch(self: &Arc<Self>, name: &str, digest: &str) {
        let bytes = Arc::new(AtomicU64::new(0));
        let before = {
            let mut fetches = self.fetches();
            if let Some(Fetch::Running(_)) = fetches.get(digest) {
                return;
            }
            match fetches.insert(digest.to_owned(), Fetch::Running(bytes.clone())) {
                Some(Fetch::Failed(failed)) => failed.times,
                _ => 0,
            }
        };
        let (this, name, digest) = (self.clone(), name.to_owned(), digest.to_owned());
        tokio::spawn(async move {
            let begun = std::time::Instant::now();
            let result = this.fetch_now(&name, &digest, &bytes).await;
            let size = bytes.load(Ordering::Relaxed);
            match result {
                Ok(()) => {
                    tracing::info!(image = name, digest, size, took = ?begun.elapsed(), "image is here");
                    this.fetches().remove(&digest);
                }
                Err(mut refusal) => {
                    if refusal.reason == "DiskFull" && refusal.room.is_none() {
                        refusal.room = Some(this.free().saturating_add(FREED));
                    }
                    tracing::warn!(image = name, digest, size, error = %refusal, "image could not be fetched");
                    let failed = Failed {
                        at: Timestamp::now(),
                        times: before + 1,
                        refusal,
                    };
                    this.fetches().insert(digest, Fetch::Failed(failed));
                }
            }
            this.changed.send_modify(|n| *n += 1);
        });
    }

    async fn fetch_now(&self, name: &str, digest: &str, bytes: &AtomicU64) -> Result<(), Refusal> {
        if self.directory(digest).is_dir() {
            return Ok(());
        }
        let failed = |e: &dyn std::fmt::Display| {
            Refusal::new(
                "FetchFailed",
                format!("image {name} could not be fetched from the API server: {e}"),
            )
        };
        let path = format!(
            "/apis/{}/{}/images/{name}/blob",
            skysail_schemas::GROUP,
            skysail_schemas::VERSION
        );
        let request = http::Request::get(path)
            .body(kube::client::Body::empty())
            .map_err(|e| failed(&e))?;
        let response = self.client.send(request).await.map_err(|e| failed(&e))?;
        if !response.status().is_success() {
            return Err(failed(&format_args!(
                "the server answered {}",
                response.status()
            )));
        }
        let size = response
            .headers()
            .get(http::header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse().ok());
        refuse_if_full(&self.host, name, size.unwrap_or(0), self.free())?;
        let mut stream = response
            .into_body()
            .into_data_stream()
            .map_err(|e| failed(&e))
            .boxed();
        let mut unpack = Unpack::begin(&self.root, &self.host, name).await?;
        let mut hash = Sha256::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            hash.update(&chunk);
            bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            unpack.write(&chunk).await?;
        }
        let got = format!(
            "sha256:{}",
            hash.finalize()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        );
        if got != digest {
            let message = format!(
                "image {name}: the archive's digest is {got}, not {digest} as placed; make the Image anew"
            );
            return Err(Refusal::new("DigestMismatch", message));
        }
        unpack.finish(&self.directory(digest)).await
    }
}

/// Refuses before anything is written where the archive cannot fit.
fn refuse_if_full(host: &str, name: &str, size: u64, free: u64) -> Result<(), Refusal> {
    let room = size.saturating_add(SPARE);
    if room <= free {
        return Ok(());
    }
    let message = format!(
        "host {host}: image {name} needs {} MiB and {} MiB must stay free, but there are only {} MiB; free some disk there and it is fetched again by itself, or place the container on another host",
        size >> 20,
        SPARE >> 20,
        free >> 20
    );
    Err(Refusal {
        room: Some(room),
        ..Refusal::new("DiskFull", message)
    })
}

/// Removes `path` whole; fine if it is not there.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not be removed; the next start of the agent tries again");
    }
}

#[cfg(test)]
mod tests;
