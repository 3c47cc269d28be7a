//! Which Containers a set should have. Pure.

use crate::owner;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use skysail_reconcile::{Next, Outcome, Steps};
use skysail_schemas::condition::{self, Fact, READY};
use skysail_schemas::{Container, ContainerSet, ContainerSetStatus, ContainerSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Label of every Container of a set: the set's name.
pub const SET_LABEL: &str = "skysail.dev/set";

/// What was seen: Containers that are owned, or whose name the set wants.
pub type Observed = Vec<Arc<Container>>;

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Containers to make.
    pub create: Vec<Container>,
    /// Containers that take the new template as they run, with their new labels, annotations and spec.
    pub update: Vec<(Arc<Container>, Container)>,
    /// Containers to delete, highest number first.
    pub remove: Vec<Arc<Container>>,
}

/// The number of a set's Container.
fn number(set: &ContainerSet, container: &Container) -> Option<u32> {
    let text = container.name_any();
    let number = text
        .strip_prefix(&set.name_any())?
        .strip_prefix('-')?
        .parse::<u32>()
        .ok()?;
    (text == name(set, number)).then_some(number)
}

/// The name of Container `number`.
pub fn name(set: &ContainerSet, number: u32) -> String {
    format!("{}-{number}", set.name_any())
}

fn owned<'a>(set: &ContainerSet, observed: &'a Observed) -> Vec<&'a Arc<Container>> {
    let uid = set.uid().unwrap_or_default();
    observed
        .iter()
        .filter(|c| owner::is_owned_by(&***c, &uid))
        .collect()
}

fn going<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

fn ready(container: &Container) -> bool {
    container
        .status
        .as_ref()
        .is_some_and(|s| condition::is_true(&s.conditions, READY))
}

/// Decides.
pub fn plan(set: &ContainerSet, observed: &Observed) -> Plan {
    let own = owned(set, observed);
    let wanted = if going(set) { 0 } else { set.spec.replicas };
    let mut plan = Plan::default();
    let kept = |c: &Container| number(set, c).is_some_and(|n| n < wanted);
    plan.remove = own
        .iter()
        .filter(|c| !kept(c) && !going(&****c))
        .map(|c| (*c).clone())
        .collect();
    plan.remove
        .sort_by_key(|c| std::cmp::Reverse(number(set, c)));
    let by_name: BTreeMap<String, &Arc<Container>> =
        observed.iter().map(|c| (c.name_any(), c)).collect();
    let own_names: BTreeMap<String, &Arc<Container>> =
        own.iter().map(|c| (c.name_any(), *c)).collect();
    let mut outdated: Vec<&Arc<Container>> = vec![];
    for number in 0..wanted {
        let name = name(set, number);
        let wish = made(set, &name);
        match (own_names.get(&name), by_name.contains_key(&name)) {
            (None, false) => plan.create.push(wish),
            // Somebody else's: the status says so.
            (None, true) => {}
            (Some(there), _) if going(&***there) => {}
            (Some(there), _) if same(there, &wish) => {}
            (Some(there), _) if takes(&there.spec, &wish.spec) => {
                plan.update.push(((*there).clone(), wish))
            }
            (Some(there), _) => outdated.push(there),
        }
    }
    let steady =
        plan.create.is_empty() && plan.remove.is_empty() && !own.iter().any(|c| going(&***c));
    if steady
        && let Some(next) = outdated.iter().rev().find(|next| {
            own.iter()
                .all(|c| ready(c) || c.name_any() == next.name_any())
        })
    {
        plan.remove.push((*next).clone());
    }
    plan
}

/// Wanted names that somebody else's Container has.
fn foreign(set: &ContainerSet, observed: &Observed) -> Vec<String> {
    let uid = set.uid().unwrap_or_default();
    let taken = observed.iter().filter(|c| !owner::is_owned_by(&***c, &uid));
    let wanted = |c: &&Arc<Container>| number(set, c).is_some_and(|n| n < set.spec.replicas);
    let mut names: Vec<_> = taken.filter(wanted).map(|c| c.name_any()).collect();
    names.sort();
    names
}

/// Whether what the template says is already so; labels and annotations of others stay.
fn same(there: &Container, wish: &Container) -> bool {
    let within = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
        a.iter().all(|(k, v)| b.get(k) == Some(v))
    };
    there.spec == wish.spec
        && within(wish.labels(), there.labels())
        && within(wish.annotations(), there.annotations())
}

/// Whether a Container can change from `old` to `new` without being made anew.
fn takes(old: &ContainerSpec, new: &ContainerSpec) -> bool {
    let fixed = |s: &ContainerSpec| ContainerSpec {
        placement: Default::default(),
        running: true,
        restart_policy: Default::default(),
        ..s.clone()
    };
    fixed(old) == fixed(new)
}

/// Container `name` as the template says.
fn made(set: &ContainerSet, name: &str) -> Container {
    let template = &set.spec.template;
    let mut labels = template.metadata.labels.clone();
    labels.insert(SET_LABEL.to_owned(), set.name_any());
    let annotations = &template.metadata.annotations;
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: set.namespace(),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then(|| annotations.clone()),
        owner_references: Some(set.controller_owner_ref(&()).into_iter().collect()),
        ..ObjectMeta::default()
    };
    Container {
        metadata,
        spec: template.spec.clone(),
        status: None,
    }
}

/// Says what is known.
pub fn status(
    set: &ContainerSet,
    observed: &Observed,
    report: &Steps,
    now: Timestamp,
) -> Outcome<ContainerSetStatus> {
    let own = owned(set, observed);
    let mut status = set.status.clone().unwrap_or_default();
    if going(set) && own.is_empty() {
        return Outcome::new(status, Next::Finished);
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let generation = set.metadata.generation;
    status.observed_generation = generation;
    status.replicas = count(own.iter().filter(|c| !going(&****c)).count());
    status.ready_replicas = count(own.iter().filter(|c| !going(&****c) && ready(c)).count());
    let wanted = if going(set) { 0 } else { set.spec.replicas };
    let foreign = if going(set) {
        vec![]
    } else {
        foreign(set, observed)
    };
    let fact = match report.first_failure() {
        Some((step, e)) => Fact::no(COMPLETE, e.reason(), format!("{step}: {e}")),
        None if !foreign.is_empty() => {
            let message = format!(
                "{} exist already and do not belong to this set; delete them or rename the set",
                foreign.join(", ")
            );
            Fact::no(COMPLETE, "NameTaken", message)
        }
        None if status.ready_replicas == wanted && own.len() == wanted as usize => {
            Fact::yes(COMPLETE, "Complete", format!("{wanted} of {wanted} ready"))
        }
        None => Fact::no(
            COMPLETE,
            "Progressing",
            format!(
                "{} of {wanted} ready{}",
                status.ready_replicas,
                waiting(&own)
            ),
        ),
    };
    condition::merge(&mut status.conditions, &[fact], generation, now);
    let ready = condition::ready(&status.conditions, &[COMPLETE]);
    condition::merge(&mut status.conditions, &[ready], generation, now);
    let calm = if foreign.is_empty() {
        Next::OnChange
    } else {
        Next::After(Duration::from_secs(30))
    };
    Outcome::new(status, report.next(calm))
}

const COMPLETE: &str = "Complete";

/// The first Container that is not ready, with its own reason.
fn waiting(own: &[&Arc<Container>]) -> String {
    let Some(container) = own
        .iter()
        .filter(|c| !ready(c))
        .min_by_key(|c| c.name_any())
    else {
        return String::new();
    };
    let conditions = container.status.iter().flat_map(|s| &s.conditions);
    let why = conditions
        .clone()
        .find(|c| c.type_ == READY)
        .map(|c| format!("{}: {}", c.reason, c.message));
    format!(
        "; {} waits: {}",
        container.name_any(),
        why.unwrap_or_else(|| "Pending".to_owned())
            .trim_end_matches(": ")
    )
}
