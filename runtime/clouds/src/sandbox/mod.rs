//! Hosts as Linux namespaces on this machine: the driver that needs no cloud.
//!
//! Each host has its own network, mount, process, host name, IPC and cgroup
//! namespaces, its own cgroup in every hierarchy, and a root filesystem that is an
//! overlay of one package-built Debian and a layer of its own. It runs sshd and a plain
//! supervisor. What makes it unlike a virtual machine: the kernel is shared, so there are no
//! modules to load, and it reaches this machine and the other clouds, but not the
//! internet, unless somebody gives this machine a route and NAT for the fabric.
//!
//! Truth is in two places only: the records (what shall be, written before the first
//! effect) and the kernel (what is). No process of ours holds any of it.

pub(crate) mod boot;
pub(crate) mod cgroup;
pub(crate) mod claims;
mod erase;
pub(crate) mod fabric;
pub(crate) mod namespace;
pub(crate) mod records;
pub mod root;

pub use boot::INIT;
pub use fabric::{Fabric, Settings};

use crate::{Driver, Error, Machine, Offer, Order, Result, State};
use async_trait::async_trait;
use claims::Claims;
use records::Host;
use skysail_schemas::{
    cloud::SandboxSettings,
    host::Resources,
    quantity::{Bytes, Cpu},
};

/// A cloud of namespaces.
pub struct Sandbox {
    claims: Claims,
}

impl Sandbox {
    /// The sandbox cloud `cloud` in the fabric of `settings`. Makes nothing yet.
    pub fn new(cloud: &str, spec: SandboxSettings, settings: Settings) -> Self {
        Self {
            claims: Claims::new(cloud, spec.subnet, "spec.sandbox.subnet", settings),
        }
    }

    async fn machine(&self, host: &Host) -> Result<Machine> {
        let state = if boot::complete(&self.claims.settings, host).await? {
            State::Running
        } else {
            State::Stopped
        };
        // Without a public address the way in is through the cloud's router, whose
        // namespace has no programs of its own: the hosts' root lends it netcat.
        let through_router = || {
            let router = namespace::file(&self.claims.settings.router(&self.claims.cloud));
            format!(
                "nsenter --net={} --root={} /usr/bin/nc %h %p",
                router.display(),
                host.lower.display()
            )
        };
        Ok(host.machine(state, through_router))
    }
}

#[async_trait]
impl Driver for Sandbox {
    async fn offers(&self) -> Result<Vec<Offer>> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Denied(format!(
                "Cloud {}: sandbox hosts need root: run as root, or use driver ssh",
                self.claims.cloud
            )));
        }
        let offer = |name: &str, cores: u64, memory_gib: u64, price: &str| Offer {
            name: name.into(),
            resources: Resources {
                cpu: Cpu(cores * 1000),
                memory: Bytes(memory_gib << 30),
                disk: Bytes(memory_gib << 32),
            },
            price_per_hour: Some(price.into()),
            ..Offer::default()
        };
        Ok(vec![
            offer("small", 2, 2, "0.020"),
            offer("medium", 2, 4, "0.040"),
            offer("large", 4, 8, "0.080"),
        ])
    }

    async fn create(&self, order: &Order) -> Result<Machine> {
        let cloud = self.claims.cloud.clone();
        let lower = root::ensure(&self.claims.settings.cache_dir, move |line| {
            tracing::info!(cloud, "{line}")
        })
        .await?;
        let lock = self.claims.settings.records().lock(&order.name).await?;
        let (router, host) = self.claims.establish(order, lower).await?;
        if !boot::complete(&self.claims.settings, &host).await? {
            boot::stop(&self.claims.settings, &host.name).await?;
            boot::start(&self.claims.settings, &router, &host).await?;
        }
        drop(lock);
        self.machine(&host).await
    }

    async fn get(&self, id: &str) -> Result<Machine> {
        match self
            .claims
            .settings
            .records()
            .host(id)?
            .filter(|h| h.cloud == self.claims.cloud)
        {
            Some(host) => self.machine(&host).await,
            None => Err(Error::NotFound(format!(
                "Cloud {}: there is no machine {id}",
                self.claims.cloud
            ))),
        }
    }

    async fn list(&self) -> Result<Vec<Machine>> {
        let mut machines = vec![];
        for host in self.claims.hosts()? {
            machines.push(self.machine(&host).await?);
        }
        Ok(machines)
    }

    async fn delete(&self, id: &str) -> Result<()> {
        let records = self.claims.settings.records();
        let lock = records.lock(id).await?;
        let Some(host) = records.host(id)?.filter(|h| h.cloud == self.claims.cloud) else {
            return Ok(());
        };
        boot::stop(&self.claims.settings, id).await?;
        self.claims.release(&host).await?;
        drop(lock);
        Ok(())
    }

    async fn retire(&self) -> Result<()> {
        self.claims.retire().await
    }
}
