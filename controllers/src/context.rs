//! Everything that a controller may touch.

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Client;
use kube::runtime::watcher::Config;
use skysail_clouds::open::Site;
use skysail_reconcile::{Cache, CancellationToken};
use skysail_schemas::{
    Cloud, Container, ContainerSet, Host, HostPool, Image, InstanceType, MachineType, Migration,
    MigrationGroup, Network, Port, RebalancePolicy, SecurityPolicy, Segment,
};
use std::sync::Arc;

/// What the one who starts the controllers decides.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Elect a leader per controller, under this name, which no other process may
    /// use; `None` where this is the only process over its store.
    pub identity: Option<String>,
    /// What this machine lends to cloud drivers; also where images are kept.
    pub site: Site,
}

/// The API, one watch per kind, and the settings.
pub struct Context {
    /// An administrator's client.
    pub client: Client,
    /// The settings.
    pub settings: Settings,
    /// Namespaces: the tenants.
    pub namespaces: Arc<Cache<Namespace>>,
    /// Secrets, for the credentials of Clouds.
    pub secrets: Arc<Cache<Secret>>,
    /// Clouds.
    pub clouds: Arc<Cache<Cloud>>,
    /// Machine types.
    pub machine_types: Arc<Cache<MachineType>>,
    /// Hosts.
    pub hosts: Arc<Cache<Host>>,
    /// Host pools.
    pub host_pools: Arc<Cache<HostPool>>,
    /// Images.
    pub images: Arc<Cache<Image>>,
    /// Instance types.
    pub instance_types: Arc<Cache<InstanceType>>,
    /// Networks.
    pub networks: Arc<Cache<Network>>,
    /// Containers.
    pub containers: Arc<Cache<Container>>,
    /// Container sets.
    pub container_sets: Arc<Cache<ContainerSet>>,
    /// Migrations.
    pub migrations: Arc<Cache<Migration>>,
    /// Migration groups.
    pub migration_groups: Arc<Cache<MigrationGroup>>,
    /// Rebalance policies.
    pub rebalance_policies: Arc<Cache<RebalancePolicy>>,
    /// Ports.
    pub ports: Arc<Cache<Port>>,
    /// Security policies.
    pub security_policies: Arc<Cache<SecurityPolicy>>,
    /// Segments.
    pub segments: Arc<Cache<Segment>>,
}

impl Context {
    /// Starts the watches, until `shutdown`.
    pub fn new(client: Client, settings: Settings, shutdown: &CancellationToken) -> Arc<Self> {
        macro_rules! cache {
            () => {
                Cache::start(&client, Config::default(), shutdown.clone())
            };
        }
        Arc::new(Self {
            namespaces: cache!(),
            secrets: cache!(),
            clouds: cache!(),
            machine_types: cache!(),
            hosts: cache!(),
            host_pools: cache!(),
            images: cache!(),
            instance_types: cache!(),
            networks: cache!(),
            containers: cache!(),
            container_sets: cache!(),
            migrations: cache!(),
            migration_groups: cache!(),
            rebalance_policies: cache!(),
            ports: cache!(),
            security_policies: cache!(),
            segments: cache!(),
            client,
            settings,
        })
    }
}
