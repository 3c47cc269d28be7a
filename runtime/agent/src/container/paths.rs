//! Where things of a container are. Under the data directory what must outlive a
//! reboot, under `/run` what cannot.

use super::id::Id;
use std::path::{Path, PathBuf};

/// Mounts and namespaces; gone after a reboot, as they are.
const RUN: &str = "/run/skysail";

/// The places of one host.
#[derive(Debug, Clone)]
pub struct Paths {
    data: PathBuf,
}

impl Paths {
    /// Places under `data`.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self { data: data.into() }
    }
    /// Holds one directory per container; also LXC's own path (`lxc-ls -P`).
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }
    /// Record, LXC config, logs and layer of a container.
    pub fn container(&self, id: &Id) -> PathBuf {
        self.containers().join(id.to_string())
    }
    /// Its private layer, where that is a directory: `upper` and `work`.
    pub fn layer(&self, id: &Id) -> PathBuf {
        self.container(id).join("layer")
    }
    /// Its private layer, where that is a file system of its own.
    pub fn image(&self, id: &Id) -> PathBuf {
        self.container(id).join("layer.img")
    }
    /// Empty file systems, by size.
    pub fn templates(&self) -> PathBuf {
        self.data.join("layers")
    }
    /// Its LXC configuration.
    pub fn config(&self, id: &Id) -> PathBuf {
        self.container(id).join("config")
    }
    /// What its console showed, from the first line of the boot on.
    pub fn console_log(&self, id: &Id) -> PathBuf {
        self.container(id).join("console.log")
    }
    /// What LXC complained of.
    pub fn lxc_log(&self, id: &Id) -> PathBuf {
        self.container(id).join("lxc.log")
    }
    /// The process id of LXC's monitor, as long as that runs.
    pub fn monitor_pid(&self, id: &Id) -> PathBuf {
        self.container(id).join("monitor.pid")
    }
    /// Mount points of a container: `image`, `layer` (both with its ids) and `rootfs` (the overlay of them).
    pub fn mounts(&self, id: &Id) -> PathBuf {
        Path::new(RUN).join("containers").join(id.to_string())
    }
    /// Its private layer, mounted with its ids.
    pub fn private(&self, id: &Id) -> PathBuf {
        self.mounts(id).join("layer")
    }
    /// Its root file system.
    pub fn rootfs(&self, id: &Id) -> PathBuf {
        self.mounts(id).join("rootfs")
    }
    /// Its network namespace.
    pub fn netns(&self, id: &Id) -> PathBuf {
        Path::new(RUN).join("netns").join(id.to_string())
    }
    /// Its user namespace, which owns its network namespace.
    pub fn userns(&self, id: &Id) -> PathBuf {
        Path::new(RUN).join("userns").join(id.to_string())
    }
}
