//! What can go wrong with a host's network, and what to do about it.

use std::path::PathBuf;

/// An error of the network plane. Each names the object and what failed.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// A program could not do its work.
    #[error(transparent)]
    Command(#[from] crate::command::Failure),
    /// A file or directory could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused something about a network device.
    #[error("network device {device}: {doing}: {source}")]
    Device {
        /// Its name.
        device: String,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// What a network needs beside its containers could not be made.
    #[error("network of VNI {vni} is not whole on this host: {message}; it is tried again")]
    Network {
        /// The network.
        vni: u32,
        /// What is missing.
        message: String,
    },
    /// A network namespace could not be entered.
    #[error("network namespace {path}: {message}; it must exist before a container is attached")]
    Namespace {
        /// Where it is mounted.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A Port that cannot be programmed.
    #[error("Port {port}: {message}")]
    Port {
        /// `<namespace>/<name>`.
        port: String,
        /// What is wrong with it.
        message: String,
    },
    /// Open vSwitch did not do what was asked in time.
    #[error("Open vSwitch: {0}")]
    Switch(String),
    /// The plane has ended, because the agent is stopping.
    #[error("the network plane has stopped; the agent is going down")]
    Stopped,
}

/// Result of the network plane.
pub type Result<T, E = Error> = std::result::Result<T, E>;
