//! Which addresses a cloud of this machine has and to which of its machines they were
//! given: the same for every driver whose clouds meet in the fabric.

use super::{
    Fabric, Settings, fabric, namespace,
    records::{self, Host, Router},
};
use crate::{Error, Order, Result, command};
use ipnet::Ipv4Net;
use std::path::PathBuf;

/// The claims of one cloud.
pub struct Claims {
    /// The Cloud.
    pub cloud: String,
    subnet: Ipv4Net,
    /// The field of the Cloud that says the subnet.
    field: &'static str,
    /// The fabric.
    pub settings: Settings,
}

impl Claims {
    /// The claims of `cloud`, whose private subnet is said in `field`. Makes nothing.
    pub fn new(cloud: &str, subnet: Ipv4Net, field: &'static str, settings: Settings) -> Self {
        Self {
            cloud: cloud.to_owned(),
            subnet,
            field,
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
            subnet: self.subnet,
            uplink,
        };
        records.put_router(&router)?;
        Ok(router)
    }

    /// The record of the machine `order.name`, made if it has none; `lower` is what it is made
    /// from. Under the fabric's lock.
    fn host(&self, order: &Order, router: &Router, lower: PathBuf) -> Result<Host> {
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
            .ok_or_else(|| self.full(self.field, router.subnet))?;
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

    /// The records of the cloud's machines, in order of names.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        Ok(self
            .settings
            .records()
            .hosts()?
            .into_iter()
            .filter(|h| h.cloud == self.cloud)
            .collect())
    }

    /// The records of the machine that `order` asks for and of its router, and the router
    /// itself with the machine's addresses. Idempotent; under the machine's lock.
    pub async fn establish(&self, order: &Order, lower: PathBuf) -> Result<(Router, Host)> {
        self.settings.check()?;
        let lock = self.settings.records().lock(".fabric").await?;
        Fabric::ensure_locked(&self.settings).await?;
        let router = self.router()?;
        let host = self.host(order, &router, lower)?;
        fabric::ensure_router(&self.settings, &router, &self.hosts()?).await?;
        drop(lock);
        Ok((router, host))
    }

    /// Gives the addresses of `host` back and forgets it with its folder. Idempotent; under
    /// the machine's lock, and after nothing of it runs.
    pub async fn release(&self, host: &Host) -> Result<()> {
        let records = self.settings.records();
        let lock = records.lock(".fabric").await?;
        let router = self.settings.router(&self.cloud);
        if let Some(record) = records
            .router(&self.cloud)?
            .filter(|_| namespace::file(&router).exists())
        {
            let mut others = self.hosts()?;
            others.retain(|h| h.name != host.name);
            if let Some(address) = host.external {
                let address = format!("{address}/32");
                let args = ["-n", &router, "address", "delete", &address, "dev", "up"];
                // Not there (any more) is what we want.
                let _ = command::run("ip", &args).await;
            }
            Fabric::ensure_locked(&self.settings).await?;
            fabric::ensure_router(&self.settings, &record, &others).await?;
        }
        records.remove_host(&host.name)?;
        drop(lock);
        Ok(())
    }

    /// Takes the cloud's router away. Refused while it has machines.
    pub async fn retire(&self) -> Result<()> {
        let lock = self.settings.records().lock(".fabric").await?;
        if let Some(host) = self.hosts()?.first() {
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
