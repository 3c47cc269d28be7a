//! What a Container's Ports should be. Pure.

use super::claim::{Addresses, Refusal, choose};
use crate::{condition::container_ready, owner};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use skysail_reconcile::{Error, Next, Note, Outcome, Steps};
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::container::{
    AGENT_FINALIZER, Address, Attachment, ContainerPhase, NETWORK_FINALIZER,
};
use skysail_schemas::port::{self, Location};
use skysail_schemas::{Container, ContainerStatus, Host, Network, Port, PortSpec, network};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// The Networks that the Container names and that exist.
    pub networks: BTreeMap<String, Arc<Network>>,
    /// The addresses of each of them.
    pub addresses: BTreeMap<String, Addresses>,
    /// The Container's own Ports.
    pub ports: Vec<Arc<Port>>,
    /// The Host that has the Container, where it exists.
    pub host: Option<Arc<Host>>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Addresses to claim.
    pub claim: Vec<Port>,
    /// Ports whose content differs, with what it should be.
    pub update: Vec<(Arc<Port>, PortSpec)>,
    /// Claims to give back.
    pub release: Vec<Arc<Port>>,
}

/// What of a Network decides on Ports. How many addresses are in use changes with each of them, and decides nothing.
pub fn part_of_network(network: &Network) -> impl PartialEq + Send + use<> {
    let deleting = network.meta().deletion_timestamp.is_some();
    (network.uid(), deleting, network.spec.clone(), vni(network))
}

/// What of a Host stands in Ports.
pub fn part_of_host(host: &Host) -> impl PartialEq + Send + use<> {
    let addresses = host.status.as_ref().map(|s| s.addresses.clone());
    (host.uid(), host.spec.cloud.clone(), addresses)
}

/// How long the claims of a new Container wait for placement, which takes milliseconds where it runs: a Port that is
/// made with its location is one write less, and one wake-up less of everybody who watches Ports.
const PLACED_SOON: SignedDuration = SignedDuration::from_secs(2);

/// Whether placement has not looked at the Container yet, but is expected to.
fn is_being_placed(container: &Container, now: Timestamp) -> bool {
    let new = container
        .creation_timestamp()
        .is_some_and(|t| now.duration_since(t.0) < PLACED_SOON);
    let looked_at = container
        .status
        .as_ref()
        .is_some_and(|s| s.host.is_some() || s.conditions.iter().any(|c| c.type_ == SCHEDULED));
    new && !looked_at
}

/// Decides.
pub fn plan(container: &Container, observed: &Observed, now: Timestamp) -> Plan {
    if container.meta().deletion_timestamp.is_some() {
        // The agent may still run it with its addresses.
        let release = if held_by_agent(container) {
            vec![]
        } else {
            observed.ports.clone()
        };
        return Plan {
            release,
            ..Plan::default()
        };
    }
    if is_being_placed(container, now) {
        return Plan::default();
    }
    let mut plan = Plan::default();
    let mut kept = BTreeSet::new();
    for (i, wish) in container.spec.networks.iter().enumerate() {
        let Some(network) = observed.networks.get(&wish.name) else {
            kept.extend(
                own_ports(container, observed, &wish.name)
                    .into_iter()
                    .map(|p| p.name_any()),
            );
            continue;
        };
        let own = own_ports(container, observed, &wish.name)
            .into_iter()
            .find(|p| Some(p.spec.vni) == vni(network) && p.meta().deletion_timestamp.is_none());
        if let Some(port) = own {
            kept.insert(port.name_any());
            let wanted = port_spec(
                container,
                observed,
                i,
                network,
                port.spec.vni,
                port.spec.address,
            );
            if port.spec != wanted {
                plan.update.push((port.clone(), wanted));
            }
        } else if let Ok((vni, address)) = wanted(container, observed, i, wish) {
            let metadata = ObjectMeta {
                name: Some(port::name(&wish.name, address)),
                namespace: container.namespace(),
                finalizers: Some(vec![NETWORK_FINALIZER.to_owned()]),
                owner_references: Some(container.controller_owner_ref(&()).into_iter().collect()),
                ..ObjectMeta::default()
            };
            plan.claim.push(Port {
                metadata,
                spec: port_spec(container, observed, i, network, vni, address),
            });
        }
    }
    plan.release = observed
        .ports
        .iter()
        .filter(|p| !kept.contains(&p.name_any()))
        .cloned()
        .collect();
    plan
}

fn held_by_agent(container: &Container) -> bool {
    container.finalizers().iter().any(|f| f == AGENT_FINALIZER)
}

fn vni(network: &Network) -> Option<u32> {
    network.status.as_ref().and_then(|s| s.vni)
}

/// The own Ports on a Network, the one that the status has shown first, then by address.
fn own_ports<'a>(
    container: &Container,
    observed: &'a Observed,
    network: &str,
) -> Vec<&'a Arc<Port>> {
    let shown = |p: &Port| {
        let status = container.status.as_ref();
        status.is_some_and(|s| {
            s.addresses
                .iter()
                .any(|a| a.network == p.spec.network && a.address == p.spec.address)
        })
    };
    let mut own: Vec<_> = observed
        .ports
        .iter()
        .filter(|p| p.spec.network == network)
        .collect();
    own.sort_by_key(|p| (!shown(p), p.spec.address));
    own
}

/// The VNI and address to claim for interface `i`, or why there is none.
fn wanted(
    container: &Container,
    observed: &Observed,
    i: usize,
    wish: &Attachment,
) -> Result<(u32, std::net::Ipv4Addr), Refusal> {
    let path = format!("spec.networks[{i}]");
    let namespace = container.namespace().unwrap_or_default();
    let Some(network) = observed.networks.get(&wish.name) else {
        let message = format!(
            "{path}.name: there is no Network {:?} in namespace {namespace}; create it, the Container then goes on by itself",
            wish.name
        );
        return Err(Refusal::new("NetworkNotFound", message));
    };
    if network.meta().deletion_timestamp.is_some() {
        let message = format!(
            "{path}.name: Network {:?} is being deleted; create it again or delete the Container",
            wish.name
        );
        return Err(Refusal::new("NetworkDeleting", message));
    }
    for (j, other) in container.spec.networks.iter().enumerate().take(i) {
        if let Some(other_network) = observed.networks.get(&other.name)
            && overlaps(network, other_network)
        {
            let (a, b) = (network.spec.cidr, other_network.spec.cidr);
            let message = format!(
                "{path}.name: {a} of Network {:?} overlaps {b} of Network {:?} (spec.networks[{j}]); a Container cannot tell them apart",
                wish.name, other.name
            );
            return Err(Refusal::new("NetworksOverlap", message));
        }
    }
    let Some(vni) = vni(network) else {
        let message = format!(
            "{path}.name: Network {:?} has no VNI yet; its conditions say why",
            wish.name
        );
        return Err(Refusal::new("NetworkNotReady", message));
    };
    let none = Addresses::default();
    let addresses = observed.addresses.get(&wish.name).unwrap_or(&none);
    let shown = container.status.iter().flat_map(|s| &s.addresses);
    let before = shown
        .filter(|a| a.network == wish.name)
        .map(|a| a.address)
        .next();
    choose(&path, wish, network, addresses, before).map(|address| (vni, address))
}

fn overlaps(a: &Network, b: &Network) -> bool {
    a.spec.cidr.contains(&b.spec.cidr) || b.spec.cidr.contains(&a.spec.cidr)
}

fn port_spec(
    container: &Container,
    observed: &Observed,
    interface: usize,
    network: &Network,
    vni: u32,
    address: std::net::Ipv4Addr,
) -> PortSpec {
    PortSpec {
        namespace: container.namespace().unwrap_or_default(),
        labels: container.labels().clone(),
        container: container.name_any(),
        network: network.name_any(),
        interface: u32::try_from(interface).unwrap_or(u32::MAX),
        vni,
        address,
        cidr: network.spec.cidr,
        gateway: network::gateway(network.spec.cidr),
        mac: port::mac(vni, address),
        dns_domain: network.spec.dns_domain.clone(),
        egress: network.spec.egress,
        location: location(container, observed.host.as_deref()),
    }
}

fn location(container: &Container, host: Option<&Host>) -> Option<Location> {
    let status = container.status.as_ref()?;
    let addresses = host
        .and_then(|h| h.status.as_ref())
        .map(|s| s.addresses.clone())
        .unwrap_or_default();
    Some(Location {
        host: status.host.clone()?,
        epoch: status.epoch,
        cloud: host.and_then(|h| h.spec.cloud.clone()),
        internal: addresses.internal,
        external: addresses.external,
    })
}

/// Why a Container has no addresses, as its status says.
fn refused(container: &Container) -> Option<&str> {
    let mut conditions = container.status.iter().flat_map(|s| &s.conditions);
    conditions
        .find(|c| c.type_ == NETWORKED && c.status == "False")
        .map(|c| c.reason.as_str())
}

/// Whether a Container waits for an address that others have.
pub fn waits_for_address(container: &Container) -> bool {
    matches!(
        refused(container),
        Some("AddressTaken" | "AddressesExhausted")
    )
}

/// Whether a Container without its addresses is likely to claim them soon: younger ones leave it the lowest.
pub fn may_claim(container: &Container) -> bool {
    let waits = refused(container)
        .is_none_or(|r| matches!(r, "Pending" | "NetworkNotReady" | "AddressesExhausted"));
    container.meta().deletion_timestamp.is_none() && waits
}

const NETWORKED: &str = "Networked";
const SCHEDULED: &str = "Scheduled";

/// Says what is known.
pub fn status(
    container: &Container,
    observed: &Observed,
    plan: &Plan,
    report: &Steps,
    now: Timestamp,
) -> Outcome<ContainerStatus> {
    let mut status = container.status.clone().unwrap_or_default();
    let deleting = container.meta().deletion_timestamp.is_some();
    if deleting {
        if status.host.is_none() || !held_by_agent(container) {
            status.phase = ContainerPhase::Deleting;
        }
        let gone = plan.release.len() == observed.ports.len() && !held_by_agent(container);
        return Outcome::new(
            status,
            report.next(if gone { Next::Finished } else { Next::OnChange }),
        );
    }
    if is_being_placed(container, now) {
        return Outcome::new(status, Next::After(PLACED_SOON.unsigned_abs()));
    }
    if status.host.is_none() {
        status.phase = ContainerPhase::Pending;
    }
    let worked = report.first_failure().is_none();
    let claimed = plan.claim.iter().filter(|_| worked);
    let own: Vec<&Port> = observed
        .ports
        .iter()
        .map(|p| &**p)
        .filter(|p| !plan.release.iter().any(|r| **r == **p))
        .chain(claimed)
        .collect();
    status.addresses = container
        .spec
        .networks
        .iter()
        .filter_map(|wish| own.iter().find(|p| p.spec.network == wish.name))
        .map(|p| Address {
            network: p.spec.network.clone(),
            address: p.spec.address,
            mac: p.spec.mac.clone(),
        })
        .collect();
    let refused = container
        .spec
        .networks
        .iter()
        .enumerate()
        .find_map(|(i, wish)| {
            let has = own.iter().any(|p| p.spec.network == wish.name);
            if has {
                None
            } else {
                wanted(container, observed, i, wish).err()
            }
        });
    let fact = networked(
        &status,
        container.spec.networks.len(),
        refused.as_ref(),
        report,
    );
    let mut notes = vec![];
    if let Some(refusal) = &refused
        && !status
            .conditions
            .iter()
            .any(|c| c.type_ == NETWORKED && c.reason == refusal.reason)
    {
        notes.push(Note::warning(refusal.reason, &refusal.message));
    }
    let generation = container.metadata.generation;
    condition::merge(&mut status.conditions, &[fact], generation, now);
    container_ready(&mut status, generation, now);
    // A missing Network or a freed address wakes us; the timer is for what no event tells.
    let calm = if refused.is_some() {
        Next::After(Duration::from_secs(30))
    } else {
        Next::OnChange
    };
    Outcome {
        status,
        next: report.next(calm),
        notes,
    }
}

fn networked(
    status: &ContainerStatus,
    wanted: usize,
    refused: Option<&Refusal>,
    report: &Steps,
) -> Fact {
    let failure: Option<(&str, &Error)> = report.first_failure();
    match (refused, failure) {
        (Some(refusal), _) => Fact::no(NETWORKED, refusal.reason, &refusal.message),
        (None, Some((step, e))) => Fact::unknown(NETWORKED, e.reason(), format!("{step}: {e}")),
        (None, None) if wanted == 0 => Fact::yes(NETWORKED, "NoNetworks", "spec.networks is empty"),
        (None, None) if status.addresses.len() == wanted => {
            let list: Vec<_> = status
                .addresses
                .iter()
                .map(|a| a.address.to_string())
                .collect();
            Fact::yes(NETWORKED, "Addressed", list.join(", "))
        }
        (None, None) => Fact::no(NETWORKED, "Pending", "addresses are being claimed"),
    }
}

/// Ports whose Container is gone.
pub fn orphans(ports: &[Arc<Port>], containers: &[Arc<Container>]) -> Vec<Arc<Port>> {
    let owners = owner::uids(containers);
    let orphan = |p: &&Arc<Port>| !p.owner_references().iter().any(|o| owners.contains(&o.uid));
    ports.iter().filter(orphan).cloned().collect()
}
