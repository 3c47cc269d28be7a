//! HostPool: buys the cheapest Hosts on which all that waits fits, and gives back those that are empty.
//!
//! Owns the Hosts `<pool>-<n>` that name a pool as owner, and `HostPool.status`. One
//! [`Sweep`](skysail_reconcile::Sweep) looks at all pools together: two pools do not buy for the same need.
//!
//! Invariants: the name is the slot, so a Host is not bought twice whatever crashes;
//! a Host that was bought and is not up yet counts as room, so a need is met once;
//! never more Hosts than `max`, never fewer than `min` for long; a Host goes only
//! after it was cordoned and then seen empty, so nothing is placed on what goes;
//! what is not owned is never touched.
//! Woken by: pools, Hosts, Containers that wait or go, MachineTypes, Clouds.
//!
//! `buy.rs` finds the cheapest purchase with the placement's own planner and a bound
//! on what any purchase costs; `plan.rs` decides what comes and goes.

mod apply;
mod buy;
pub mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use apply::Pools;
use futures::StreamExt;
use futures::stream::{BoxStream, select_all};
use kube::ResourceExt;
pub use plan::LEAVING;
use skysail_reconcile::{Cache, CancellationToken, Resource, run_sweep};
use std::sync::Arc;

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    fn of<K: Resource>(cache: &Cache<K>, wanted: fn(&K) -> bool) -> BoxStream<'static, String> {
        let text = |o: Arc<K>| format!("{} {} changed", K::kind(&()), o.name_any());
        cache
            .changes()
            .filter(move |o| futures::future::ready(wanted(o)))
            .map(text)
            .boxed()
    }
    let wakes = select_all([
        of(&context.host_pools, |_| true),
        of(&context.hosts, |_| true),
        of(&context.machine_types, |_| true),
        of(&context.clouds, |_| true),
        of(&context.containers, |c| {
            let status = c.status.as_ref();
            c.metadata.deletion_timestamp.is_some() || status.is_none_or(|s| s.host.is_none())
        }),
    ]);
    run_sweep(Pools::new(context.clone()), wakes, shutdown).await;
}
