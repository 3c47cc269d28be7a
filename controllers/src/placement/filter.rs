//! Which Hosts are possible for a Container, and why each of the others is not. Pure.

use super::snapshot::HostView;
use skysail_schemas::Container;
use skysail_schemas::container::{Spread, Topology};
use skysail_schemas::host::Resources;
use skysail_schemas::quantity::{Bytes, Cpu};
use std::collections::BTreeMap;

/// Why a Host is not possible.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// `spec.placement.host` names another.
    OtherHost,
    /// `spec.placement.clouds` does not name its Cloud.
    OtherCloud,
    /// `spec.placement.hostSelector` does not match its labels.
    Selector,
    /// It has a taint that the Container does not tolerate.
    Taint(String),
    /// It was cordoned.
    Cordoned,
    /// It takes no containers now.
    NotReady(String),
    /// So much cpu is missing.
    Cpu(Cpu),
    /// So much memory is missing.
    Memory(Bytes),
    /// So much disk is missing.
    Disk(Bytes),
    /// It would be further ahead of the emptiest than `maxSkew`.
    Skew(String),
}

impl Refusal {
    /// What several Hosts share, without the amounts.
    pub fn group(&self) -> String {
        match self {
            Self::OtherHost => "not the one in spec.placement.host".to_owned(),
            Self::OtherCloud => "in another cloud than spec.placement.clouds".to_owned(),
            Self::Selector => "without the labels of spec.placement.hostSelector".to_owned(),
            Self::Taint(key) => format!("tainted {key}"),
            Self::Cordoned => "cordoned".to_owned(),
            Self::NotReady(reason) => format!("not ready ({reason})"),
            Self::Cpu(_) => "too small in cpu".to_owned(),
            Self::Memory(_) => "too small in memory".to_owned(),
            Self::Disk(_) => "too small in disk".to_owned(),
            Self::Skew(why) => why.clone(),
        }
    }

    /// The amount that is missing, in base units with its text.
    pub fn missing(&self) -> Option<(u64, String)> {
        match self {
            Self::Cpu(by) => Some((by.0, by.to_string())),
            Self::Memory(by) | Self::Disk(by) => Some((by.0, by.to_string())),
            _ => None,
        }
    }
}

/// Whether the Container's rules allow the Host at all, whatever its state: the Hosts over which it is spread.
pub fn allowed(container: &Container, host: &HostView) -> Result<(), Refusal> {
    let rules = &container.spec.placement;
    if rules.host.as_ref().is_some_and(|h| *h != host.name) {
        return Err(Refusal::OtherHost);
    }
    if !rules.clouds.is_empty()
        && !host
            .cloud
            .as_ref()
            .is_some_and(|c| rules.clouds.contains(c))
    {
        return Err(Refusal::OtherCloud);
    }
    if !rules
        .host_selector
        .iter()
        .all(|(k, v)| host.labels.get(k) == Some(v))
    {
        return Err(Refusal::Selector);
    }
    let tolerated = |taint: &&skysail_schemas::host::Taint| {
        rules.tolerations.iter().any(|t| {
            t.key == taint.key
                && t.value
                    .as_ref()
                    .is_none_or(|v| Some(v) == taint.value.as_ref())
        })
    };
    if let Some(taint) = host.taints.iter().find(|t| !tolerated(t)) {
        return Err(Refusal::Taint(taint.key.clone()));
    }
    if host.cordoned {
        Err(Refusal::Cordoned)
    } else {
        Ok(())
    }
}

/// Whether the Host has room for it.
pub fn fits(wanted: Resources, host: &HostView) -> Result<(), Refusal> {
    let free = host.free();
    if wanted.memory > free.memory {
        return Err(Refusal::Memory(wanted.memory.saturating_sub(free.memory)));
    }
    if wanted.cpu > free.cpu {
        return Err(Refusal::Cpu(wanted.cpu.saturating_sub(free.cpu)));
    }
    if wanted.disk > free.disk {
        return Err(Refusal::Disk(wanted.disk.saturating_sub(free.disk)));
    }
    Ok(())
}

/// Whether the Host is possible now.
pub fn possible(
    container: &Container,
    namespace: &str,
    wanted: Resources,
    host: &HostView,
    hosts: &[HostView],
) -> Result<(), Refusal> {
    allowed(container, host)?;
    if let Some(reason) = &host.unready {
        return Err(Refusal::NotReady(reason.clone()));
    }
    for spread in &container.spec.placement.spread {
        check_skew(container, namespace, spread, host, hosts)?;
    }
    fits(wanted, host)
}

/// The place of a Host in a topology.
fn domain(host: &HostView, topology: Topology) -> &str {
    match topology {
        Topology::Host => &host.name,
        Topology::Cloud => host.cloud.as_deref().unwrap_or_default(),
    }
}

/// Containers that `spread` picks, per domain of the Hosts that are allowed and ready, or
/// expected soon: otherwise the first Host to come up would get them all.
pub fn counts<'a>(
    container: &Container,
    namespace: &str,
    spread: &Spread,
    hosts: &'a [HostView],
) -> BTreeMap<&'a str, u32> {
    let mut counts = BTreeMap::new();
    for host in hosts
        .iter()
        .filter(|h| (h.unready.is_none() || h.coming) && allowed(container, h).is_ok())
    {
        *counts.entry(domain(host, spread.topology)).or_default() +=
            host.matching(namespace, &spread.selector);
    }
    counts
}

/// How far the Host's domain would be ahead of the emptiest with one more.
pub fn skew(
    container: &Container,
    namespace: &str,
    spread: &Spread,
    host: &HostView,
    hosts: &[HostView],
) -> (u32, String) {
    let counts = counts(container, namespace, spread, hosts);
    let here = counts
        .get(domain(host, spread.topology))
        .copied()
        .unwrap_or(0);
    let (name, least) = counts
        .iter()
        .min_by_key(|(name, count)| (**count, **name))
        .map_or(("", 0), |(n, c)| (*n, *c));
    ((here + 1).saturating_sub(least), name.to_owned())
}

fn check_skew(
    container: &Container,
    namespace: &str,
    spread: &Spread,
    host: &HostView,
    hosts: &[HostView],
) -> Result<(), Refusal> {
    let (skew, emptiest) = skew(container, namespace, spread, host, hosts);
    if skew <= spread.max_skew {
        return Ok(());
    }
    let coming = hosts
        .iter()
        .any(|h| h.coming && domain(h, spread.topology) == emptiest);
    let waits = if coming {
        format!(", which is still coming up: {emptiest}")
    } else {
        format!(": {emptiest}")
    };
    Err(Refusal::Skew(format!(
        "more than maxSkew {} ahead of the emptiest{waits}",
        spread.max_skew
    )))
}
