//! Another Host for a Container that has one. Pure.

use super::board::Board;
use super::place::Unplaceable;
use super::request::Request;
use super::snapshot::Snapshot;
use kube::ResourceExt;
use skysail_schemas::Container;
use skysail_schemas::migration::MigrationTarget;
use std::sync::Arc;

/// A choice with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The Host.
    pub host: String,
    /// Why this one.
    pub message: String,
}

/// The best Host for `container` among those that `target` means, but for the one that has it. The same rules hold
/// as for a first placement, with the room that it has already been given. Room that other moves hold is taken.
///
/// # Errors
/// When no other Host is possible; why each is not.
pub fn elsewhere(
    snapshot: &Snapshot,
    container: &Arc<Container>,
    target: &MigrationTarget,
) -> Result<Elsewhere, Unplaceable> {
    let mut board = Board::new(snapshot);
    from(&mut board, container, target).map(|(_, _, found)| found)
}

/// The same on a board, which then counts the Container there and no more where it was; with its request and the
/// number of its new Host. For a plan of several moves.
///
/// # Errors
/// When no other Host is possible; the board then counts the Container nowhere.
pub fn from(
    board: &mut Board<'_>,
    container: &Arc<Container>,
    target: &MigrationTarget,
) -> Result<(Request, usize, Elsewhere), Unplaceable> {
    let snapshot = board.snapshot;
    let status = container.status.as_ref();
    let source = status.and_then(|s| s.host.as_deref()).unwrap_or_default();
    let meant = |index: usize| {
        let host = &snapshot.hosts[index];
        host.name != source
            && target.host.as_ref().is_none_or(|t| *t == host.name)
            && target
                .cloud
                .as_ref()
                .is_none_or(|t| host.cloud.as_ref() == Some(t))
    };
    if !(0..snapshot.hosts.len()).any(meant) {
        return Err(nobody(snapshot, source, target));
    }
    let namespace = container.namespace().unwrap_or_default();
    while let Some(put) = board.find(&namespace, &container.name_any()) {
        board.lift(put);
    }
    let request = Request::again(board, container);
    let choice = board.best_among(&request, meant)?;
    board.take(&request, choice.index);
    let found = Elsewhere {
        host: snapshot.hosts[choice.index].name.clone(),
        message: choice.message,
    };
    Ok((request, choice.index, found))
}

fn nobody(snapshot: &Snapshot, source: &str, target: &MigrationTarget) -> Unplaceable {
    let in_cloud = |cloud: &String| {
        snapshot
            .hosts
            .iter()
            .any(|h| h.cloud.as_ref() == Some(cloud))
    };
    match (&target.host, &target.cloud) {
        (Some(host), _) if host == source => Unplaceable::new(
            "AlreadyThere",
            format!("spec.target.host: it is on {host} already"),
        ),
        (Some(host), _) => Unplaceable::new(
            "HostNotFound",
            format!("spec.target.host: there is no Host {host:?}"),
        ),
        (None, Some(cloud)) if in_cloud(cloud) => Unplaceable::new(
            "AlreadyThere",
            format!("spec.target.cloud: it is on {source}, the only Host of Cloud {cloud:?}"),
        ),
        (None, Some(cloud)) => Unplaceable::new(
            "NoHostFits",
            format!("spec.target.cloud: Cloud {cloud:?} has no Host; create one"),
        ),
        (None, None) => Unplaceable::new(
            "NoHostFits",
            format!("there is no Host but {source}; create one"),
        ),
    }
}
