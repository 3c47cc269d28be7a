//! The API server: Kubernetes conventions over a small store.
//!
//! ```text
//!  kubectl, agents ──TLS──▶ tls ─▶ identity ┐
//!  controllers ──in process─────────────────┴▶ server: path → call ─▶ auth ─▶ read | watch | write | …
//!                                                                           │            │
//!                                          cache (all objects, one log) ◀───┘            ▼
//!                                                 ▲───────── one watch ───────────── Store
//! ```
//!
//! - One generic handler over the table in [`kinds`]; no file per kind.
//! - Writes are compare-and-swap on the store; reads and watches come from one
//!   cache that follows the store's only watch. A reply to a write is sent after the
//!   cache has seen it, so everybody reads their own writes.
//! - `metadata.resourceVersion` is the store's revision: one counter over all kinds.

mod accept;
mod admission;
pub mod apply;
mod auth;
mod background;
pub mod cache;
mod collector;
mod core_kinds;
mod delete;
pub mod discovery;
mod documents;
pub mod events;
mod failure;
pub mod kinds;
mod kubeconfig;
pub mod metadata;
mod namespaces;
pub mod openapi;
pub mod patch;
pub mod pki;
pub mod protobuf;
mod read;
mod request;
mod reviews;
mod scale;
pub mod schema;
pub mod selector;
mod server;
pub mod sessions;
pub mod strict;
pub mod table;
pub mod tls;
mod transfers;
mod watch;
mod write;

pub use auth::Identity;
pub use failure::Failure;
pub use kubeconfig::kubeconfig;
pub use server::{ApiServer, Config, StartError};
