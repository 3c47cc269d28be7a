//! Places a batch. Pure.

use super::place::{Unplaceable, place};
use super::resize;
use super::snapshot::{HostView, Snapshot, resident};
use crate::condition::container_ready;
use jiff::Timestamp;
use kube::ResourceExt;
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::container::{Allocation, ContainerPhase, RunImage};
use skysail_schemas::{Container, ContainerStatus, Image, InstanceType};
use std::sync::Arc;

/// What is to be done: each Container with its new status.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Containers that get a Host.
    pub bind: Vec<Step>,
    /// Containers that get none, whose condition does not say so yet.
    pub explain: Vec<Step>,
    /// Containers that have a Host and get another size there, or are told why not.
    pub resize: Vec<Step>,
}

/// One status to write.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The Container as it was seen.
    pub container: Arc<Container>,
    /// What its status becomes.
    pub status: ContainerStatus,
}

/// Decides. Each binding is counted before the next is chosen.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut hosts = snapshot.hosts.clone();
    let mut plan = Plan::default();
    for container in &snapshot.waiting {
        let mut status = container.status.clone().unwrap_or_default();
        let fact = match bind(snapshot, container, &mut hosts, &mut status) {
            Ok(message) => Fact::yes(SCHEDULED, "Bound", message),
            Err(no) => Fact::no(SCHEDULED, no.reason, no.message),
        };
        condition::merge(
            &mut status.conditions,
            &[fact],
            container.metadata.generation,
            now,
        );
        container_ready(&mut status, container.metadata.generation, now);
        let bound = status.host.is_some();
        let step = Step {
            container: container.clone(),
            status,
        };
        if bound {
            plan.bind.push(step);
        } else if container.status.as_ref() != Some(&step.status) {
            plan.explain.push(step);
        }
    }
    plan.resize = resize::plan(snapshot, &mut hosts, now);
    plan
}

const SCHEDULED: &str = "Scheduled";

fn bind(
    snapshot: &Snapshot,
    container: &Container,
    hosts: &mut [HostView],
    status: &mut ContainerStatus,
) -> Result<String, Unplaceable> {
    let namespace = container.namespace().unwrap_or_default();
    if container.spec.privileged && !snapshot.privileged.contains(&namespace) {
        let message = format!(
            "spec.privileged: Namespace {namespace:?} does not allow it; label it skysail.dev/privileged=allowed or make the Container unprivileged"
        );
        return Err(Unplaceable {
            reason: "PrivilegedNotAllowed",
            message,
        });
    }
    let instance_type = instance_type(snapshot, container, &namespace)?;
    let image = image(snapshot, container)?;
    let allocation = allocation(instance_type);
    let resident = resident(container, &snapshot.instance_types);
    let choice = place(container, &resident, allocation.resources(), hosts)?;
    let host = &mut hosts[choice.index];
    host.take(allocation.resources(), resident);
    status.host = Some(host.name.clone());
    status.epoch += 1;
    status.phase = ContainerPhase::Starting;
    status.allocation = Some(allocation);
    status.image = Some(image);
    Ok(choice.message)
}

fn instance_type<'a>(
    snapshot: &'a Snapshot,
    container: &Container,
    namespace: &str,
) -> Result<&'a InstanceType, Unplaceable> {
    let name = &container.spec.instance_type;
    snapshot.instance_types.get(&(namespace.to_owned(), name.clone())).map(|t| &**t).ok_or_else(|| {
        let message = format!("spec.instanceType: there is no InstanceType {name:?} in namespace {namespace}; create it, the Container then goes on by itself");
        Unplaceable { reason: "InstanceTypeNotFound", message }
    })
}

pub fn allocation(instance_type: &InstanceType) -> Allocation {
    let spec = &instance_type.spec;
    Allocation {
        cpu: spec.cpu,
        memory: spec.memory,
        disk: spec.disk,
        bandwidth: spec.bandwidth,
        pids: spec.pids,
    }
}

fn image(snapshot: &Snapshot, container: &Container) -> Result<RunImage, Unplaceable> {
    let name = &container.spec.image;
    let Some(image) = snapshot.images.get(name) else {
        let message = format!(
            "spec.image: there is no Image {name:?}; create it, the Container then goes on by itself"
        );
        return Err(Unplaceable {
            reason: "ImageNotFound",
            message,
        });
    };
    let ready = |i: &Image| {
        i.status
            .as_ref()
            .filter(|s| condition::is_true(&s.conditions, condition::READY))
            .and_then(|s| s.digest.clone())
    };
    match ready(image) {
        Some(digest) => Ok(RunImage {
            name: name.clone(),
            digest,
            init: image.spec.init.clone(),
        }),
        None => {
            let conditions = image.status.iter().flat_map(|s| &s.conditions);
            let why = conditions
                .clone()
                .find(|c| c.type_ == condition::READY)
                .map(|c| format!(": {} {}", c.reason, c.message));
            let message = format!(
                "spec.image: Image {name:?} is not ready{}",
                why.unwrap_or_default()
            );
            Err(Unplaceable {
                reason: "ImageNotReady",
                message: message.trim_end().to_owned(),
            })
        }
    }
}
