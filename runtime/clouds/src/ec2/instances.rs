//! Launching, starting and ending machines.
//!
//! A machine is bought at most once for an order: the launch carries a token made of the Cloud,
//! the machine's name and the machine before it, and EC2 answers a second launch
//! with the same token by the first one's machine. So a launch whose answer was lost, or whose
//! maker was killed, is repeated without harm, whatever listings show in the meantime.

use super::{
    Ec2,
    answer::{Address, Addresses, Changes, Done, Instance, Reservation, tag},
    client::Form,
    ground::{Ground, gone},
    listing::{is_id, lives},
    sign::hex,
    tags,
};
use crate::{Error, Order, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use std::time::{Duration, Instant};

/// How often a token is found to have bought a machine that ended since.
const CHAIN: usize = 8;
/// How long a machine may take to get a place where an address can be bound.
const BOOT: Duration = Duration::from_secs(90);

impl Ec2 {
    /// The machine for `order`, which is not among those `listed`: bought now, or by a call whose
    /// answer was lost.
    pub(super) async fn launch(&self, order: &Order, listed: &[Instance]) -> Result<Instance> {
        let ended = |id: &str| listed.iter().any(|i| i.instance_id == id && !lives(i));
        let size = format!("{} spot={}", order.offer, order.spot);
        self.client.memory.room(&size)?;
        let ground = self.ground(&order.authorized_keys).await?;
        let mut before = order.instead_of.clone();
        for _ in 0..CHAIN {
            let token = token(&self.uid, &order.name, before.as_deref());
            let form = self.launch_form(order, &ground, &token);
            match self.buy(order, &size, &form, &token).await? {
                Some(instance) if lives(&instance) && !ended(&instance.instance_id) => {
                    let mut listing = self.client.memory.listing.lock().await;
                    listing.launched(instance.clone());
                    return Ok(instance);
                }
                // It was bought before and has ended since: this order is for the next one.
                _ => before = Some(token),
            }
        }
        Err(Error::Transient(format!(
            "Cloud {}: machine {} ended {CHAIN} times right after its launch",
            self.client.cloud, order.name
        )))
    }

    /// One launch; `None` where what it bought, when it was first made, has ended since.
    async fn buy(
        &self,
        order: &Order,
        size: &str,
        form: &Form,
        token: &str,
    ) -> Result<Option<Instance>> {
        let memory = &self.client.memory;
        match self.client.call::<Reservation>(form).await {
            Ok(answer) => self.only(order, answer).map(Some),
            Err(Error::Refused(said)) if said.contains("IdempotentInstanceTerminated") => Ok(None),
            // Bought by another version of us, or before a setting changed.
            Err(Error::Refused(said)) if said.contains("IdempotentParameterMismatch") => {
                let mut found = self.client.instances(&self.uid, Instant::now()).await?;
                found.retain(|i| i.client_token == token);
                let unlisted = || {
                    Error::Transient(format!(
                        "Cloud {}: machine {} was ordered before and is not listed yet",
                        self.client.cloud, order.name
                    ))
                };
                found.pop().map(Some).ok_or_else(unlisted)
            }
            Err(Error::NoCapacity(said)) => {
                memory.no_room(size, &said);
                Err(Error::NoCapacity(said))
            }
            Err(Error::NotFound(said)) => {
                // Somebody removed what machines stand on: it is made again next time.
                *memory.ground.lock().await = None;
                Err(Error::Transient(said))
            }
            Err(e) => Err(e),
        }
    }

    fn launch_form(&self, order: &Order, ground: &Ground, token: &str) -> Form {
        let marks = tags::of_machine(&self.uid, &order.name, &order.tags);
        let gibibytes = self.settings.disk.0.div_ceil(1 << 30).max(1);
        let form = Form::new("RunInstances")
            .with("ImageId", &ground.image)
            .with("InstanceType", &order.offer)
            .with("MinCount", "1")
            .with("MaxCount", "1")
            .with("ClientToken", token)
            .maybe("KeyName", ground.key_name.as_ref())
            .with(
                "UserData",
                BASE64_STANDARD.encode(user_data(&order.name, &order.authorized_keys)),
            )
            .list("SecurityGroupId", &ground.groups)
            .maybe("SubnetId", self.settings.subnet.as_ref())
            .maybe("Placement.AvailabilityZone", self.zone.as_ref())
            .with("BlockDeviceMapping.1.DeviceName", &ground.root_device)
            .with("BlockDeviceMapping.1.Ebs.VolumeSize", gibibytes.to_string())
            .with("BlockDeviceMapping.1.Ebs.VolumeType", "gp3")
            .with("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true")
            // One hop: what runs in containers does not reach the machine's own credentials.
            .with("MetadataOptions.HttpTokens", "required")
            .with("MetadataOptions.HttpPutResponseHopLimit", "1")
            .tags(1, "instance", &marks)
            .tags(2, "volume", &marks);
        if !order.spot {
            return form;
        }
        let options = "InstanceMarketOptions.SpotOptions";
        form.with("InstanceMarketOptions.MarketType", "spot")
            .with(&format!("{options}.SpotInstanceType"), "one-time")
            .with(
                &format!("{options}.InstanceInterruptionBehavior"),
                "terminate",
            )
    }

    /// The one machine of a launch's answer, if it is the one that was ordered.
    fn only(&self, order: &Order, answer: Reservation) -> Result<Instance> {
        let wrong = |what: String| {
            Error::Transient(format!(
                "Cloud {}: RunInstances for {} was answered with {what}; it is not used",
                self.client.cloud, order.name
            ))
        };
        let mut instances = answer.instances_set.item;
        let Some(mut instance) = instances.pop().filter(|_| instances.is_empty()) else {
            return Err(wrong(format!("{} machines", instances.len())));
        };
        let name = tag(&instance.tag_set, tags::NAME);
        let other = name.is_some_and(|n| n != order.name)
            || (name.is_some() && !tags::ours(&instance.tag_set, &self.uid));
        if !is_id(&instance.instance_id) || other || instance.instance_type != order.offer {
            return Err(wrong(format!(
                "machine {:?}, a {:?} of {:?}",
                instance.instance_id,
                instance.instance_type,
                name.unwrap_or_default()
            )));
        }
        if name.is_none() {
            let marks = tags::of_machine(&self.uid, &order.name, &order.tags);
            let as_tag = |(key, value)| super::answer::Tag { key, value };
            instance.tag_set.item = marks.into_iter().map(as_tag).collect();
        }
        Ok(instance)
    }

    /// Starts a machine that was stopped.
    pub(super) async fn start(&self, id: &str) -> Result<()> {
        let form = Form::new("StartInstances").list("InstanceId", [id]);
        self.client.call::<Changes>(&form).await?;
        self.client.memory.listing.lock().await.changed();
        Ok(())
    }

    /// Ends the machine `id`, which is ours.
    pub(super) async fn end(&self, id: &str) -> Result<()> {
        let form = Form::new("TerminateInstances").list("InstanceId", [id]);
        let answer = match self.client.call::<Changes>(&form).await {
            Err(Error::NotFound(_)) => return Err(self.client.absence(id).await),
            other => other?,
        };
        self.client.memory.listing.lock().await.changed();
        let changed = answer
            .instances_set
            .item
            .iter()
            .find(|c| c.instance_id == id);
        let ends = changed.is_some_and(|c| {
            ["shutting-down", "terminated"].contains(&c.current_state.name.as_str())
        });
        if !ends {
            return Err(Error::Transient(format!(
                "Cloud {}: machine {id} does not end yet",
                self.client.cloud
            )));
        }
        Ok(())
    }

    /// The elastic addresses of this Cloud.
    pub(super) async fn addresses(&self) -> Result<Vec<Address>> {
        let filter = format!("tag:{}", tags::CLOUD);
        let form = Form::new("DescribeAddresses").filter(1, &filter, &self.uid);
        let addresses: Addresses = self.client.call(&form).await?;
        let mut addresses = addresses.addresses_set.item;
        addresses.retain(|a| tags::ours(&a.tag_set, &self.uid));
        Ok(addresses)
    }

    /// Binds the elastic address of `order` to `instance`; it is bought if there is none.
    pub(super) async fn bind_address(&self, order: &Order, instance: &Instance) -> Result<()> {
        let owned = self.addresses().await?;
        let mine = |a: &&Address| tag(&a.tag_set, tags::NAME) == Some(&order.name);
        let address = match owned.iter().filter(mine).min_by_key(|a| &a.allocation_id) {
            Some(address) => address.clone(),
            None => {
                let marks = tags::of_machine(&self.uid, &order.name, &order.tags);
                let form = Form::new("AllocateAddress").with("Domain", "vpc").tags(
                    1,
                    "elastic-ip",
                    &marks,
                );
                self.client.call::<Address>(&form).await?
            }
        };
        if address.instance_id.as_ref() == Some(&instance.instance_id) {
            return Ok(());
        }
        self.until_placed(&instance.instance_id).await?;
        let form = Form::new("AssociateAddress")
            .with("AllocationId", &address.allocation_id)
            .with("InstanceId", &instance.instance_id)
            .with("AllowReassociation", "true");
        self.client.call::<Done>(&form).await?;
        self.client.memory.listing.lock().await.changed();
        Ok(())
    }

    /// Waits until the machine has left `pending`: before, no address can be bound to it.
    async fn until_placed(&self, id: &str) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < BOOT {
            let instances = self.client.glance(&self.uid).await?;
            let found = instances.into_iter().find(|i| i.instance_id == id);
            match found.map(|i| i.instance_state.name) {
                Some(state) if state == "pending" => {}
                Some(_) => return Ok(()),
                None => return Err(self.client.absence(id).await),
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Err(Error::Transient(format!(
            "Cloud {}: machine {id} is still being placed after {} s",
            self.client.cloud,
            BOOT.as_secs()
        )))
    }

    /// Gives back the addresses that `unused` picks.
    pub(super) async fn release(&self, unused: impl Fn(&Address) -> bool) -> Result<()> {
        for address in self.addresses().await?.iter().filter(|a| unused(a)) {
            if let Some(association) = &address.association_id {
                let form = Form::new("DisassociateAddress").with("AssociationId", association);
                gone(self.client.call::<Done>(&form).await)?;
            }
            let form = Form::new("ReleaseAddress").with("AllocationId", &address.allocation_id);
            gone(self.client.call::<Done>(&form).await)?;
        }
        Ok(())
    }
}

/// What makes a launch the same launch.
fn token(uid: &str, name: &str, before: Option<&str>) -> String {
    let text = format!("{uid}/{name}/{}", before.unwrap_or_default());
    hex(&Sha256::digest(text))
}

/// What cloud-init does at the first boot: our keys open root's account, before sshd starts.
pub(crate) fn user_data(name: &str, keys: &[String]) -> String {
    let keys: String = keys
        .iter()
        .map(|key| format!("- {}\n", serde_json::Value::from(key.trim())))
        .collect();
    let list = if keys.is_empty() { " []\n" } else { "\n" };
    format!(
        "#cloud-config\nhostname: {name}\npreserve_hostname: false\ndisable_root: false\nssh_authorized_keys:{list}{keys}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_the_same_until_its_machine_is_known_to_be_gone() {
        let first = token("u", "h", None);
        assert_eq!(first, token("u", "h", None));
        assert_eq!(first.len(), 64, "EC2 takes no longer token");
        let others = [
            token("u", "h", Some("i-1")),
            token("u", "g", None),
            token("v", "h", None),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    #[test]
    fn user_data_is_one_document_whatever_the_keys_comment_says() {
        let text = user_data("h", &["ssh-ed25519 AAAA a: \"b\"\n".into()]);
        assert!(text.starts_with("#cloud-config\n"));
        assert!(
            text.ends_with("- \"ssh-ed25519 AAAA a: \\\"b\\\"\"\n"),
            "{text}"
        );
        assert!(user_data("h", &[]).ends_with("ssh_authorized_keys: []\n"));
    }
}
