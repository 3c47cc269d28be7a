//! Why a container could not be frozen or restored.

use super::Obstacle;
use crate::command::Failure;
use std::path::Path;

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
    /// Its root, ids or namespaces are not there yet.
    #[error(
        "the container's root and namespaces are not prepared on this host; prepare them first"
    )]
    NotPrepared,
    /// Nothing is frozen or parked any more.
    #[error("nothing of the container is {0} here any more")]
    Gone(&'static str),
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
    /// The network could not be locked, unlocked or handed over.
    #[error("the container's network: {0}")]
    Network(String),
    /// What was done could not be put on record.
    #[error("{0}")]
    Record(String),
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

impl Error {
    /// Says what was being done when the system refused.
    pub(super) fn file(what: String) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { what, source }
    }

    /// Whether the same attempt may succeed a moment later: messages were under way, or a process was just ending.
    pub(super) fn passes(&self) -> bool {
        const PASSING: [&str; 4] = [
            "Control messages in queue",
            "Can't seize",
            "Unseizable",
            "in-flight",
        ];
        matches!(self, Self::Criu { cause, .. } if PASSING.iter().any(|p| cause.contains(p)))
    }
}

/// The first complaints in one of CRIU's logs.
pub(super) fn complaint(log: &Path) -> String {
    // The limits of this host's own root; CRIU goes on.
    const HARMLESS: [&str; 2] = ["RLIMIT_NOFILE", "FAILED."];
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let errors = text
        .lines()
        .filter_map(|l| Some(l.split_once("Error (")?.1));
    let told: Vec<&str> = errors
        .filter(|e| !HARMLESS.iter().any(|h| e.contains(h)))
        .map(|e| e.split_once("): ").map_or(e, |(_, text)| text).trim())
        .take(3)
        .collect();
    if told.is_empty() {
        "it ended without a word; see the log of LXC".into()
    } else {
        told.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_causes_are_told_and_what_is_harmless_is_not() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let text = "(00.1) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: no\n(00.2) Warn  (x): y\n(00.3)      1: Error (criu/mount.c:724): mnt: FS mnt ./run/x unsupported id 377\n(00.4) Error (criu/cr-dump.c:1975): Dumping FAILED.\n";
        std::fs::write(log.path(), text).unwrap();
        assert_eq!(
            complaint(log.path()),
            "mnt: FS mnt ./run/x unsupported id 377"
        );
    }

    #[test]
    fn messages_under_way_pass_and_an_unknown_mount_stays() {
        let failed = |cause: &str| Error::Criu {
            phase: "dump",
            cause: cause.into(),
        };
        assert!(failed("skqueue: Control messages in queue, not supported").passes());
        assert!(!failed("mnt: FS mnt ./run/x unsupported id 377").passes());
    }
}
