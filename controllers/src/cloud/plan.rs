//! What a Cloud needs. Pure.

use crate::owner::is_owned_by;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use skysail_clouds::{Machine, Offer};
use skysail_reconcile::{Error, Next, Note, Outcome, Steps};
use skysail_schemas::{
    Cloud, CloudStatus, Host, MachineType, MachineTypeSpec,
    cloud::Driver,
    condition::{self, Fact},
    machine_type::price,
};
use std::{sync::Arc, time::Duration};

/// How often a cloud is asked whether it is there.
const LOOK: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// What it offers, or why it does not answer.
    pub offers: Option<Result<Vec<Offer>, Error>>,
    /// Its machines; empty where it does not answer.
    pub machines: Vec<Machine>,
    /// Machines of which it is certain that no Host stands for them.
    pub unowned: Vec<String>,
    /// Its Hosts.
    pub hosts: Vec<Arc<Host>>,
    /// Its MachineTypes, whoever made them.
    pub types: Vec<Arc<MachineType>>,
}

/// What is to be done.
#[derive(Default, PartialEq)]
pub struct Plan {
    /// MachineTypes to make.
    pub create: Vec<MachineType>,
    /// Own MachineTypes to change, with what they shall say.
    pub update: Vec<(Arc<MachineType>, MachineTypeSpec)>,
    /// Own MachineTypes that are not offered any more.
    pub withdraw: Vec<Arc<MachineType>>,
    /// Machines to give back.
    pub reap: Vec<String>,
    /// The cloud's own networks are to go.
    pub retire: bool,
}

/// As in the log: names only.
impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names =
            |types: &[Arc<MachineType>]| types.iter().map(|t| t.name_any()).collect::<Vec<_>>();
        let create: Vec<String> = self.create.iter().map(ResourceExt::name_any).collect();
        let update: Vec<String> = self.update.iter().map(|(t, _)| t.name_any()).collect();
        f.debug_struct("Plan")
            .field("create", &create)
            .field("update", &update)
            .field("withdraw", &names(&self.withdraw))
            .field("reap", &self.reap)
            .field("retire", &self.retire)
            .finish()
    }
}

/// Whether somebody else has set what the MachineType says: then it is theirs.
fn overridden(there: &MachineType) -> bool {
    let others = there
        .managed_fields()
        .iter()
        .filter(|m| m.manager.as_deref() != Some("cloud"));
    others
        .filter_map(|m| m.fields_v1.as_ref())
        .any(|fields| fields.0.get("f:spec").is_some())
}

/// Decides.
pub fn plan(cloud: &Cloud, observed: &Observed) -> Plan {
    let leaving = cloud.meta().deletion_timestamp.is_some();
    let own: Vec<&Arc<MachineType>> = observed
        .types
        .iter()
        .filter(|t| {
            is_owned_by(&***t, &cloud.uid().unwrap_or_default()) && (leaving || !overridden(t))
        })
        .collect();
    if leaving {
        let empty = observed.hosts.is_empty();
        let withdraw = if empty {
            own.into_iter().cloned().collect()
        } else {
            vec![]
        };
        return Plan {
            withdraw,
            reap: observed.unowned.clone(),
            retire: empty,
            ..Plan::default()
        };
    }
    let mut plan = Plan {
        reap: observed.unowned.clone(),
        ..Plan::default()
    };
    let Some(Ok(offers)) = &observed.offers else {
        return plan;
    };
    for offer in offers {
        let wanted = machine_type(cloud, offer);
        match observed
            .types
            .iter()
            .find(|t| t.name_any() == wanted.name_any())
        {
            None => plan.create.push(wanted),
            Some(there) if own.contains(&there) && there.spec != wanted.spec => {
                plan.update.push((there.clone(), wanted.spec))
            }
            Some(_) => {}
        }
    }
    let offered = |t: &&&Arc<MachineType>| !offers.iter().any(|o| name(cloud, o) == t.name_any());
    // A size that a Host was ordered in stays as its record.
    let used = |t: &&&Arc<MachineType>| {
        observed
            .hosts
            .iter()
            .any(|h| h.spec.machine_type.as_deref() == Some(&t.name_any()))
    };
    plan.withdraw = own
        .iter()
        .filter(offered)
        .filter(|t| !used(t))
        .map(|t| (*t).clone())
        .collect();
    plan
}

fn name(cloud: &Cloud, offer: &Offer) -> String {
    let plain: String = offer
        .name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("{}-{plain}", cloud.name_any())
}

fn machine_type(cloud: &Cloud, offer: &Offer) -> MachineType {
    let spec = MachineTypeSpec {
        cloud: cloud.name_any(),
        offer: Some(offer.name.clone()),
        cpu: offer.resources.cpu,
        memory: offer.resources.memory,
        disk: offer.resources.disk,
        bandwidth: offer.bandwidth,
        price_per_hour: offer.price_per_hour.clone(),
        spot_price_per_hour: offer.spot_price_per_hour.clone(),
    };
    let mut made = MachineType::new(&name(cloud, offer), spec);
    made.metadata.owner_references = cloud.controller_owner_ref(&()).map(|owner| vec![owner]);
    made
}

/// Says what is known.
pub fn status(
    cloud: &Cloud,
    observed: &Observed,
    plan: &Plan,
    report: &Steps,
    now: Timestamp,
) -> Outcome<CloudStatus> {
    let mut status = cloud.status.clone().unwrap_or_default();
    if plan.retire && report.first_failure().is_none() {
        return Outcome::new(status, Next::Finished);
    }
    let generation = cloud.metadata.generation;
    status.observed_generation = generation;
    let reachable = match &observed.offers {
        None => None,
        Some(Ok(offers)) => {
            status.offers = u32::try_from(offers.len()).unwrap_or(u32::MAX);
            status.hosts = u32::try_from(observed.machines.len()).unwrap_or(u32::MAX);
            status.spend_per_hour = spend(observed);
            Some(Fact::yes(
                "Reachable",
                "Reachable",
                "the cloud answers and takes our credentials",
            ))
        }
        Some(Err(e)) if needs_credentials(cloud) && lacks_credentials(e) => Some(Fact::unknown(
            "Reachable",
            "CredentialsInvalid",
            "the cloud is asked again when the credentials are in order",
        )),
        Some(Err(e)) => Some(Fact::no("Reachable", e.reason(), e.to_string())),
    };
    let mut facts: Vec<Fact> = reachable.into_iter().collect();
    let mut parts = vec!["Reachable"];
    if needs_credentials(cloud) {
        facts.extend(credentials_valid(cloud, observed));
        parts.insert(0, CREDENTIALS);
    }
    if let Some((step, e)) = report.first_failure() {
        facts.push(Fact::no("Tidy", e.reason(), format!("{step}: {e}")));
        parts.push("Tidy");
    } else {
        status.conditions.retain(|c| c.type_ != "Tidy");
    }
    condition::merge(&mut status.conditions, &facts, generation, now);
    let mut ready = condition::ready(&status.conditions, &parts);
    if cloud.meta().deletion_timestamp.is_some() && report.first_failure().is_none() {
        let names: Vec<String> = observed
            .hosts
            .iter()
            .take(5)
            .map(|h| h.name_any())
            .collect();
        ready = Fact::no(
            condition::READY,
            "HostsLeft",
            format!(
                "deletion waits for {} Hosts of this cloud ({}); delete them",
                observed.hosts.len(),
                names.join(", ")
            ),
        );
    }
    condition::merge(&mut status.conditions, &[ready], generation, now);
    let notes = plan
        .reap
        .iter()
        .map(|id| {
            Note::warning(
                "UnownedMachine",
                format!("machine {id} has no Host and is given back"),
            )
        })
        .collect();
    let calm = match &observed.offers {
        Some(Err(e)) if e.next() == Next::Retry => Next::Retry,
        _ => Next::After(LOOK),
    };
    Outcome {
        status,
        next: report.next(calm),
        notes,
    }
}

/// The condition of a cloud that asks who we are.
const CREDENTIALS: &str = "CredentialsValid";

fn needs_credentials(cloud: &Cloud) -> bool {
    matches!(cloud.spec.driver, Driver::Ec2 | Driver::Hetzner)
}

fn lacks_credentials(e: &Error) -> bool {
    [crate::account::SECRET_NOT_FOUND, "Denied"].contains(&e.reason())
}

/// What the cloud's answer says of our credentials; nothing where there was none.
fn credentials_valid(cloud: &Cloud, observed: &Observed) -> Option<Fact> {
    match observed.offers.as_ref()? {
        Ok(_) => {
            let place = cloud.spec.credentials.as_ref().map_or_else(
                || "the server's environment or of its instance's role".to_owned(),
                |r| format!("Secret {}/{}", r.namespace, r.secret),
            );
            let message = format!("the cloud takes the credentials of {place}");
            Some(Fact::yes(CREDENTIALS, "Accepted", message))
        }
        Err(e) if lacks_credentials(e) => Some(Fact::no(CREDENTIALS, e.reason(), e.to_string())),
        Err(_) => None,
    }
}

/// The sum of the prices of what runs; `None` where no price is known.
fn spend(observed: &Observed) -> Option<String> {
    let type_of = |machine: &Machine| {
        let host = observed
            .hosts
            .iter()
            .find(|h| h.name_any() == machine.name)?;
        let name = host.spec.machine_type.as_ref()?;
        let size = &observed.types.iter().find(|t| t.name_any() == *name)?.spec;
        let spot = size.spot_price_per_hour.as_ref().filter(|_| host.spec.spot);
        price(spot.or(size.price_per_hour.as_ref())?)
    };
    let prices: Vec<f64> = observed.machines.iter().filter_map(type_of).collect();
    (!prices.is_empty()).then(|| format!("{:.3}", prices.iter().sum::<f64>()))
}
