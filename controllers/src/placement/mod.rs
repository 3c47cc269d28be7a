//! Placement: which Host each Container gets.
//!
//! Owns of `Container.status`: host, epoch, allocation, image and the conditions
//! `Scheduled` and `ResizePending`. One [`Sweep`](skysail_reconcile::Sweep) looks at all waiting
//! Containers together, so a Host's room is counted once.
//!
//! Invariants: what is bound to a Host never adds up to more than it can give; a
//! binding is one compare-and-swap of the status, so a Container never gets two
//! Hosts; the agent's finalizer is there before the binding; a write whose answer
//! was lost is looked up before anything else is placed.
//! Woken by: Containers that wait or go, Hosts, Images, InstanceTypes, Clouds, Namespaces,
//! ContainerSets that are placed as a whole, MachineTypes, finished Migrations.
//!
//! Migrations that were accepted take room on their targets too.
//!
//! `snapshot.rs` is the immutable view, `board.rs` the working copy on which a batch is
//! counted, `class.rs` what Containers of the same wishes share, `filter.rs` says which
//! Hosts are possible and why the others are not, `score.rs` which is best, `place.rs`
//! puts them together for one Container, `plan.rs` and `repack.rs` for a batch,
//! `resize.rs` gives what has a Host another size there, `explain.rs` says why and what would help. Everything but `apply.rs` is pure, and public
//! for others who choose Hosts: a move's target (`elsewhere.rs`), `skysail plan`.

pub(crate) mod apply;
pub mod board;
mod class;
pub mod elsewhere;
mod explain;
pub mod filter;
mod labels;
pub mod place;
pub mod plan;
pub mod quota;
mod repack;
pub mod request;
mod resize;
pub mod score;
pub mod snapshot;
#[cfg(test)]
mod tests;

use crate::Context;
use apply::Placement;
use futures::StreamExt;
use futures::stream::{BoxStream, select_all};
use kube::ResourceExt;
use skysail_reconcile::{Cache, CancellationToken, Resource, run_sweep};
use skysail_schemas::Container;
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
    let waits_or_goes = |c: &Container| {
        c.metadata.deletion_timestamp.is_some()
            || c.status.as_ref().is_none_or(|s| s.host.is_none())
            || resize::may_ask(c)
    };
    let wakes = select_all([
        of(&context.containers, waits_or_goes),
        of(&context.hosts, |_| true),
        of(&context.images, |_| true),
        of(&context.instance_types, |_| true),
        of(&context.clouds, |_| true),
        of(&context.namespaces, |_| true),
        of(&context.container_sets, |s| s.spec.all_or_none),
        of(&context.machine_types, |_| true),
        of(&context.migrations, |m| {
            m.status.as_ref().is_some_and(|s| s.phase.is_finished())
        }),
    ]);
    run_sweep(Placement::new(context.clone()), wakes, shutdown).await;
}
