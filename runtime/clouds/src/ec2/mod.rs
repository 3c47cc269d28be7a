//! Amazon EC2, and clouds that speak its Query API (`spec.ec2.endpoint`).
//!
//! | file | concern |
//! |---|---|
//! | `credentials` | whose account: Secret, environment, the instance's role |
//! | `sign`, `client`, `error` | a signed call, at the cloud's pace, with an error that has a meaning |
//! | `listing` | what machines there are, and what a listing cannot show yet |
//! | `instances` | launch once, start, end; elastic addresses |
//! | `ground` | image, security group, key pair |
//! | `offers`, `price` | instance types, permissions, prices |
//! | `memory` | what is kept between calls; may be lost |
//!
//! Everything made carries the Cloud's uid as a tag ([`tags`]); nothing without it is touched.
//! A machine that ends (`shutting-down`) counts as gone: it costs nothing any more, and EC2 finishes by itself.

mod answer;
mod client;
mod credentials;
mod error;
mod ground;
pub(crate) mod instances;
mod listing;
mod memory;
pub(crate) mod offers;
mod price;
mod sign;
mod tags;

pub use memory::Memories;

use crate::{Driver, Error, Machine, Offer, Order, Result, SshTarget, State, open::Account};
use answer::{Instance, tag};
use async_trait::async_trait;
use client::Client;
use credentials::Source;
use listing::{is_id, lives};
use skysail_schemas::cloud::Ec2Settings;
use std::time::Instant;

/// One zone (or region) of EC2, as one account sees it.
pub struct Ec2 {
    client: Client,
    uid: String,
    zone: Option<String>,
    settings: Ec2Settings,
    memories: Memories,
}

impl Ec2 {
    /// The cloud of `account`. Asks nothing yet.
    ///
    /// # Errors
    /// [`Error::Denied`] where the Secret lacks a key, [`Error::Refused`] without a region.
    pub fn new(account: &Account, memories: &Memories) -> Result<Self> {
        let cloud = account.name.clone();
        let region = account.spec.region.clone().ok_or_else(|| {
            Error::Refused(format!("Cloud {cloud}: driver ec2 needs spec.region"))
        })?;
        let settings = account.spec.ec2.clone().unwrap_or_default();
        let client = Client {
            region,
            endpoint: settings.endpoint.clone(),
            source: Source::find(account.secret.as_ref())?,
            memory: memories.of(&account.uid),
            cloud,
        };
        Ok(Self {
            client,
            uid: account.uid.clone(),
            zone: account.spec.zone.clone(),
            settings,
            memories: memories.clone(),
        })
    }

    fn machine(&self, instance: &Instance) -> Machine {
        let state = match instance.instance_state.name.as_str() {
            "running" => State::Running,
            "stopping" | "stopped" => State::Stopped,
            _ => State::Starting,
        };
        let (internal, external) = (instance.private_ip_address, instance.ip_address);
        let address = external.or(internal);
        Machine {
            id: instance.instance_id.clone(),
            name: tag(&instance.tag_set, tags::NAME)
                .unwrap_or_default()
                .to_owned(),
            tags: tags::ordered(instance),
            // Without an address there is nothing to log in to yet.
            state: if address.is_none() && state == State::Running {
                State::Starting
            } else {
                state
            },
            internal,
            external,
            ssh: SshTarget {
                address: address.map(|a| a.to_string()).unwrap_or_default(),
                port: 22,
                user: self.settings.user.clone(),
                proxy_command: None,
                key_secret: None,
            },
        }
    }

    /// The machine `id` among those of this Cloud, with what is known of its absence.
    async fn find(&self, id: &str, since: Option<Instant>) -> Result<Instance> {
        if !is_id(id) {
            return Err(self.client.absence(id).await);
        }
        let instances = match since {
            Some(since) => self.client.instances(&self.uid, since).await?,
            None => self.client.glance(&self.uid).await?,
        };
        match instances.into_iter().find(|i| i.instance_id == id) {
            Some(instance) => Ok(instance),
            None => Err(self.client.absence(id).await),
        }
    }
}

#[async_trait]
impl Driver for Ec2 {
    async fn offers(&self) -> Result<Vec<Offer>> {
        let offers = self.offered().await?;
        // Offers are kept for an hour; that the cloud answers now is known from the listing.
        self.client.glance(&self.uid).await?;
        Ok(offers)
    }

    async fn create(&self, order: &Order) -> Result<Machine> {
        let instances = self.client.instances(&self.uid, Instant::now()).await?;
        let mine = |i: &&Instance| tag(&i.tag_set, tags::NAME) == Some(&order.name) && lives(i);
        let instance = match instances.iter().find(mine) {
            Some(instance) => instance.clone(),
            None => self.launch(order, &instances).await?,
        };
        match instance.instance_state.name.as_str() {
            "stopped" => self.start(&instance.instance_id).await?,
            "stopping" => {
                return Err(Error::Transient(format!(
                    "Cloud {}: machine {} is stopping; it is started once it has stopped",
                    self.client.cloud, order.name
                )));
            }
            _ => {}
        }
        if order.public_address {
            self.bind_address(order, &instance).await?;
        }
        let found = self.find(&instance.instance_id, None).await?;
        Ok(self.machine(&found))
    }

    async fn get(&self, id: &str) -> Result<Machine> {
        let instance = self.find(id, None).await?;
        if !lives(&instance) {
            return Err(Error::NotFound(format!(
                "Cloud {}: machine {id} has ended",
                self.client.cloud
            )));
        }
        Ok(self.machine(&instance))
    }

    async fn list(&self) -> Result<Vec<Machine>> {
        let instances = self.client.glance(&self.uid).await?;
        let living = instances.iter().filter(|i| lives(i));
        let mut machines: Vec<Machine> = living.map(|i| self.machine(i)).collect();
        machines.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(machines)
    }

    async fn delete(&self, id: &str) -> Result<()> {
        match self.find(id, Some(Instant::now())).await {
            Ok(instance) if lives(&instance) => self.end(id).await?,
            Ok(_) | Err(Error::NotFound(_)) => {}
            Err(e) => return Err(e),
        }
        // An address whose machine is no more goes too, whoever ended the machine.
        let instances = self.client.instances(&self.uid, Instant::now()).await?;
        let living = instances.iter().filter(|i| lives(i));
        let owners: Vec<&str> = living.filter_map(|i| tag(&i.tag_set, tags::NAME)).collect();
        self.release(|address| {
            tag(&address.tag_set, tags::NAME).is_none_or(|owner| !owners.contains(&owner))
        })
        .await
    }

    async fn retire(&self) -> Result<()> {
        let instances = self.client.instances(&self.uid, Instant::now()).await?;
        if let Some(left) = instances.iter().find(|i| lives(i)) {
            return Err(Error::Refused(format!(
                "Cloud {}: machine {} is left; delete its Host first",
                self.client.cloud, left.instance_id
            )));
        }
        self.release(|_| true).await?;
        self.clear_ground().await?;
        self.memories.forget(&self.uid);
        Ok(())
    }
}
