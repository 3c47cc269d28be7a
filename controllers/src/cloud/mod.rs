//! Cloud: whether it can be reached, what it offers, what it costs, and what it must not keep.
//!
//! Owns `Cloud.status`, the MachineTypes made from offers (they carry an owner
//! reference; those that people wrote are theirs and win by name), the cloud's own
//! networks, and machines that no Host stands for: such a machine is what a control
//! plane left that was killed or restored from an older state.
//!
//! Invariants: a machine is removed as unowned only when the API server, not a cache,
//! says that its Host does not exist; a Cloud goes after its last Host.
//! Woken by: Clouds, their Hosts' machines, MachineTypes and Secrets, time (a cloud tells nobody when it fails).

mod apply;
mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use kube::{Resource, ResourceExt};
use skysail_reconcile::{CancellationToken, Key, Loop};
use skysail_schemas::Host;
use std::sync::Arc;

/// What of a Host tells that the cloud's machines may have changed. What the Host uses tells nothing: asking the cloud
/// each time that a load changes would be what the cloud is asked most.
fn machine_of(host: &Host) -> impl PartialEq + Send + use<> {
    let status = host.status.as_ref();
    (
        (host.uid(), host.meta().deletion_timestamp.is_some()),
        host.spec.clone(),
        status.map(|s| (s.phase, s.machine_id.clone())),
    )
}

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let reconciler = apply::CloudReconciler {
        context: context.clone(),
    };
    Loop::new(reconciler, context.client.clone(), context.clouds.clone())
        .watches_part(&context.hosts, machine_of, |host, _| {
            host.spec.cloud.iter().map(|c| Key::new(c)).collect()
        })
        .watches(&context.machine_types, |size, _| {
            vec![Key::new(&size.spec.cloud)]
        })
        .watches(&context.secrets, |secret, clouds| {
            let all = clouds.list();
            let using = all.iter().filter(|c| crate::account::uses(c, secret));
            using.map(|c| Key::from_obj(&**c)).collect()
        })
        .run(shutdown)
        .await;
}
