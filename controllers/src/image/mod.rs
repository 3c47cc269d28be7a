//! Image: from a recipe or an archive to one tar file, named by its digest.
//!
//! Owns `<data-dir>/images/sha256-<hex>.tar` (what the API server serves and the agents
//! unpack), the cache of built recipes `<cache-dir>/images/<recipe>.tar`, and
//! `Image.status`.
//!
//! Building takes a minute, so it is not part of a turn: a turn starts it, and later
//! ones report its progress. The build ends in the cache first; a turn then puts the
//! archive in its place and writes the digest. A killed build leaves a draft that the next one replaces.
//!
//! Invariants: a file under a digest's name is complete and has that digest; a status
//! shows a digest only after its file is there; the digest stays while the spec stays,
//! though a rebuild would give other bytes; an archive goes with the last Image that names it.
//! Woken by: Images, time while something is built.

mod apply;
mod build;
mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use skysail_reconcile::{CancellationToken, Loop};
use std::sync::Arc;

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let reconciler = apply::ImageReconciler::new(context.clone());
    Loop::new(reconciler, context.client.clone(), context.images.clone())
        .run(shutdown)
        .await;
}
