//! Network: its VNI, its counts, and its end.
//!
//! Owns Segments (one per Network) and `Network.status`. Creating the Segment
//! `vni-<n>` *is* the allocation: of two that want the same number, the store lets
//! one win. After a crash between the claim and the status, the Segment that names
//! this Network's uid is found and adopted.
//!
//! Invariants: a VNI never has two Networks; a Network goes only after its last
//! Port; a Segment goes only when no Port carries its VNI.
//! Woken by: Networks, their Ports, their Segments. A [`Sweep`] reaps Segments whose
//! Network is gone (its finalizer was removed by hand).
//!
//! Numbers are taken from a hash of the uid on, not the lowest free: a number that
//! was just given back may still stand in some switch for a moment.

mod apply;
mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use apply::{NetworkReconciler, SegmentReaper};
use futures::StreamExt;
use kube::ResourceExt;
use skysail_reconcile::{CancellationToken, Key, Loop, run_sweep};
use std::sync::Arc;
use std::time::Duration;

/// Ports that come and go within this time are counted together.
const COUNTED: Duration = Duration::from_millis(100);

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let reconciler = NetworkReconciler {
        context: context.clone(),
    };
    let networks = Loop::new(reconciler, context.client.clone(), context.networks.clone())
        .watches_together(&context.ports, COUNTED, |port, _| {
            port.namespace()
                .map(|ns| Key::new(&port.spec.network).within(&ns))
                .into_iter()
                .collect()
        })
        .watches(&context.segments, |segment, _| {
            vec![Key::new(&segment.spec.network).within(&segment.spec.namespace)]
        });
    // A Segment can be orphaned only when a Network goes, or when it is seen first at start.
    let gone = context
        .networks
        .changes()
        .map(|n| format!("Network {} changed", n.name_any()));
    let reaper = run_sweep(
        SegmentReaper {
            context: context.clone(),
        },
        gone,
        shutdown.clone(),
    );
    tokio::join!(networks.run(shutdown), reaper);
}
