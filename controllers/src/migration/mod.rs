//! Migration: what is said before the first step of a move, and after its last.
//!
//! Owns of `Migration.status` all that is written before the agents begin (source, target, epoch, mode, endpoint,
//! condition `Accepted`); the agents of the two hosts write the rest, and this controller again where a host that
//! should write is gone for good. Never touches the Container: its owner changes by the source agent's hand only.
//!
//! Invariants: what cannot be done is refused before anything changes, with the field and the way out; a Container
//! has at most one Migration that was accepted and is not finished (turns do not overlap, so the first one to be
//! accepted is seen by all others); the room on the target is kept from the acceptance on, because placement counts
//! accepted Migrations where they go.
//! Woken by: Migrations, their Containers, Hosts; one that waits for a host by every other that comes to its end.

mod apply;
pub mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use kube::ResourceExt;
use skysail_reconcile::{Cache, CancellationToken, Key, Loop};
use skysail_schemas::Migration;
use std::sync::Arc;

fn those(
    migrations: &Cache<Migration>,
    wanted: impl Fn(&Migration) -> bool,
) -> Vec<Key<Migration>> {
    let all = migrations.list();
    let wanted = all.iter().filter(|m| !plan::is_finished(m) && wanted(m));
    wanted.map(|m| Key::from_obj(&**m)).collect()
}

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let reconciler = apply::MigrationReconciler {
        context: context.clone(),
    };
    Loop::new(
        reconciler,
        context.client.clone(),
        context.migrations.clone(),
    )
    .watches(&context.containers, |container, migrations| {
        let (namespace, name) = (container.namespace(), container.name_any());
        those(migrations, |m| {
            m.namespace() == namespace && m.spec.container == name
        })
    })
    .watches(&context.hosts, |host, migrations| {
        let name = Some(host.name_any());
        let of = |m: &Migration| {
            let status = m.status.as_ref();
            status.is_some_and(|s| s.source == name || s.target == name)
        };
        those(migrations, of)
    })
    .watches_part(&context.migrations, plan::is_finished, |_, migrations| {
        let waits = |m: &Migration| m.status.as_ref().is_some_and(|s| s.source.is_none());
        those(migrations, waits)
    })
    .concurrency(1)
    .run(shutdown)
    .await;
}
