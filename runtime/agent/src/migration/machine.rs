//! The two halves of a migration as pure functions: what is done in a state, and which state comes of it.
//!
//! ```text
//! source   Copying ▶ Freezing ▶ Sending ▶ Committing ──────────▶ Leaving ▶ Clearing ▶ Telling ▶ (over)
//!             │          │         │       │  ▲  │unknown  theirs▲                       ▲
//!             │          │         │       │  │  ▼               │                       │
//!             │          │         │  not  │  └─ Asking ─────────┘                       │
//!             │          │         │written│        │ours                               │
//!             │          │         │       │        ▼                                    │
//!             │          │         │       │     Fencing ──raced──▶ Asking               │
//!             │          ▼         ▼       ▼        ▼                                    │
//!             └──────────────────▶ Undoing ◀────────┘ ────────────────────────────────────┘
//!
//! target   Receiving ▶ Prepared ──owner──▶ Starting ▶ (over)
//!              └──────────┴─abandoned─▶ Discarding ▶ (over)
//! ```
//!
//! Every state is a safe resting place: an agent that is killed goes on from the one on its disk. There is one
//! point of commitment, a compare-and-swap of the Container's `status.host` and `status.epoch` by the source. It is
//! written only in `Committing`, which is entered only after the target has said that it holds everything; so a
//! source that finds an earlier state on its disk knows that no such write was ever sent. One that finds
//! `Committing` asks; and before it lets the container run again it makes a write of its own (`Fencing`), after
//! which a commit that is still on its way names a version that is not the newest, and fails.
//!
//! The target lets the container run only in `Starting`, which is entered only when the API or the source says that
//! the commit happened; it gives the container up only when the Migration is finished in another way, which the
//! source says only after it fenced.

use serde::{Deserialize, Serialize};
use skysail_schemas::migration::MigrationPhase;

/// Why a migration is given up.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Whether somebody asked for it.
    pub cancelled: bool,
    /// Whether the container stood still already.
    pub touched: bool,
    /// CamelCase word.
    pub reason: String,
    /// What happened, and the way out.
    pub message: String,
}

impl Why {
    /// Something went wrong.
    pub fn failed(reason: &str, message: impl Into<String>) -> Self {
        Self {
            cancelled: false,
            touched: false,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// Somebody asked for it.
    pub fn cancelled(reason: &str, message: impl Into<String>) -> Self {
        Self {
            cancelled: true,
            ..Self::failed(reason, message)
        }
    }

    /// How the Migration ends.
    pub fn phase(&self) -> MigrationPhase {
        match (self.cancelled, self.touched) {
            (true, _) => MigrationPhase::Cancelled,
            (false, true) => MigrationPhase::RolledBack,
            (false, false) => MigrationPhase::Failed,
        }
    }

    fn touched(self) -> Self {
        Self {
            touched: true,
            ..self
        }
    }
}

/// Where the source is. What is done in a state stands beside it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Finds the target and sends the files, while the container runs.
    Copying,
    /// Holds the container, and stops it or dumps it.
    Freezing,
    /// Sends what is left, and waits until the target has said that it holds everything.
    Sending,
    /// Writes the change of owner.
    Committing {
        /// An earlier write may still be on its way.
        tried: bool,
    },
    /// Reads who the owner is.
    Asking,
    /// Makes a write of its own, so that no commit can still arrive.
    Fencing(Why),
    /// Lets the container go on here.
    Undoing(Why),
    /// Kills what is left of the container's processes, tells the target to go, waits until it runs there.
    Leaving,
    /// Removes what the container left.
    Clearing,
    /// Tells the API how it ended; none is well.
    Telling(Option<Why>),
    /// Nothing is left to be done.
    Over,
}

/// What came of what the source did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// It was done.
    Done,
    /// It was not, and the container has not got another owner by it.
    Failed(Why),
    /// The commit may have been written or may still be.
    Unknown,
    /// The API names another owner, or says that the container is gone.
    Theirs,
    /// The API names this host at the old epoch.
    Ours {
        /// The target still holds everything and nobody asked to give up: the commit may be tried again.
        again: bool,
        /// Why not, otherwise.
        why: Why,
    },
    /// Somebody else wrote first.
    Raced,
    /// The agent was started again.
    Restarted,
}

impl Source {
    /// Whether the container is left alone by everything else: not started, not stopped, not removed.
    pub fn holds(&self) -> bool {
        !matches!(self, Self::Copying | Self::Telling(Some(_)) | Self::Over)
    }

    /// Whether it can still be given up at once.
    pub fn is_early(&self) -> bool {
        matches!(self, Self::Copying | Self::Freezing | Self::Sending)
    }

    /// The state after `event`. What cannot happen in a state leaves it as it is.
    pub fn next(self, event: SourceEvent) -> Self {
        use SourceEvent as E;
        match (self, event) {
            (Self::Copying, E::Done) => Self::Freezing,
            (Self::Copying, E::Failed(why)) => Self::Telling(Some(why)),
            (Self::Freezing, E::Done) => Self::Sending,
            (Self::Sending, E::Done) => Self::Committing { tried: false },
            (Self::Freezing | Self::Sending, E::Failed(why)) => Self::Undoing(why.touched()),
            (Self::Freezing | Self::Sending, E::Restarted) => Self::Undoing(restarted().touched()),
            (Self::Committing { .. }, E::Done) => Self::Leaving,
            // It failed before a write was sent.
            (Self::Committing { tried: false }, E::Failed(why)) => Self::Undoing(why.touched()),
            (Self::Committing { tried: true }, E::Failed(why)) => Self::Fencing(why.touched()),
            (Self::Committing { .. }, E::Unknown | E::Restarted) => Self::Asking,
            (Self::Asking, E::Theirs) => Self::Leaving,
            (Self::Asking, E::Ours { again: true, .. }) => Self::Committing { tried: true },
            (Self::Asking, E::Ours { again: false, why }) => Self::Fencing(why.touched()),
            (Self::Fencing(why), E::Done) => Self::Undoing(why),
            (Self::Fencing(_), E::Raced | E::Unknown | E::Restarted) => Self::Asking,
            (Self::Undoing(why), E::Done) => Self::Telling(Some(why)),
            (Self::Leaving, E::Done) => Self::Clearing,
            (Self::Clearing, E::Done) => Self::Telling(None),
            (Self::Telling(_), E::Done) => Self::Over,
            (state, _) => state,
        }
    }
}

fn restarted() -> Why {
    Why::failed(
        "AgentRestarted",
        "the source's agent was started again in the middle of it; make another Migration",
    )
}

/// Where the target is.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Takes what the source sends.
    Receiving,
    /// Holds everything, and waits to be told whose it is.
    Prepared,
    /// Owns the container: lets it run, and says so.
    Starting,
    /// Removes what it took.
    Discarding,
    /// Nothing is left to be done.
    Over,
}

/// What came of what the target did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetEvent {
    /// It was done.
    Done,
    /// It was not, or the source is not there any more.
    Failed,
    /// The commit happened.
    Owner,
    /// The Migration is finished and this host is not the owner.
    Abandoned,
    /// The agent was started again.
    Restarted,
}

impl Target {
    /// The state after `event`. What cannot happen in a state leaves it as it is.
    pub fn next(self, event: TargetEvent) -> Self {
        use TargetEvent as E;
        match (self, event) {
            (Self::Receiving, E::Done) => Self::Prepared,
            (Self::Receiving, E::Failed | E::Restarted | E::Abandoned) => Self::Discarding,
            (Self::Prepared, E::Owner) => Self::Starting,
            (Self::Prepared, E::Abandoned) => Self::Discarding,
            (Self::Starting | Self::Discarding, E::Done) => Self::Over,
            (state, _) => state,
        }
    }
}
