//! ContainerSet: as many Containers as asked for, all from one template.
//!
//! Owns the Containers `<set>-<i>` that name its uid as owner, and
//! `ContainerSet.status`. The name is the slot, so two turns cannot make one twice.
//!
//! Invariants: what is not owned is never touched, whatever its name; fewer
//! replicas remove from the highest number down; a template change that a running
//! Container can take is written into it, any other replaces one Container at a
//! time and only while all others are ready.
//! Woken by: ContainerSets, the Containers that they own, and those that have the name
//! of a slot: a foreign one that goes makes room.

mod apply;
pub mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use apply::SetReconciler;
use kube::ResourceExt;
use skysail_reconcile::{CancellationToken, Key, Loop};
use skysail_schemas::ContainerSet;
use std::sync::Arc;

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let reconciler = SetReconciler {
        context: context.clone(),
    };
    Loop::new(
        reconciler,
        context.client.clone(),
        context.container_sets.clone(),
    )
    .watches(&context.containers, |container, _| {
        let owners = container.owner_references().iter();
        let owning = owners
            .filter(|o| o.kind == "ContainerSet")
            .map(|o| o.name.clone());
        let name = container.name_any();
        let slot_of = name.rsplit_once('-').map(|(set, _)| set.to_owned());
        let mut sets: Vec<_> = owning.chain(slot_of).collect();
        sets.dedup();
        let namespace = container.namespace().unwrap_or_default();
        let key = |set: String| Key::<ContainerSet>::new(&set).within(&namespace);
        sets.into_iter().map(key).collect()
    })
    .run(shutdown)
    .await;
}
