//! What is said of a policy. Pure; there is nothing to do.

use jiff::Timestamp;
use kube::ResourceExt;
use skysail_reconcile::{Next, Outcome};
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::security_policy::{PolicyHost, ProgrammedPolicy, selects};
use skysail_schemas::{Host, Port, SecurityPolicy, SecurityPolicyStatus};
use std::collections::{BTreeMap, BTreeSet};

const PROGRAMMED: &str = "Programmed";
/// How many hosts a message names.
const NAMED: usize = 5;

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// Containers of the namespace that the policy selects.
    pub containers: BTreeSet<String>,
    /// The hosts of those that have one, and the generation that each says it has.
    pub hosts: BTreeMap<String, Option<i64>>,
}

/// What of a Port decides on where a policy is in force.
pub fn part_of_port(port: &Port) -> impl PartialEq + Send + use<> {
    let host = port.spec.location.as_ref().map(|l| l.host.clone());
    (port.spec.labels.clone(), host, port.spec.container.clone())
}

/// What of a Host does.
pub fn part_of_host(host: &Host) -> impl PartialEq + Send + use<> {
    said(host)
}

/// The policies that are in a host's switch.
pub fn said(host: &Host) -> Vec<ProgrammedPolicy> {
    let status = host.status.as_ref();
    status.map(|s| s.policies.clone()).unwrap_or_default()
}

/// Looks at the Ports of the policy's namespace, and at the Hosts by name.
pub fn observe<'a>(
    policy: &SecurityPolicy,
    ports: impl Iterator<Item = &'a Port>,
    host: impl Fn(&str) -> Option<Vec<ProgrammedPolicy>>,
) -> Observed {
    let (namespace, name) = (policy.namespace(), policy.name_any());
    let mut observed = Observed::default();
    let selected = ports.filter(|p| selects(&policy.spec.container_selector, &p.spec.labels));
    for port in selected.filter(|p| p.namespace() == namespace) {
        observed.containers.insert(port.spec.container.clone());
        let Some(location) = &port.spec.location else {
            continue;
        };
        let said = || {
            let all = host(&location.host).unwrap_or_default();
            let own =
                |p: &&ProgrammedPolicy| p.name == name && Some(&p.namespace) == namespace.as_ref();
            all.iter().find(own).map(|p| p.generation)
        };
        if !observed.hosts.contains_key(&location.host) {
            observed.hosts.insert(location.host.clone(), said());
        }
    }
    observed
}

/// Says what is known.
pub fn status(
    policy: &SecurityPolicy,
    observed: &Observed,
    now: Timestamp,
) -> Outcome<SecurityPolicyStatus> {
    let generation = policy.metadata.generation;
    let mut status = policy.status.clone().unwrap_or_default();
    let late: Vec<String> = observed
        .hosts
        .iter()
        .filter(|(_, has)| **has < generation)
        .map(|(host, has)| match has {
            Some(old) => format!("{host} (generation {old})"),
            None => host.clone(),
        })
        .collect();
    let (all, ready) = (observed.hosts.len(), observed.hosts.len() - late.len());
    status.observed_generation = generation;
    status.policy_types = policy.spec.types();
    status.containers = u32::try_from(observed.containers.len()).unwrap_or(u32::MAX);
    status.programmed = format!("{ready}/{all}");
    let hosts = observed.hosts.iter().map(|(host, generation)| PolicyHost {
        host: host.clone(),
        generation: *generation,
    });
    status.hosts = hosts.collect();
    let shown = generation.unwrap_or_default();
    let fact = if observed.containers.is_empty() {
        let message = "spec.containerSelector selects no container that has a network";
        Fact::yes(PROGRAMMED, "SelectsNothing", message)
    } else if late.is_empty() {
        let message = format!(
            "generation {shown} is in the switches of all {all} hosts that have such a container"
        );
        Fact::yes(PROGRAMMED, "Programmed", message)
    } else {
        let more = match late.len().checked_sub(NAMED) {
            Some(more) if more > 0 => format!(" and {more} more"),
            _ => String::new(),
        };
        let named = late[..late.len().min(NAMED)].join(", ");
        let message = format!("generation {shown} is not yet on {named}{more}");
        Fact::no(PROGRAMMED, "Pending", message)
    };
    condition::merge(&mut status.conditions, &[fact], generation, now);
    let ready = condition::ready(&status.conditions, &[PROGRAMMED]);
    condition::merge(&mut status.conditions, &[ready], generation, now);
    Outcome::new(status, Next::OnChange)
}
