//! The whole system on one machine: what `up`, `down` and `server` do.

pub mod agent;
mod blocks;
mod certificates;
pub mod down;
mod etcd;
mod name;
mod process;
pub mod prove;
pub mod server;
pub mod up;
pub mod watch;

use anyhow::Context as _;
use skysail_clouds::sandbox;
use std::path::PathBuf;

/// Where a system on this machine lives; `up`, `down` and `server` take the same flags.
#[derive(Debug, Clone, clap::Args)]
pub struct Site {
    /// Everything that must survive a restart
    #[arg(long, default_value = "/var/lib/skysail", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Root filesystems that were built, kept for the next time
    #[arg(long, default_value = "/var/cache/skysail", value_name = "DIR")]
    pub cache_dir: PathBuf,
    /// Name of this system: several can run on one machine, with a name and a --port each
    #[arg(long, default_value = "sky", value_name = "NAME")]
    pub instance: String,
}

impl Site {
    /// The same with absolute paths, which other processes and mounts understand.
    ///
    /// # Errors
    /// When the working folder is gone.
    pub fn absolute(mut self) -> std::io::Result<Self> {
        self.data_dir = std::path::absolute(&self.data_dir)?;
        self.cache_dir = std::path::absolute(&self.cache_dir)?;
        Ok(self)
    }
    /// The sandbox's network of this system, with a block of addresses that no other system has.
    ///
    /// # Errors
    /// When no block is left on this machine.
    pub fn fabric(&self) -> anyhow::Result<sandbox::Settings> {
        let block = blocks::claim(&self.instance)
            .with_context(|| format!("addresses for the sandbox network of {}", self.instance))?;
        Ok(sandbox::Settings {
            instance: self.instance.clone(),
            block,
            state_dir: self.data_dir.join("sandbox"),
            cache_dir: self.cache_dir.clone(),
        })
    }
    /// The server's process id and when that process began.
    pub fn pid_file(&self) -> PathBuf {
        self.data_dir.join("server.pid")
    }
    /// What the server prints.
    pub fn log_file(&self) -> PathBuf {
        self.data_dir.join("server.log")
    }
    /// The process id of the running server, or `None`: a stale file names a process that is
    /// gone or is something else by now.
    pub fn running(&self) -> Option<i32> {
        process::recorded(&std::fs::read_to_string(self.pid_file()).ok()?)
    }
}

/// Refuses early when a verb needs root and is not.
///
/// # Errors
/// With the way out, if the caller is not root.
pub fn need_root(verb: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "skysail {verb} must run as root: it makes network namespaces, mounts and cgroups (try: sudo skysail {verb})"
    );
    Ok(())
}
