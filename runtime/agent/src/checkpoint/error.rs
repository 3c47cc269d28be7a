//! Why a container could not be frozen or restored.

use super::Obstacle;
use crate::command::Failure;

/// Names what failed and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This host, or this agent, cannot do it at all.
    #[error("live checkpoints are not supported by this agent yet; move the container cold")]
    NotSupported,
    /// The container as it is cannot be dumped.
    #[error("the container cannot be moved live: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Obstacles(Vec<Obstacle>),
    /// It does not run, so there is nothing to freeze.
    #[error("the container does not run; move it cold")]
    NotRunning,
    /// CRIU gave up.
    #[error("{phase} failed: {cause}")]
    Criu {
        /// `dump` or `restore`.
        phase: &'static str,
        /// The first of what CRIU or LXC complained about.
        cause: String,
    },
    /// It was not done in time; what was begun is undone.
    #[error("{phase} did not end within {limit:?}")]
    TimedOut {
        /// `dump` or `restore`.
        phase: &'static str,
        /// The limit.
        limit: std::time::Duration,
    },
    /// A program that is needed failed.
    #[error(transparent)]
    Program(#[from] Failure),
    /// A file of the host could not be read or written.
    #[error("{what}: {source}")]
    File {
        /// What was being done.
        what: String,
        /// The system's words.
        source: std::io::Error,
    },
}
