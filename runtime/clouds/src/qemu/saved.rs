//! Saved states: a machine that has booted and waits for its identity, written down once for
//! each size, so that others start from there in seconds.
//!
//! A state is a folder in the cache, complete when it has its name: what the disk became
//! while it booted (`disk.qcow2`, an overlay of the image's), and the memory. Its name
//! tells everything that a machine must have in common with it.

use super::{
    accelerator::Accelerator,
    identity,
    image::{self, Image},
    machine::{Process, Start},
    monitor::Monitor,
};
use crate::{
    Error, Result, command,
    sandbox::{Settings, boot, records::Host, root},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a machine says on its console when it waits for its identity; `identity.sh` knows it too.
const WORD: &[u8] = b"skysail-awaits-identity";
/// How long a boot may take; minutes where it is emulated on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// A saved state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    folder: PathBuf,
}

impl Saved {
    /// Where the state for machines like `host` is, whether saved yet or not.
    async fn of(cache_dir: &Path, host: &Host, accelerator: Accelerator) -> Result<Self> {
        let version = command::run(super::QEMU, &["--version"]).await?;
        let (cores, memory) = super::machine::size(host);
        let image = host.lower.file_name().unwrap_or_default();
        let what = format!(
            "{} {cores} {memory} {} {accelerator:?} {version}",
            image.display(),
            disk_size(host)
        );
        let hex: String = Sha256::digest(what)
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect();
        Ok(Self {
            folder: cache_dir.join("vm-states").join(hex),
        })
    }

    /// A state in any folder.
    #[cfg(test)]
    pub fn at(folder: &str) -> Self {
        let folder = folder.into();
        Self { folder }
    }

    /// The disk that new machines' disks are overlays of.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.qcow2")
    }
    /// The memory and the devices.
    pub fn memory(&self) -> PathBuf {
        self.folder.join("memory")
    }

    /// The state for machines like `host`, saved unless it is in the cache. The first of a
    /// kind takes as long as a boot; others, also of other processes, wait for it.
    pub async fn ensure(
        settings: &Settings,
        host: &Host,
        accelerator: Accelerator,
    ) -> Result<Self> {
        let saved = Self::of(&settings.cache_dir, host, accelerator).await?;
        if saved.folder.exists() {
            return Ok(saved);
        }
        let states = settings.cache_dir.join("vm-states");
        fs::create_dir_all(&states).map_err(|e| trouble(&states, &e))?;
        let say = |line: &str| tracing::debug!("{line}");
        let lock = root::wait_for(saved.folder.with_extension("lock"), &say).await?;
        if !saved.folder.exists() {
            saved.save(settings, host, accelerator).await?;
        }
        drop(lock);
        Ok(saved)
    }

    async fn save(&self, settings: &Settings, host: &Host, accelerator: Accelerator) -> Result<()> {
        let begun = Instant::now();
        let draft = self.folder.with_extension("draft");
        let process = Process {
            settings,
            group: format!("{}.state", boot::port(host)),
            netns: settings.router(&host.cloud),
            tap: format!("s{}", boot::port(host)),
        };
        // The lock is ours, so what is here is what a killed driver left.
        process.stop().await?;
        match fs::remove_dir_all(&draft) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(trouble(&draft, &e)),
            _ => {}
        }
        fs::create_dir_all(&draft).map_err(|e| trouble(&draft, &e))?;
        tracing::info!(
            "booting a machine of this size once, to save its state: others start from there"
        );
        let done = self
            .boot_and_save(&process, &draft, host, accelerator)
            .await;
        process.stop().await?;
        done?;
        fs::rename(&draft, &self.folder).map_err(|e| trouble(&self.folder, &e))?;
        tracing::info!(seconds = begun.elapsed().as_secs(), "state saved");
        Ok(())
    }

    async fn boot_and_save(
        &self,
        process: &Process<'_>,
        draft: &Path,
        host: &Host,
        accelerator: Accelerator,
    ) -> Result<()> {
        let image = Image {
            folder: host.lower.clone(),
        };
        overlay(
            &image.disk(),
            "raw",
            &draft.join("disk.qcow2"),
            disk_size(host),
        )
        .await?;
        // Sockets have short names.
        let monitor = PathBuf::from(format!("/run/skysail-{}.qmp", process.tap));
        let start = Start {
            folder: draft,
            host,
            accelerator,
            identity: identity::none(),
            saved: None,
            monitor: Some(&monitor),
        };
        process.start(&start).await?;
        let work = async {
            until_waiting(process, &draft.join("console.log")).await?;
            write_down(&monitor, &draft.join("memory")).await
        };
        let done = work.await;
        // Gone with its QEMU is what we want.
        let _ = fs::remove_file(&monitor);
        done
    }
}

/// Size of the disk that `host` gets, in bytes.
pub fn disk_size(host: &Host) -> u64 {
    host.resources.disk.0.max(image::DISK)
}

/// Makes a disk at `path` that holds what differs from `base`.
pub async fn overlay(base: &Path, format: &str, path: &Path, size: u64) -> Result<()> {
    let (base, file, size) = (
        base.to_string_lossy(),
        path.to_string_lossy(),
        size.to_string(),
    );
    let args = [
        "create", "-q", "-f", "qcow2", "-F", format, "-b", &base, &file, &size,
    ];
    command::run("qemu-img", &args).await?;
    Ok(())
}

async fn until_waiting(process: &Process<'_>, console: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        let said = fs::read(console).unwrap_or_default();
        if said.windows(WORD.len()).any(|w| w == WORD) {
            return Ok(());
        }
        if !process.runs()? || begun.elapsed() > PATIENCE {
            return Err(Error::Transient(format!(
                "the machine whose state was to be saved came not far enough within {} s; the end of its console: {}",
                begun.elapsed().as_secs(),
                super::console::end(&said)
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Writes the machine's memory to `path`. It runs until the end of that, so that whoever starts
/// from there runs too.
async fn write_down(monitor: &Path, path: &Path) -> Result<()> {
    let mut monitor = Monitor::connect(monitor).await?;
    let limits = json!({ "max-bandwidth": 10_000_000_000_u64 });
    monitor.ask("migrate-set-parameters", limits).await?;
    let quoted = path.to_string_lossy().replace('\'', r"'\''");
    let to = json!({ "uri": format!("exec:cat >'{quoted}'") });
    monitor.ask("migrate", to).await?;
    loop {
        let now = monitor.ask("query-migrate", json!({})).await?;
        match now["status"].as_str() {
            Some("completed") => break,
            Some("failed" | "cancelled") => {
                return Err(Error::Transient(format!("saving the state failed: {now}")));
            }
            // It has no event in this version of its protocol unless asked for one.
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    monitor.ask("quit", json!({})).await?;
    Ok(())
}

fn trouble(path: &Path, error: &io::Error) -> Error {
    Error::Transient(format!("{}: {error}", path.display()))
}
