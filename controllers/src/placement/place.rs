//! A Host for one Container, or why there is none. Pure.

use super::filter::{Refusal, allowed, possible};
use super::score::score;
use super::snapshot::{HostView, Resident};
use skysail_schemas::Container;
use skysail_schemas::host::Resources;
use std::collections::BTreeMap;

/// Why a Container has no Host: the condition's reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaceable {
    /// A CamelCase word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// A choice with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Where the Host is in `hosts`.
    pub index: usize,
    /// Why this one.
    pub message: String,
}

/// The best Host.
pub fn place(
    container: &Container,
    resident: &Resident,
    wanted: Resources,
    hosts: &[HostView],
) -> Result<Choice, Unplaceable> {
    let checked: Vec<_> = hosts
        .iter()
        .map(|h| possible(container, &resident.namespace, wanted, h, hosts))
        .collect();
    let best = (0..hosts.len())
        .filter(|i| checked[*i].is_ok())
        .min_by_key(|i| score(container, resident, wanted, &hosts[*i], hosts));
    let refusals: Vec<&Refusal> = checked.iter().filter_map(|c| c.as_ref().err()).collect();
    match best {
        Some(index) => {
            let possible = hosts.len() - refusals.len();
            let others = if refusals.is_empty() {
                String::new()
            } else {
                format!("; {}", explain(&refusals))
            };
            let message = format!(
                "{} is the best of {possible} possible of {}{others}",
                hosts[index].name,
                plural(hosts.len())
            );
            Ok(Choice { index, message })
        }
        None => Err(unplaceable(container, wanted, hosts, &refusals)),
    }
}

fn unplaceable(
    container: &Container,
    wanted: Resources,
    hosts: &[HostView],
    refusals: &[&Refusal],
) -> Unplaceable {
    if hosts.is_empty() {
        let message = "there are no hosts; create a Host".to_owned();
        return Unplaceable {
            reason: "NoHostFits",
            message,
        };
    }
    if let Some(name) = &container.spec.placement.host
        && !hosts.iter().any(|h| h.name == *name)
    {
        return Unplaceable {
            reason: "NoHostFits",
            message: format!("spec.placement.host: there is no Host {name:?}"),
        };
    }
    if let Some(message) = larger_than_any(container, wanted, hosts) {
        return Unplaceable {
            reason: "LargerThanAnyHost",
            message,
        };
    }
    Unplaceable {
        reason: "NoHostFits",
        message: format!("{}: {}", plural(hosts.len()), explain(refusals)),
    }
}

/// Said where even an empty Host would be too small: waiting for others to leave would not help.
fn larger_than_any(container: &Container, wanted: Resources, hosts: &[HostView]) -> Option<String> {
    let known: Vec<_> = hosts
        .iter()
        .filter(|h| h.allocatable != Resources::default())
        .collect();
    if known.is_empty() || known.len() < hosts.len() {
        return None;
    }
    let mut possible = known
        .iter()
        .filter(|h| allowed(container, h).is_ok())
        .peekable();
    possible.peek()?;
    let fits = |all: &Resources| {
        wanted.cpu <= all.cpu && wanted.memory <= all.memory && wanted.disk <= all.disk
    };
    if possible.clone().any(|h| fits(&h.allocatable)) {
        return None;
    }
    let largest = possible.max_by_key(|h| (h.allocatable.memory, h.allocatable.cpu, &h.name))?;
    let all = largest.allocatable;
    Some(format!(
        "spec.instanceType {:?} asks for {} cpu, {} memory, {} disk; the largest possible host {} has {} cpu, {} memory, {} disk even when empty; choose a smaller InstanceType or add a larger Host",
        container.spec.instance_type,
        wanted.cpu,
        wanted.memory,
        wanted.disk,
        largest.name,
        all.cpu,
        all.memory,
        all.disk
    ))
}

pub(super) fn plural(hosts: usize) -> String {
    if hosts == 1 {
        "1 host".to_owned()
    } else {
        format!("{hosts} hosts")
    }
}

/// `2 too small in memory by 128Mi, 1 cordoned`: the most frequent first, the least that is missing.
pub(super) fn explain(refusals: &[&Refusal]) -> String {
    let mut groups: BTreeMap<String, (usize, Option<(u64, String)>)> = BTreeMap::new();
    for refusal in refusals {
        let (count, least) = groups.entry(refusal.group()).or_default();
        *count += 1;
        *least = match (least.take(), refusal.missing()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let text = |(group, (count, least)): (String, (usize, Option<(u64, String)>))| match least {
        Some((_, by)) => format!(
            "{count} {group} by {}{by}",
            if count > 1 { "at least " } else { "" }
        ),
        None => format!("{count} {group}"),
    };
    groups.into_iter().map(text).collect::<Vec<_>>().join(", ")
}
