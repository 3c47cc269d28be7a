//! The reconcile loop, written once. Controllers and agents only say what they
//! observe, what they plan, how a plan is applied and what the status becomes.
//!
//! ```text
//! Cache ──changes──▶ queue ──▶ observe ▶ plan ▶ apply ▶ status ──▶ Next
//!   ▲  (one per kind   (one turn per      (pure)          (pure)     │
//!   │   and process)    object at a time)                            │
//!   └──────────── API server ◀── finalizer, status (CAS), events ◀───┘
//! ```
//!
//! - [`Reconciler`] + [`Loop`]: one turn per *object* of a kind.
//! - [`Sweep`] + [`run_sweep`]: one turn for a *whole* (all unbound containers; all flows of a switch).
//! - [`Cache`]: a kind, watched once per process; reads see what this process wrote.
//! - [`lead`]: runs something while this process holds a Lease.
//!
//! Invariants: a turn knows only its object, never which event woke it; turns of
//! one object never overlap; a finalizer is added before the first effect and
//! removed when the plan's status says [`Next::Finished`]; every write names the
//! resourceVersion that it is based on.

mod api;
mod cache;
mod events;
mod lease;
mod next;
pub mod program;
mod reconciler;
mod rewatch;
mod status;
mod sweep;
mod task;

pub use api::{Made, create_if_absent, delete_if_present, get, patch_meta, write_status};
pub use cache::Cache;
pub use events::{Note, publish};
pub use lease::lead;
pub use next::{Error, Next, Steps};
pub use reconciler::{Object, Outcome, Reconciler, Resource};
pub use rewatch::Rewatch;
pub use status::merge_diff;
pub use sweep::{Sweep, run_sweep};
pub use task::{Key, Loop};
pub use tokio_util::sync::CancellationToken;
