//! Container: its addresses, and what other hosts must know of where it is.
//!
//! Owns Ports, and of `Container.status` the addresses, the condition `Networked`
//! and, while no host has it, the phase. Creating the Port `<network>.<address>`
//! *is* the allocation; a Port belongs to the Container whose uid it names as owner.
//! Placement decides the host; this controller copies it into the Ports.
//!
//! Invariants: an address is given back only after the agent has let go of the
//! container (its finalizer is gone), so that no two run with one address; an
//! automatic address is never one that another Container of the namespace asks for
//! by name; an address once given stays.
//! Woken by: Containers, their Ports, and what matters of the Networks that they name and of the Hosts that have them.

mod apply;
mod claim;
mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use apply::{ContainerReconciler, PortReaper};
use futures::StreamExt;
use kube::ResourceExt;
use skysail_reconcile::{Cache, CancellationToken, Key, Loop, run_sweep};
use skysail_schemas::Container;
use std::sync::Arc;

/// The Containers that `wanted` picks.
fn those(
    containers: &Cache<Container>,
    wanted: impl Fn(&Container) -> bool,
) -> Vec<Key<Container>> {
    containers
        .list()
        .iter()
        .filter(|c| wanted(c))
        .map(|c| Key::from_obj(&**c))
        .collect()
}

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let reconciler = ContainerReconciler {
        context: context.clone(),
    };
    let containers = Loop::new(
        reconciler,
        context.client.clone(),
        context.containers.clone(),
    )
    .watches(&context.ports, |port, containers| {
        let mut woken: Vec<_> = port
            .namespace()
            .map(|ns| Key::new(&port.spec.container).within(&ns))
            .into_iter()
            .collect();
        // Somebody may have waited for the address, if it was given back.
        woken.extend(those(containers, |c| {
            c.namespace() == port.namespace() && plan::waits_for_address(c)
        }));
        woken
    })
    .watches_part(
        &context.networks,
        plan::part_of_network,
        |network, containers| {
            let (namespace, name) = (network.namespace(), network.name_any());
            those(containers, |c| {
                c.namespace() == namespace && c.spec.networks.iter().any(|n| n.name == name)
            })
        },
    )
    .watches_part(&context.hosts, plan::part_of_host, |host, containers| {
        let name = host.name_any();
        those(containers, |c| {
            c.status.as_ref().and_then(|s| s.host.as_deref()) == Some(name.as_str())
        })
    });
    let gone = context.containers.changes().filter_map(|c| async move {
        c.metadata
            .deletion_timestamp
            .is_some()
            .then(|| format!("Container {} was deleted", c.name_any()))
    });
    let start = futures::stream::iter(["start".to_owned()]);
    let reaper = run_sweep(
        PortReaper {
            context: context.clone(),
        },
        start.chain(gone),
        shutdown.clone(),
    );
    tokio::join!(containers.run(shutdown), reaper);
}
