//! What a Network needs. Pure.

use crate::owner;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};
use skysail_reconcile::{Next, Note, Outcome, Steps};
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::{Network, NetworkStatus, Port, Segment, SegmentSpec, network, segment};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Numbers that a VNI can be (RFC 7348: 24 bits; 0 is left out).
pub(super) const VNIS: std::ops::Range<u32> = 1..1 << 24;

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// Segments that name this Network's uid.
    pub own: Vec<Arc<Segment>>,
    /// Numbers that are taken, by whomever.
    pub taken: BTreeSet<u32>,
    /// Ports on this Network.
    pub ports: Vec<Arc<Port>>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Claim this number.
    pub claim: Option<Segment>,
    /// Give these back.
    pub release: Vec<Arc<Segment>>,
}

/// Decides.
pub fn plan(network: &Network, observed: &Observed) -> Plan {
    if network.meta().deletion_timestamp.is_some() {
        let release = if observed.ports.is_empty() {
            observed.own.clone()
        } else {
            vec![]
        };
        return Plan {
            release,
            ..Plan::default()
        };
    }
    if let Some(kept) = kept(network, &observed.own) {
        let release = observed
            .own
            .iter()
            .filter(|s| s.spec.vni != kept)
            .cloned()
            .collect();
        return Plan {
            release,
            ..Plan::default()
        };
    }
    let free = free_vni(&network.uid().unwrap_or_default(), &observed.taken, VNIS);
    Plan {
        claim: free.map(|vni| claim(network, vni)),
        release: vec![],
    }
}

/// Of several own Segments, the one that the status has already shown to others, else the lowest.
fn kept(network: &Network, own: &[Arc<Segment>]) -> Option<u32> {
    let shown = network.status.as_ref().and_then(|s| s.vni);
    own.iter()
        .map(|s| s.spec.vni)
        .find(|v| Some(*v) == shown)
        .or_else(|| own.iter().map(|s| s.spec.vni).min())
}

/// The first free number, counted from a place that the uid decides.
pub(super) fn free_vni(
    uid: &str,
    taken: &BTreeSet<u32>,
    range: std::ops::Range<u32>,
) -> Option<u32> {
    let hash = Sha256::digest(uid.as_bytes());
    let count = u64::from(range.end - range.start);
    let begin = hash
        .iter()
        .take(8)
        .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        % count;
    (0..count)
        .map(|i| range.start + ((begin + i) % count) as u32)
        .find(|vni| !taken.contains(vni))
}

fn claim(network: &Network, vni: u32) -> Segment {
    let spec = SegmentSpec {
        vni,
        namespace: network.namespace().unwrap_or_default(),
        network: network.name_any(),
        network_uid: network.uid().unwrap_or_default(),
    };
    Segment::new(&segment::name(vni), spec)
}

/// Says what is known.
pub fn status(
    network: &Network,
    observed: &Observed,
    plan: &Plan,
    report: &Steps,
    now: Timestamp,
) -> Outcome<NetworkStatus> {
    let mut status = network.status.clone().unwrap_or_default();
    let deleting = network.meta().deletion_timestamp.is_some();
    if deleting && observed.ports.is_empty() && report.first_failure().is_none() {
        return Outcome::new(status, Next::Finished);
    }
    let generation = network.metadata.generation;
    status.observed_generation = generation;
    status.addresses = network::usable_count(network.spec.cidr);
    status.addresses_in_use = u32::try_from(observed.ports.len()).unwrap_or(u32::MAX);
    status.gateway = Some(network::gateway(network.spec.cidr));
    let mut outcome_notes = vec![];
    let claimed = plan
        .claim
        .as_ref()
        .filter(|_| report.first_failure().is_none())
        .map(|s| s.spec.vni);
    if let Some(vni) = claimed {
        outcome_notes.push(Note::normal("Allocated", format!("VNI {vni} was claimed")));
    }
    if !deleting {
        status.vni = claimed.or_else(|| kept(network, &observed.own));
    }
    let allocated = match (status.vni, report.first_failure()) {
        (Some(vni), _) => Fact::yes("Allocated", "Allocated", format!("VNI {vni}")),
        (None, Some((step, e))) => Fact::unknown("Allocated", e.reason(), format!("{step}: {e}")),
        (None, None) => Fact::no(
            "Allocated",
            "VnisExhausted",
            "all VXLAN network identifiers are taken; delete Networks that are not used",
        ),
    };
    let mut facts = vec![allocated];
    let mut parts = vec!["Allocated"];
    if deleting {
        facts.push(in_use(&observed.ports));
        parts.insert(0, "Released");
    }
    condition::merge(&mut status.conditions, &facts, generation, now);
    let ready = condition::ready(&status.conditions, &parts);
    condition::merge(&mut status.conditions, &[ready], generation, now);
    let calm = if status.vni.is_none() {
        Next::After(Duration::from_secs(60))
    } else {
        Next::OnChange
    };
    Outcome {
        status,
        next: report.next(calm),
        notes: outcome_notes,
    }
}

/// Who still uses a Network that is being deleted.
fn in_use(ports: &[Arc<Port>]) -> Fact {
    let mut users: Vec<_> = ports
        .iter()
        .map(|p| format!("{} ({})", p.spec.container, p.spec.address))
        .collect();
    users.sort();
    let more = users.len().saturating_sub(5);
    users.truncate(5);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let message = format!(
        "deletion waits for the containers that are on this network: {}{more}; delete them",
        users.join(", ")
    );
    Fact::no("Released", "InUse", message)
}

/// Of all Segments, those that nobody owns and no Port carries.
pub fn orphans(
    segments: &[Arc<Segment>],
    networks: &[Arc<Network>],
    ports: &[Arc<Port>],
) -> Vec<Arc<Segment>> {
    let owners = owner::uids(networks);
    let carried: BTreeSet<u32> = ports.iter().map(|p| p.spec.vni).collect();
    let orphan =
        |s: &&Arc<Segment>| !owners.contains(&s.spec.network_uid) && !carried.contains(&s.spec.vni);
    segments.iter().filter(orphan).cloned().collect()
}
