//! What a Container asks of a Host, from its own spec, its InstanceType and its Image. Pure.

use super::board::Board;
use super::class::Class;
use super::place::Unplaceable;
use super::snapshot::{Snapshot, profile};
use kube::ResourceExt;
use skysail_schemas::condition;
use skysail_schemas::container::{Allocation, RunImage};
use skysail_schemas::{Container, Image, InstanceType};
use std::sync::Arc;

/// A Container that can be placed.
#[derive(Debug, Clone)]
pub struct Request {
    /// The Container.
    pub container: Arc<Container>,
    /// What it takes.
    pub allocation: Allocation,
    /// What it runs.
    pub image: RunImage,
    /// Containers with the same wishes, by number on the board.
    pub(super) class: usize,
}

impl Request {
    pub(super) fn new(
        board: &mut Board<'_>,
        container: &Arc<Container>,
    ) -> Result<Self, Unplaceable> {
        let snapshot = board.snapshot;
        let namespace = container.namespace().unwrap_or_default();
        privileged(snapshot, container, &namespace)?;
        let allocation = allocation(instance_type(snapshot, container, &namespace)?);
        let image = image(snapshot, container)?;
        Ok(Self::of(board, container, allocation, image))
    }

    /// The request of a Container that has a Host: with what it was given there, whatever became of its InstanceType
    /// and its Image.
    pub fn again(board: &mut Board<'_>, container: &Arc<Container>) -> Self {
        let status = container.status.clone().unwrap_or_default();
        let allocation = status.allocation.unwrap_or_default();
        Self::of(
            board,
            container,
            allocation,
            status.image.unwrap_or_default(),
        )
    }

    fn of(
        board: &mut Board<'_>,
        container: &Arc<Container>,
        allocation: Allocation,
        image: RunImage,
    ) -> Self {
        let profile = profile(container, &board.snapshot.instance_types);
        let wanted = allocation.resources();
        let class = Class::number(board, container, wanted, profile, &image.digest);
        Self {
            container: container.clone(),
            allocation,
            image,
            class,
        }
    }

    /// `namespace/name`.
    pub fn name(&self) -> String {
        full_name(&self.container)
    }
}

/// `namespace/name`.
pub fn full_name(container: &Container) -> String {
    format!(
        "{}/{}",
        container.namespace().unwrap_or_default(),
        container.name_any()
    )
}

fn privileged(
    snapshot: &Snapshot,
    container: &Container,
    namespace: &str,
) -> Result<(), Unplaceable> {
    let tenant = snapshot.tenants.get(namespace);
    if !container.spec.privileged || tenant.is_some_and(|t| t.privileged) {
        return Ok(());
    }
    let message = format!(
        "spec.privileged: Namespace {namespace:?} does not allow it; label it skysail.dev/privileged=allowed or make the Container unprivileged"
    );
    Err(Unplaceable::new("PrivilegedNotAllowed", message))
}

fn instance_type<'a>(
    snapshot: &'a Snapshot,
    container: &Container,
    namespace: &str,
) -> Result<&'a InstanceType, Unplaceable> {
    let name = &container.spec.instance_type;
    let key = (namespace.to_owned(), name.clone());
    snapshot.instance_types.get(&key).map(|t| &**t).ok_or_else(|| {
        let message = format!("spec.instanceType: there is no InstanceType {name:?} in namespace {namespace}; create it, the Container then goes on by itself");
        Unplaceable::new("InstanceTypeNotFound", message)
    })
}

/// What an InstanceType gives.
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
        return Err(Unplaceable::new("ImageNotFound", message));
    };
    let ready = |i: &Image| {
        i.status
            .as_ref()
            .filter(|s| condition::is_true(&s.conditions, condition::READY))
            .and_then(|s| s.digest.clone())
    };
    let run = |digest| RunImage {
        name: name.clone(),
        digest,
        init: image.spec.init.clone(),
    };
    if let Some(digest) = ready(image) {
        return Ok(run(digest));
    }
    if snapshot.assume_images {
        return Ok(run(String::new()));
    }
    let conditions = image.status.iter().flat_map(|s| &s.conditions);
    let why = conditions
        .clone()
        .find(|c| c.type_ == condition::READY)
        .map(|c| format!(": {} {}", c.reason, c.message));
    let message = format!(
        "spec.image: Image {name:?} is not ready{}",
        why.unwrap_or_default()
    );
    Err(Unplaceable::new("ImageNotReady", message.trim_end()))
}
