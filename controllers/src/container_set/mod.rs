//! ContainerSet: as many Containers as asked for, all from one template.
//!
//! Owns the Containers `<set>-<i>` that name its uid as owner, and
//! `ContainerSet.status`. The name is the slot, so two turns cannot make one twice.
//!
//! Invariants: what is not owned is never touched, whatever its name; fewer
//! replicas remove from the highest number down; a template change that a running
//! Container can take is written into it, any other replaces one Container at a
//! time and only while all others are ready.
//! Woken by: ContainerSets and the Containers that they own.

mod apply;
mod plan;
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
        let owners = container
            .owner_references()
            .iter()
            .filter(|o| o.kind == "ContainerSet");
        owners
            .filter_map(|o| {
                container
                    .namespace()
                    .map(|ns| Key::<ContainerSet>::new(&o.name).within(&ns))
            })
            .collect()
    })
    .run(shutdown)
    .await;
}
