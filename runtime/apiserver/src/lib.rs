//! The API server: Kubernetes conventions over a small store.
//!
//! ```text
//!  kubectl, agents ──TLS──▶ serve ─▶ who: identity ─▶ what: request ┬▶ read ────────┐
//!  controllers ──in process──┘                                      ├▶ write ───────┤
//!                                                                   ├▶ subresources ┤
//!                                                                   └▶ about        ▼
//!                                upkeep: what happens by itself ─▶ write ─▶ state: cache ◀─watch─ Store
//! ```
//!
//! - One generic handler over the table in `kinds`; no file per kind.
//! - Writes are compare-and-swap on the store; reads and watches come from one
//!   cache that follows the store's only watch. A reply to a write is sent after the
//!   cache has seen it, so everybody reads their own writes.
//! - `metadata.resourceVersion` is the store's revision: one counter over all kinds.
//! - Folders need each other one way only, in this order from the ground up: `table`,
//!   `kinds`, `answer`, `patches`, `request`, `state`, `identity`, `read`, `about`,
//!   `write`, `subresources`, `upkeep`, `serve`.

mod about;
mod answer;
mod config;
mod identity;
mod kinds;
mod patches;
mod read;
mod request;
mod serve;
mod server;
mod state;
mod subresources;
pub mod table;
mod upkeep;
mod write;

pub use answer::Failure;
pub use config::Config;
pub use identity::pki::PkiError;
pub use identity::{Identity, kubeconfig};
pub use kinds::schema::CompileError;
pub use request::strict;
pub use serve::tls::TlsError;
pub use server::{ApiServer, StartError};
