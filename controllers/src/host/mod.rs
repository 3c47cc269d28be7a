//! Host: from a wish to a machine whose agent reports, and back.
//!
//! Owns the machine, and of `Host.status` the phase, machine id, addresses and
//! conditions; what is measured (usage, capacity, datapath …) is the agent's. The
//! capacity of the machine type stands in until the agent has measured.
//!
//! ```text
//! driver.create ▶ machine runs ▶ SSH answers ▶ packages ▶ binary ▶ credential ▶ agent started ▶ heartbeat
//!  Provisioned                   Reachable     ╰───────────── Bootstrapped ──────────────╯       AgentAlive
//! ```
//!
//! Every turn looks at what is there and does the first step that is missing, after
//! the Host has said so; a kill at any point costs the step that was under way. While
//! the agent reports, nobody logs in, unless it is of another build ([`upgrade`]).
//!
//! Invariants: a machine is ordered under the Host's name, so twice is once; a machine
//! that stopped or lost its surroundings is started again with its disk and addresses;
//! an agent that is silent on a machine that runs is reinstalled, never its containers
//! touched; a machine is given back only when its containers are gone, and those that come or
//! leave have arrived, or its agent is dead, and the Host's finalizer goes after it.
//! Woken by: Hosts (the agent's reports too), their Cloud, its Secret and MachineType, containers
//! on a Host that is being deleted and Migrations from or to it, time (leases end without an event).

mod apply;
mod install;
mod look;
pub mod orphans;
mod plan;
mod probe;
mod ssh;
mod status;
#[cfg(test)]
mod tests;
mod upgrade;
mod wish;

use crate::Context;
use apply::HostReconciler;
pub(crate) use apply::reaction;
use futures::StreamExt;
use kube::{Resource, ResourceExt};
use skysail_reconcile::{Cache, CancellationToken, Key, Loop, run_sweep};
use skysail_schemas::Host;
use std::sync::Arc;

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let hosts = Loop::new(
        HostReconciler::new(context.clone()),
        context.client.clone(),
        context.hosts.clone(),
    )
    .watches(&context.clouds, |cloud, hosts| {
        of_cloud(hosts, &cloud.name_any())
    })
    .watches(&context.secrets, {
        let clouds = context.clouds.clone();
        move |secret, hosts| {
            let all = clouds.list();
            let using = all.iter().filter(|c| crate::account::uses(c, secret));
            using.flat_map(|c| of_cloud(hosts, &c.name_any())).collect()
        }
    })
    .watches(&context.machine_types, |size, hosts| {
        of_cloud(hosts, &size.spec.cloud)
    })
    .watches(&context.hosts, |_, hosts| {
        let next = upgrade::next(&hosts.list());
        next.map(|h| Key::from_obj(&*h)).into_iter().collect()
    })
    .watches(&context.containers, |container, hosts| {
        let host = container.status.as_ref().and_then(|s| s.host.as_deref());
        let host = host
            .and_then(|name| hosts.get(None, name))
            .filter(|h| h.meta().deletion_timestamp.is_some());
        host.map(|h| Key::from_obj(&*h)).into_iter().collect()
    })
    .watches_part(
        &context.migrations,
        crate::migration::plan::is_finished,
        |migration, hosts| {
            let status = migration.status.clone().unwrap_or_default();
            let ends = status.source.into_iter().chain(status.target);
            let found = ends.filter_map(|name| hosts.get(None, &name));
            found
                .filter(|h| h.meta().deletion_timestamp.is_some())
                .map(|h| Key::from_obj(&*h))
                .collect()
        },
    );
    let gone = context
        .hosts
        .changes()
        .filter(|h| std::future::ready(h.meta().deletion_timestamp.is_some()))
        .map(|h| format!("Host {} goes", h.name_any()));
    let ended = context
        .containers
        .changes()
        .filter(|c| std::future::ready(c.meta().deletion_timestamp.is_some()))
        .map(|c| format!("Container {} goes", c.name_any()));
    let wakes = futures::stream::select(gone, ended);
    let orphans = run_sweep(
        orphans::Orphans {
            context: context.clone(),
        },
        wakes,
        shutdown.clone(),
    );
    tokio::join!(hosts.run(shutdown), orphans);
}

fn of_cloud(hosts: &Cache<Host>, cloud: &str) -> Vec<Key<Host>> {
    hosts
        .list()
        .iter()
        .filter(|h| h.spec.cloud.as_deref() == Some(cloud))
        .map(|h| Key::from_obj(&**h))
        .collect()
}
