//! MigrationGroup: one Migration for each container that it picks, in waves, not too many at once.
//!
//! Owns the Migrations `<group>-<i>` that name its uid as owner (and of those `spec` only until they are made, but for
//! `cancel`), and `MigrationGroup.status`. Which containers it moves is written down before the first Migration is
//! made, so a crash in between changes nothing of it, and a name tells the member: nothing is made twice.
//!
//! Invariants: never more of its own under way than `atOnce`, nor from one host than `atOncePerHost` (what comes to a
//! host is held back by the Migration controller); nothing of a wave begins while something of an earlier one is
//! not over; one that is refused keeps no other from moving, unless `stopOnRefusal` says so; what is over stays over.
//! Woken by: groups, Migrations of the namespace, Containers that come, go or change their host.

mod apply;
pub mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use kube::ResourceExt;
use skysail_reconcile::{Cache, CancellationToken, Key, Loop};
use skysail_schemas::MigrationGroup;
use std::sync::Arc;

fn open(groups: &Cache<MigrationGroup>, namespace: Option<&str>) -> Vec<Key<MigrationGroup>> {
    let all = groups.list();
    let open = all.iter().filter(|g| !plan::is_finished(g));
    open.filter(|g| namespace.is_none_or(|n| g.namespace().as_deref() == Some(n)))
        .map(|g| Key::from_obj(&**g))
        .collect()
}

/// Runs the controller.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let reconciler = apply::GroupReconciler {
        context: context.clone(),
    };
    Loop::new(
        reconciler,
        context.client.clone(),
        context.migration_groups.clone(),
    )
    // Of any namespace: those of others may keep a host busy.
    .watches_part(
        &context.migrations,
        |m| {
            let status = m.status.as_ref();
            status.map(|s| (s.phase.is_finished(), s.source.is_some()))
        },
        |_, groups| open(groups, None),
    )
    .watches_part(
        &context.containers,
        |c| c.status.as_ref().and_then(|s| s.host.clone()),
        |c, groups| open(groups, c.namespace().as_deref()),
    )
    .run(shutdown)
    .await;
}
