//! Another Host for a Container that has one. Pure.

use super::filter::possible;
use super::place::{Unplaceable, explain, plural};
use super::score::score;
use super::snapshot::{HostView, Snapshot, resident};
use kube::ResourceExt;
use skysail_schemas::Container;
use skysail_schemas::container::Allocation;
use skysail_schemas::migration::MigrationTarget;

/// A choice with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The Host.
    pub host: String,
    /// Why this one.
    pub message: String,
}

fn no(reason: &'static str, message: String) -> Unplaceable {
    Unplaceable { reason, message }
}

/// The best Host for `container` among those that `target` means, but for the one that has it. The same rules hold
/// as for a first placement, with the room that it has already been given.
pub fn elsewhere(
    snapshot: &Snapshot,
    container: &Container,
    target: &MigrationTarget,
) -> Result<Elsewhere, Unplaceable> {
    let status = container.status.clone().unwrap_or_default();
    let source = status.host.unwrap_or_default();
    let wanted = status
        .allocation
        .as_ref()
        .map(Allocation::resources)
        .unwrap_or_default();
    let mut hosts = snapshot.hosts.clone();
    let resident = resident(container, &snapshot.instance_types);
    if let Some(host) = hosts.iter_mut().find(|h| h.name == source) {
        host.release(wanted, &resident);
    }
    let meant = |h: &&HostView| {
        h.name != source
            && target.host.as_ref().is_none_or(|t| *t == h.name)
            && target
                .cloud
                .as_ref()
                .is_none_or(|t| h.cloud.as_ref() == Some(t))
    };
    let candidates: Vec<&HostView> = hosts.iter().filter(meant).collect();
    if candidates.is_empty() {
        return Err(nobody(&hosts, &source, target));
    }
    let namespace = container.namespace().unwrap_or_default();
    let checked: Vec<_> = candidates
        .iter()
        .map(|h| (*h, possible(container, &namespace, wanted, h, &hosts)))
        .collect();
    let refusals: Vec<_> = checked
        .iter()
        .filter_map(|(_, c)| c.as_ref().err())
        .collect();
    let best = checked
        .iter()
        .filter(|(_, c)| c.is_ok())
        .min_by_key(|(h, _)| score(container, &resident, wanted, h, &hosts));
    let Some((best, _)) = best else {
        let message = format!("{}: {}", plural(candidates.len()), explain(&refusals));
        return Err(no("NoHostFits", message));
    };
    let message = format!(
        "{} is the best of {} possible of {}",
        best.name,
        candidates.len() - refusals.len(),
        plural(candidates.len())
    );
    Ok(Elsewhere {
        host: best.name.clone(),
        message,
    })
}

fn nobody(hosts: &[HostView], source: &str, target: &MigrationTarget) -> Unplaceable {
    match (&target.host, &target.cloud) {
        (Some(host), _) if host == source => no(
            "AlreadyThere",
            format!("spec.target.host: it is on {host} already"),
        ),
        (Some(host), _) => no(
            "HostNotFound",
            format!("spec.target.host: there is no Host {host:?}"),
        ),
        (None, Some(cloud)) if hosts.iter().any(|h| h.cloud.as_ref() == Some(cloud)) => no(
            "AlreadyThere",
            format!("spec.target.cloud: it is on {source}, the only Host of Cloud {cloud:?}"),
        ),
        (None, Some(cloud)) => no(
            "NoHostFits",
            format!("spec.target.cloud: Cloud {cloud:?} has no Host; create one"),
        ),
        (None, None) => no(
            "NoHostFits",
            format!("there is no Host but {source}; create one"),
        ),
    }
}
