//! RebalancePolicy: moves Containers that run, where that is worth it.
//!
//! Owns `RebalancePolicy.status` and makes Migrations, nothing else. One [`Sweep`](skysail_reconcile::Sweep) looks at
//! all policies together: two policies do not move the same Container.
//!
//! Invariants: a policy that reports writes nothing but its own status; a budget is not exceeded, also where two
//! rebalancers work or one is killed, because what is begun is said first, by a compare-and-swap, and counted by what
//! is said and by what is there, whichever is more; a Container at one place is moved once, because its Migration is
//! named after it and its epoch; what is not known of a host is not taken for zero; under constant load nothing moves
//! once it has settled, because a target stays well below what makes a host hot.
//! Woken by: policies, finished Migrations, and once a second while there is a policy.
//!
//! `signals.rs` smooths what agents report; `scene.rs` is the fleet on which moves are tried, with placement's own
//! rules; `must.rs`, `hotspot.rs` and `spare.rs` are the strategies; `gate.rs` says which proposals may begin;
//! `plan.rs` puts them together. Everything but `apply.rs` is pure.

mod apply;
mod gate;
mod hotspot;
mod must;
pub mod plan;
mod scene;
pub mod signals;
mod spare;
#[cfg(test)]
mod tests;

use crate::Context;
use apply::Rebalance;
use futures::StreamExt;
use futures::stream::select_all;
use kube::ResourceExt;
use skysail_reconcile::{CancellationToken, run_sweep};
use std::sync::Arc;

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let policies = context.rebalance_policies.changes();
    let policies = policies.map(|p| format!("RebalancePolicy {} changed", p.name_any()));
    let finished = context.migrations.changes().filter_map(|m| {
        let done = scene::is_finished(&m);
        std::future::ready(done.then(|| format!("Migration {} is finished", m.name_any())))
    });
    let wakes = select_all([policies.boxed(), finished.boxed()]);
    run_sweep(Rebalance::new(context.clone()), wakes, shutdown).await;
}
