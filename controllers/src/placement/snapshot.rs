//! An immutable view of Hosts and of what is on them. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use kube::{Resource, ResourceExt};
use skysail_schemas::condition;
use skysail_schemas::container::Allocation;
use skysail_schemas::host::{HostPhase, Resources, Taint};
use skysail_schemas::instance_type::Profile;
use skysail_schemas::{Cloud, Container, Host, Image, InstanceType, Migration};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a new Host is expected to come up; containers that are spread wait for it that long.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Everything that a placement may look at.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By name.
    pub hosts: Vec<HostView>,
    /// Containers without a Host that are not being deleted, oldest first.
    pub waiting: Vec<Arc<Container>>,
    /// Containers that have a Host and stay there.
    pub bound: Vec<Arc<Container>>,
    /// By name.
    pub images: BTreeMap<String, Arc<Image>>,
    /// By namespace and name.
    pub instance_types: BTreeMap<(String, String), Arc<InstanceType>>,
    /// Namespaces where containers may be privileged.
    pub privileged: BTreeSet<String>,
}

/// One Host.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// Its Cloud.
    pub cloud: Option<String>,
    /// Its labels, with those that say where it is.
    pub labels: BTreeMap<String, String>,
    /// Why it takes no containers now.
    pub unready: Option<String>,
    /// It takes none now but is expected to soon.
    pub coming: bool,
    /// It was cordoned.
    pub cordoned: bool,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// What containers may take together.
    pub allocatable: Resources,
    /// What those that are here take.
    pub used: Resources,
    /// Those that are here.
    pub containers: Vec<Resident>,
}

/// A Container on a Host, as far as it matters to others.
#[derive(Debug, Clone, PartialEq)]
pub struct Resident {
    /// Its tenant.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it mostly uses.
    pub profile: Option<Profile>,
}

/// What the snapshot is made from.
#[derive(Debug, Default)]
pub struct Objects {
    /// Hosts.
    pub hosts: Vec<Arc<Host>>,
    /// Containers.
    pub containers: Vec<Arc<Container>>,
    /// Images.
    pub images: Vec<Arc<Image>>,
    /// Instance types.
    pub instance_types: Vec<Arc<InstanceType>>,
    /// Clouds.
    pub clouds: Vec<Arc<Cloud>>,
    /// Migrations.
    pub migrations: Vec<Arc<Migration>>,
    /// Namespaces where containers may be privileged.
    pub privileged: BTreeSet<String>,
}

/// Accepted Migrations that are not finished: the target of each Container that is on its way.
fn arriving(migrations: &[Arc<Migration>]) -> BTreeMap<(String, String), String> {
    let target = |m: &Arc<Migration>| {
        let status = m.status.as_ref().filter(|s| !s.phase.is_finished())?;
        let key = (m.namespace().unwrap_or_default(), m.spec.container.clone());
        Some((key, status.target.clone()?))
    };
    migrations.iter().filter_map(target).collect()
}

impl Snapshot {
    /// The view of these objects at `now`.
    pub fn new(objects: Objects, now: Timestamp) -> Self {
        let key = |t: &Arc<InstanceType>| (t.namespace().unwrap_or_default(), t.name_any());
        let instance_types: BTreeMap<_, _> = objects
            .instance_types
            .into_iter()
            .map(|t| (key(&t), t))
            .collect();
        let clouds: BTreeMap<_, _> = objects.clouds.iter().map(|c| (c.name_any(), c)).collect();
        let mut hosts: BTreeMap<String, HostView> = objects
            .hosts
            .iter()
            .map(|h| (h.name_any(), HostView::new(h, &clouds, now)))
            .collect();
        let (mut waiting, mut bound) = (vec![], vec![]);
        let arriving = arriving(&objects.migrations);
        for container in objects.containers {
            let status = container.status.as_ref();
            match status.and_then(|s| s.host.as_ref()) {
                Some(host) => {
                    let key = (
                        container.namespace().unwrap_or_default(),
                        container.name_any(),
                    );
                    let target = arriving.get(&key).filter(|target| *target != host);
                    let taken = status
                        .and_then(|s| s.allocation.as_ref())
                        .map(Allocation::resources)
                        .unwrap_or_default();
                    for name in std::iter::once(host).chain(target) {
                        if let Some(host) = hosts.get_mut(name) {
                            host.take(taken, resident(&container, &instance_types));
                        }
                    }
                    if target.is_none() && container.meta().deletion_timestamp.is_none() {
                        bound.push(container);
                    }
                }
                None if container.meta().deletion_timestamp.is_none() => waiting.push(container),
                None => {}
            }
        }
        waiting.sort_by_cached_key(|c| {
            (
                c.creation_timestamp().map(|t| t.0),
                c.namespace(),
                c.name_any(),
            )
        });
        Self {
            hosts: hosts.into_values().collect(),
            waiting,
            bound,
            images: objects
                .images
                .into_iter()
                .map(|i| (i.name_any(), i))
                .collect(),
            instance_types,
            privileged: objects.privileged,
        }
    }
}

/// What a Container is to others on its Host.
pub fn resident(
    container: &Container,
    types: &BTreeMap<(String, String), Arc<InstanceType>>,
) -> Resident {
    let namespace = container.namespace().unwrap_or_default();
    let key = (namespace.clone(), container.spec.instance_type.clone());
    Resident {
        namespace,
        labels: container.labels().clone(),
        profile: types.get(&key).and_then(|t| t.spec.profile),
    }
}

impl HostView {
    fn new(host: &Host, clouds: &BTreeMap<String, &Arc<Cloud>>, now: Timestamp) -> Self {
        let status = host.status.clone().unwrap_or_default();
        let mut labels = host.labels().clone();
        if let Some(name) = &host.spec.cloud {
            labels.insert("skysail.dev/cloud".to_owned(), name.clone());
            let spec = clouds.get(name).map(|c| &c.spec);
            let place = [
                ("skysail.dev/region", spec.and_then(|s| s.region.as_ref())),
                ("skysail.dev/zone", spec.and_then(|s| s.zone.as_ref())),
            ];
            for (key, value) in place {
                if let Some(value) = value {
                    labels.insert(key.to_owned(), value.clone());
                }
            }
        }
        let deleting = host.meta().deletion_timestamp.is_some();
        let ready = status
            .conditions
            .iter()
            .find(|c| c.type_ == condition::READY);
        let unready = match ready {
            _ if deleting => Some("it is being deleted".to_owned()),
            Some(c) if c.status == "True" => None,
            Some(c) => Some(c.reason.clone()),
            None => Some(format!("{:?}", status.phase)),
        };
        let early = matches!(
            status.phase,
            HostPhase::Pending | HostPhase::Provisioning | HostPhase::Bootstrapping
        ) && host
            .creation_timestamp()
            .is_some_and(|t| now.duration_since(t.0) < PATIENCE);
        Self {
            name: host.name_any(),
            cloud: host.spec.cloud.clone(),
            labels,
            coming: unready.is_some() && early && !deleting,
            unready,
            cordoned: host.spec.unschedulable,
            taints: host.spec.taints.clone(),
            allocatable: status.allocatable.unwrap_or_default(),
            used: Resources::default(),
            containers: vec![],
        }
    }

    /// Counts one more Container here.
    pub fn take(&mut self, taken: Resources, resident: Resident) {
        self.used.cpu = self.used.cpu.saturating_add(taken.cpu);
        self.used.memory = self.used.memory.saturating_add(taken.memory);
        self.used.disk = self.used.disk.saturating_add(taken.disk);
        self.containers.push(resident);
    }

    /// Counts one Container less.
    pub fn release(&mut self, taken: Resources, resident: &Resident) {
        self.used.cpu = self.used.cpu.saturating_sub(taken.cpu);
        self.used.memory = self.used.memory.saturating_sub(taken.memory);
        self.used.disk = self.used.disk.saturating_sub(taken.disk);
        if let Some(at) = self.containers.iter().position(|r| r == resident) {
            self.containers.swap_remove(at);
        }
    }

    /// Counts a Container here that has another size now.
    pub fn resize(&mut self, before: Resources, now: Resources) {
        let used = &mut self.used;
        used.cpu = used.cpu.saturating_sub(before.cpu).saturating_add(now.cpu);
        used.memory = used.memory.saturating_sub(before.memory);
        used.memory = used.memory.saturating_add(now.memory);
        used.disk = used.disk.saturating_sub(before.disk);
        used.disk = used.disk.saturating_add(now.disk);
    }

    /// What is left.
    pub fn free(&self) -> Resources {
        Resources {
            cpu: self.allocatable.cpu.saturating_sub(self.used.cpu),
            memory: self.allocatable.memory.saturating_sub(self.used.memory),
            disk: self.allocatable.disk.saturating_sub(self.used.disk),
        }
    }

    /// How many Containers here a selector picks.
    pub fn matching(&self, namespace: &str, selector: &LabelSelector) -> u32 {
        let Ok(selector) = Selector::try_from(selector.clone()) else {
            return 0;
        };
        let here = self
            .containers
            .iter()
            .filter(|r| r.namespace == namespace && selector.matches(&r.labels));
        u32::try_from(here.count()).unwrap_or(u32::MAX)
    }
}
