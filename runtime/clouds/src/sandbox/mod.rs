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

mod boot;
mod cgroup;
mod fabric;
mod namespace;
mod records;
pub mod root;

pub use boot::INIT;
pub use fabric::{Fabric, Settings};

use crate::{Driver, Error, Machine, Offer, Order, Result, SshTarget, State};
use async_trait::async_trait;
use records::{Host, Router};
use skysail_schemas::{
    cloud::SandboxSettings,
    host::Resources,
    quantity::{Bytes, Cpu},
};
use std::net::IpAddr;

/// A cloud of namespaces.
pub struct Sandbox {
    cloud: String,
    spec: SandboxSettings,
    settings: Settings,
}

impl Sandbox {
    /// The sandbox cloud `cloud` in the fabric of `settings`. Makes nothing yet.
    pub fn new(cloud: &str, spec: SandboxSettings, settings: Settings) -> Self {
        Self {
            cloud: cloud.to_owned(),
            spec,
            settings,
        }
    }

    /// The record of the cloud's router, made if it has none. Under the fabric's lock.
    fn router(&self) -> Result<Router> {
        let records = self.settings.records();
        if let Some(router) = records.router(&self.cloud)? {
            return Ok(router);
        }
        let taken = records::fabric_addresses(&records.routers()?, &records.hosts()?);
        let uplink = records::free_address(self.settings.block, &taken)
            .ok_or_else(|| self.full("fabric block", self.settings.block))?;
        let router = Router {
            cloud: self.cloud.clone(),
            subnet: self.spec.subnet,
            uplink,
        };
        records.put_router(&router)?;
        Ok(router)
    }

    /// The record of the machine `order.name`, made if it has none. Under the fabric's lock.
    fn record(&self, order: &Order, router: &Router, lower: std::path::PathBuf) -> Result<Host> {
        let records = self.settings.records();
        let hosts = records.hosts()?;
        if let Some(host) = hosts.iter().find(|h| h.name == order.name) {
            if host.cloud != self.cloud {
                return Err(Error::Refused(format!(
                    "machine {} belongs to Cloud {}; choose another name",
                    host.name, host.cloud
                )));
            }
            // Keys may have changed since; whoever orders now shall be able to log in.
            let host = Host {
                authorized_keys: order.authorized_keys.clone(),
                ..host.clone()
            };
            records.put_host(&host)?;
            return Ok(host);
        }
        let inside = hosts
            .iter()
            .filter(|h| h.cloud == self.cloud)
            .map(|h| h.internal)
            .collect();
        let internal = records::free_address(router.subnet, &inside)
            .ok_or_else(|| self.full("spec.sandbox.subnet", router.subnet))?;
        let external = match order.public_address {
            false => None,
            true => {
                let taken = records::fabric_addresses(&records.routers()?, &hosts);
                Some(
                    records::free_address(self.settings.block, &taken)
                        .ok_or_else(|| self.full("fabric block", self.settings.block))?,
                )
            }
        };
        let host = Host {
            name: order.name.clone(),
            cloud: self.cloud.clone(),
            offer: order.offer.clone(),
            resources: order.resources,
            internal,
            external,
            authorized_keys: order.authorized_keys.clone(),
            tags: order.tags.clone(),
            lower,
        };
        records.put_host(&host)?;
        Ok(host)
    }

    fn full(&self, what: &str, net: ipnet::Ipv4Net) -> Error {
        Error::NoCapacity(format!(
            "Cloud {}: every address of {what} {net} is taken; delete hosts or use a larger one",
            self.cloud
        ))
    }

    fn own_hosts(&self) -> Result<Vec<Host>> {
        Ok(self
            .settings
            .records()
            .hosts()?
            .into_iter()
            .filter(|h| h.cloud == self.cloud)
            .collect())
    }

    async fn machine(&self, host: &Host) -> Result<Machine> {
        let state = if boot::complete(&self.settings, host).await? {
            State::Running
        } else {
            State::Stopped
        };
        // Without a public address the way in is through the cloud's router, whose
        // namespace has no programs of its own: the hosts' root lends it netcat.
        let through_router = || {
            let router = namespace::file(&self.settings.router(&self.cloud));
            format!(
                "nsenter --net={} --root={} /usr/bin/nc %h %p",
                router.display(),
                host.lower.display()
            )
        };
        Ok(Machine {
            id: host.name.clone(),
            name: host.name.clone(),
            tags: host.tags.clone(),
            state,
            internal: Some(IpAddr::V4(host.internal)),
            external: host.external.map(IpAddr::V4),
            ssh: SshTarget {
                address: host.external.unwrap_or(host.internal).to_string(),
                port: 22,
                user: "root".into(),
                proxy_command: host.external.is_none().then(through_router),
                key_secret: None,
            },
        })
    }
}

#[async_trait]
impl Driver for Sandbox {
    async fn offers(&self) -> Result<Vec<Offer>> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::Denied(format!(
                "Cloud {}: sandbox hosts need root: run as root, or use driver ssh",
                self.cloud
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
        let cloud = self.cloud.clone();
        let lower = root::ensure(&self.settings.cache_dir, move |line| {
            tracing::info!(cloud, "{line}")
        })
        .await?;
        let records = self.settings.records();
        let lock = records.lock(&order.name).await?;
        self.settings.check()?;
        let fabric = records.lock(".fabric").await?;
        Fabric::ensure_locked(&self.settings).await?;
        let router = self.router()?;
        let host = self.record(order, &router, lower)?;
        fabric::ensure_router(&self.settings, &router, &self.own_hosts()?).await?;
        drop(fabric);
        if !boot::complete(&self.settings, &host).await? {
            boot::stop(&self.settings, &host.name).await?;
            boot::start(&self.settings, &router, &host).await?;
        }
        drop(lock);
        self.machine(&host).await
    }

    async fn get(&self, id: &str) -> Result<Machine> {
        match self
            .settings
            .records()
            .host(id)?
            .filter(|h| h.cloud == self.cloud)
        {
            Some(host) => self.machine(&host).await,
            None => Err(Error::NotFound(format!(
                "Cloud {}: there is no machine {id}",
                self.cloud
            ))),
        }
    }

    async fn list(&self) -> Result<Vec<Machine>> {
        let mut machines = vec![];
        for host in self.own_hosts()? {
            machines.push(self.machine(&host).await?);
        }
        Ok(machines)
    }

    async fn delete(&self, id: &str) -> Result<()> {
        let records = self.settings.records();
        let lock = records.lock(id).await?;
        let Some(host) = records.host(id)?.filter(|h| h.cloud == self.cloud) else {
            return Ok(());
        };
        boot::stop(&self.settings, id).await?;
        let fabric = records.lock(".fabric").await?;
        let router = self.settings.router(&self.cloud);
        if let Some(record) = records
            .router(&self.cloud)?
            .filter(|_| namespace::file(&router).exists())
        {
            let others: Vec<Host> = self
                .own_hosts()?
                .into_iter()
                .filter(|h| h.name != id)
                .collect();
            if let Some(address) = host.external {
                // Not there (any more) is what we want.
                let _ = crate::command::run(
                    "ip",
                    &[
                        "-n",
                        &router,
                        "address",
                        "delete",
                        &format!("{address}/32"),
                        "dev",
                        "up",
                    ],
                )
                .await;
            }
            Fabric::ensure_locked(&self.settings).await?;
            fabric::ensure_router(&self.settings, &record, &others).await?;
        }
        records.remove_host(id)?;
        drop((fabric, lock));
        Ok(())
    }

    async fn retire(&self) -> Result<()> {
        let lock = self.settings.records().lock(".fabric").await?;
        if let Some(host) = self.own_hosts()?.first() {
            return Err(Error::Refused(format!(
                "Cloud {}: machine {} is left; delete its Host first",
                self.cloud, host.name
            )));
        }
        fabric::remove_router(&self.settings, &self.cloud).await?;
        drop(lock);
        Ok(())
    }
}
