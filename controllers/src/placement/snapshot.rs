//! An immutable view of Hosts, of what is on them and of what waits. Pure.

use super::quota::Tenant;
use super::request::full_name;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Resource, ResourceExt};
use skysail_schemas::condition;
use skysail_schemas::container::Allocation;
use skysail_schemas::host::{HostPhase, Resources, Taint};
use skysail_schemas::instance_type::Profile;
use skysail_schemas::machine_type::price;
use skysail_schemas::placement::{Topology, kernel_version};
use skysail_schemas::{
    Cloud, Container, ContainerSet, Host, Image, InstanceType, MachineType, Migration,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// How long a new Host is expected to come up; containers that are spread wait for it that long.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Everything that a placement may look at. A [`Board`](super::board::Board) on it counts what is placed.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By name.
    pub hosts: Vec<HostView>,
    /// What is bound; what moves is on its target too.
    pub residents: Vec<Resident>,
    /// Containers without a Host that are not being deleted, oldest first.
    pub waiting: Vec<Arc<Container>>,
    /// Containers that have a Host and stay there.
    pub bound: Vec<Arc<Container>>,
    /// By name.
    pub images: BTreeMap<String, Arc<Image>>,
    /// By namespace and name.
    pub instance_types: BTreeMap<(String, String), Arc<InstanceType>>,
    /// What each Namespace allows.
    pub tenants: BTreeMap<String, Tenant>,
    /// ContainerSets of which all or none are placed, by uid.
    pub gangs: BTreeMap<String, Gang>,
    /// The names of the clouds, zones and regions that [`HostView::domains`] counts.
    pub domains: [Vec<String>; 4],
    /// Take Images as ready that are not yet: for what would be, not for what is.
    pub assume_images: bool,
}

/// A ContainerSet of which all or none are placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Gang {
    /// Its namespace and name.
    pub name: String,
    /// How many it wants.
    pub replicas: usize,
    /// How many have a Host already.
    pub bound: usize,
}

/// One Host, without what is on it.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// Its Cloud.
    pub cloud: Option<String>,
    /// The zone of its Cloud.
    pub zone: Option<String>,
    /// The region of its Cloud.
    pub region: Option<String>,
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
    /// What its machine costs per hour, in millionths; `None` where it is not known.
    pub price: Option<u64>,
    /// Its kernel.
    pub kernel: Option<(u32, u32)>,
    /// Digests of the images that are unpacked here.
    pub images: BTreeSet<String>,
    /// Which host, cloud, zone and region it is, by [`Topology`].
    pub domains: [u32; 4],
}

/// A Container on a Host.
#[derive(Debug, Clone, PartialEq)]
pub struct Resident {
    /// The Container.
    pub container: Arc<Container>,
    /// Where its Host is in [`Snapshot::hosts`].
    pub host: usize,
    /// What it takes there.
    pub taken: Resources,
    /// What it mostly uses.
    pub profile: Option<Profile>,
}

/// What the snapshot is made from.
#[derive(Debug, Default, Clone)]
pub struct Objects {
    /// Hosts.
    pub hosts: Vec<Arc<Host>>,
    /// Containers.
    pub containers: Vec<Arc<Container>>,
    /// Container sets: some are placed as a whole.
    pub container_sets: Vec<Arc<ContainerSet>>,
    /// Images.
    pub images: Vec<Arc<Image>>,
    /// Instance types.
    pub instance_types: Vec<Arc<InstanceType>>,
    /// Machine types: what Hosts cost.
    pub machine_types: Vec<Arc<MachineType>>,
    /// Clouds: where Hosts are.
    pub clouds: Vec<Arc<Cloud>>,
    /// Namespaces: what tenants may.
    pub namespaces: Vec<Arc<Namespace>>,
    /// Migrations: those under way hold room on their targets.
    pub migrations: Vec<Arc<Migration>>,
}

impl Snapshot {
    /// The view of these objects at `now`.
    pub fn new(objects: Objects, now: Timestamp) -> Self {
        let mut hosts = hosts(&objects, now);
        let domains = number_domains(&mut hosts);
        let index: HashMap<&str, usize> = hosts
            .iter()
            .enumerate()
            .map(|(i, h)| (h.name.as_str(), i))
            .collect();
        let key = |t: &Arc<InstanceType>| (t.namespace().unwrap_or_default(), t.name_any());
        let instance_types: BTreeMap<_, _> = objects
            .instance_types
            .into_iter()
            .map(|t| (key(&t), t))
            .collect();
        let arriving = arriving(&objects.migrations);
        let mut residents = vec![];
        let (mut waiting, mut bound) = (vec![], vec![]);
        for container in &objects.containers {
            let status = container.status.as_ref();
            match status.and_then(|s| s.host.as_ref()) {
                Some(host) => {
                    let target = arriving.get(&full_name(container));
                    let target = target.filter(|target| *target != host);
                    if target.is_none() && container.meta().deletion_timestamp.is_none() {
                        bound.push(container.clone());
                    }
                    let on = std::iter::once(host).chain(target);
                    let on = on.filter_map(|name| index.get(name.as_str()));
                    residents.extend(on.map(|host| resident(container, *host, &instance_types)));
                }
                None if container.meta().deletion_timestamp.is_none() => {
                    waiting.push(container.clone())
                }
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
        let gangs = gangs(&objects.container_sets, &objects.containers);
        Self {
            residents,
            waiting,
            bound,
            gangs,
            domains,
            instance_types,
            images: objects
                .images
                .into_iter()
                .map(|i| (i.name_any(), i))
                .collect(),
            tenants: objects
                .namespaces
                .iter()
                .map(|n| (n.name_any(), Tenant::new(n)))
                .collect(),
            hosts,
            assume_images: false,
        }
    }

    /// Where a Host is in [`Snapshot::hosts`].
    pub fn host(&self, name: &str) -> Option<usize> {
        self.hosts
            .binary_search_by(|h| h.name.as_str().cmp(name))
            .ok()
    }
}

fn resident(
    container: &Arc<Container>,
    host: usize,
    types: &BTreeMap<(String, String), Arc<InstanceType>>,
) -> Resident {
    let allocation = container
        .status
        .as_ref()
        .and_then(|s| s.allocation.as_ref());
    Resident {
        container: container.clone(),
        host,
        taken: allocation.map(Allocation::resources).unwrap_or_default(),
        profile: profile(container, types),
    }
}

/// What a Container mostly uses, as its InstanceType says.
pub fn profile(
    container: &Container,
    types: &BTreeMap<(String, String), Arc<InstanceType>>,
) -> Option<Profile> {
    let namespace = container.namespace().unwrap_or_default();
    let key = (namespace, container.spec.instance_type.clone());
    types.get(&key).and_then(|t| t.spec.profile)
}

/// Accepted Migrations that are not finished: the target of each Container that is on its way.
fn arriving(migrations: &[Arc<Migration>]) -> HashMap<String, String> {
    let target = |m: &Arc<Migration>| {
        let status = m.status.as_ref().filter(|s| !s.phase.is_finished())?;
        let namespace = m.namespace().unwrap_or_default();
        let name = format!("{namespace}/{}", m.spec.container);
        Some((name, status.target.clone()?))
    };
    migrations.iter().filter_map(target).collect()
}

/// The uid of the ContainerSet that made a Container.
pub fn set_uid(container: &Container) -> Option<&str> {
    let owners = container.owner_references().iter();
    let mut sets = owners.filter(|o| o.kind == "ContainerSet" && o.controller == Some(true));
    sets.next().map(|o| o.uid.as_str())
}

fn gangs(sets: &[Arc<ContainerSet>], containers: &[Arc<Container>]) -> BTreeMap<String, Gang> {
    let mut gangs: BTreeMap<String, Gang> = BTreeMap::new();
    for set in sets.iter().filter(|s| s.spec.all_or_none) {
        let name = format!("{}/{}", set.namespace().unwrap_or_default(), set.name_any());
        let gang = Gang {
            name,
            replicas: set.spec.replicas as usize,
            bound: 0,
        };
        gangs.insert(set.uid().unwrap_or_default(), gang);
    }
    if gangs.is_empty() {
        return gangs;
    }
    let bound = |c: &&Arc<Container>| c.status.as_ref().is_some_and(|s| s.host.is_some());
    for container in containers.iter().filter(bound) {
        if let Some(gang) = set_uid(container).and_then(|uid| gangs.get_mut(uid)) {
            gang.bound += 1;
        }
    }
    gangs
}

fn hosts(objects: &Objects, now: Timestamp) -> Vec<HostView> {
    let clouds: BTreeMap<_, _> = objects.clouds.iter().map(|c| (c.name_any(), c)).collect();
    let types: BTreeMap<_, _> = objects
        .machine_types
        .iter()
        .map(|t| (t.name_any(), t))
        .collect();
    let mut hosts: Vec<HostView> = objects
        .hosts
        .iter()
        .map(|h| {
            let cloud = h.spec.cloud.as_ref().and_then(|c| clouds.get(c));
            let kind = h.spec.machine_type.as_ref().and_then(|t| types.get(t));
            HostView::new(h, cloud.map(|c| &***c), kind.map(|t| &***t), now)
        })
        .collect();
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts
}

/// Gives every Host its numbers in every topology; the names of the numbers.
fn number_domains(hosts: &mut [HostView]) -> [Vec<String>; 4] {
    let mut names: [Vec<String>; 4] = Default::default();
    let mut known: HashMap<(Topology, String), u32> = HashMap::new();
    for (index, host) in hosts.iter_mut().enumerate() {
        for topology in Topology::ALL {
            let name = match topology {
                Topology::Host => {
                    names[0].push(host.name.clone());
                    host.domains[0] = u32::try_from(index).unwrap_or(u32::MAX);
                    continue;
                }
                Topology::Cloud => host.cloud.clone(),
                Topology::Zone => host.zone.clone(),
                Topology::Region => host.region.clone(),
            };
            let name = name.unwrap_or_default();
            let all = &mut names[topology as usize];
            let number = *known.entry((topology, name.clone())).or_insert_with(|| {
                all.push(name);
                u32::try_from(all.len() - 1).unwrap_or(u32::MAX)
            });
            host.domains[topology as usize] = number;
        }
    }
    names
}

/// A price in millionths, as an integer, so that sums are exact.
pub fn micros(text: &str) -> Option<u64> {
    // A float to int cast saturates.
    price(text).map(|p| (p * 1e6).round() as u64)
}

impl HostView {
    /// The view of one Host; `cloud` and `kind` are what its spec names, where they exist.
    pub fn new(
        host: &Host,
        cloud: Option<&Cloud>,
        kind: Option<&MachineType>,
        now: Timestamp,
    ) -> Self {
        let status = host.status.clone().unwrap_or_default();
        let region = cloud.and_then(|c| c.spec.region.clone());
        let zone = cloud.and_then(|c| c.spec.zone.clone());
        let mut labels = host.labels().clone();
        for (key, value) in [
            ("skysail.dev/cloud", &host.spec.cloud),
            ("skysail.dev/region", &region),
            ("skysail.dev/zone", &zone),
        ] {
            if let Some(value) = value {
                labels.insert(key.to_owned(), value.clone());
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
            price: price_of(host, kind),
            cloud: host.spec.cloud.clone(),
            zone,
            region,
            labels,
            coming: unready.is_some() && early && !deleting,
            unready,
            cordoned: host.spec.unschedulable,
            taints: host.spec.taints.clone(),
            allocatable: status.allocatable.unwrap_or_default(),
            kernel: status.kernel.as_deref().and_then(kernel_version),
            images: status.images.into_iter().collect(),
            domains: [0; 4],
        }
    }
}

/// A machine that was not bought by its size costs nothing here.
fn price_of(host: &Host, kind: Option<&MachineType>) -> Option<u64> {
    match (&host.spec.machine_type, kind) {
        (None, _) => Some(0),
        (Some(_), kind) => micros(kind?.spec.price_per_hour.as_deref()?),
    }
}
