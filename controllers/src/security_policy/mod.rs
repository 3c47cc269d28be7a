//! SecurityPolicy: where it is in force.
//!
//! Owns `SecurityPolicy.status`, nothing else. The rules themselves need no controller: agents read the policies of
//! the tenants that they have containers of, and find who is meant by the labels in the Ports that they follow anyway.
//! Each host says in its Host's status which policies are in its switch, at which generation; this controller puts
//! that together.
//!
//! Invariant: `Programmed` is true only where every host with a selected container has said so of this generation.
//! Woken by: SecurityPolicies, what matters of Ports (labels, host), what Hosts say of policies.

mod apply;
mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use kube::{Resource, ResourceExt};
use skysail_reconcile::{Cache, CancellationToken, Key, Loop};
use skysail_schemas::SecurityPolicy;
use std::sync::Arc;

fn of_namespace(
    policies: &Cache<SecurityPolicy>,
    wanted: impl Fn(&str) -> bool,
) -> Vec<Key<SecurityPolicy>> {
    let all = policies.list();
    let those = all.iter().filter(|p| {
        let namespace = p.meta().namespace.as_deref();
        namespace.is_some_and(&wanted)
    });
    those.map(|p| Key::from_obj(&**p)).collect()
}

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let reconciler = apply::PolicyReconciler {
        context: context.clone(),
    };
    Loop::new(
        reconciler,
        context.client.clone(),
        context.security_policies.clone(),
    )
    .watches_part(&context.ports, plan::part_of_port, |port, policies| {
        let namespace = port.namespace().unwrap_or_default();
        of_namespace(policies, |n| n == namespace)
    })
    .watches_part(&context.hosts, plan::part_of_host, |host, policies| {
        let (name, said) = (host.name_any(), plan::said(host));
        let all = policies.list();
        let concerned = |p: &SecurityPolicy| {
            let status = p.status.as_ref();
            status.is_some_and(|s| s.hosts.iter().any(|h| h.host == name))
                || said.iter().any(|s| {
                    s.name == p.name_any() && Some(&s.namespace) == p.meta().namespace.as_ref()
                })
        };
        let those = all.iter().filter(|p| concerned(p));
        those.map(|p| Key::from_obj(&**p)).collect()
    })
    .run(shutdown)
    .await;
}
