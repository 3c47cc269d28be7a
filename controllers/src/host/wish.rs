//! What a Host asks for: its Cloud, its size, its order. Read from the caches, so quick.

use super::apply::HostReconciler;
use kube::{Resource, ResourceExt};
use skysail_clouds::{Driver, Order, open};
use skysail_reconcile::Error;
use skysail_schemas::{Cloud, Host, host::Resources};
use std::{collections::BTreeMap, sync::Arc};

impl HostReconciler {
    pub(super) fn cloud(&self, host: &Host) -> Result<Option<Arc<Cloud>>, Error> {
        let Some(name) = &host.spec.cloud else {
            return Ok(None);
        };
        let missing = || {
            Error::refused(
                "CloudNotFound",
                format!("there is no Cloud {name}; create it, and this Host goes on"),
            )
        };
        self.context
            .clouds
            .get(None, name)
            .map(Some)
            .ok_or_else(missing)
    }

    pub(super) fn driver(&self, host: &Host) -> Result<Box<dyn Driver>, Error> {
        match (self.cloud(host)?, &host.spec.ssh) {
            (Some(cloud), _) => crate::account::open(&self.context, &cloud),
            (None, Some(target)) => Ok(open::existing(target)),
            (None, None) => Err(Error::refused(
                "NoSource",
                "the Host names neither a cloud nor an ssh address",
            )),
        }
    }

    /// What the machine type has. `None` for machines that were not ordered by size.
    pub(super) fn resources(&self, host: &Host) -> Result<Option<(String, Resources)>, Error> {
        let (Some(cloud), Some(name)) = (&host.spec.cloud, &host.spec.machine_type) else {
            return Ok(None);
        };
        let missing = || {
            Error::refused(
                "MachineTypeNotFound",
                format!(
                    "there is no MachineType {name}; create it, or name another in spec.machineType"
                ),
            )
        };
        let found = self
            .context
            .machine_types
            .get(None, name)
            .ok_or_else(missing)?;
        if found.spec.cloud != *cloud {
            return Err(Error::refused(
                "MachineTypeOfOtherCloud",
                format!(
                    "MachineType {name} is of Cloud {}, not {cloud}",
                    found.spec.cloud
                ),
            ));
        }
        let resources = Resources {
            cpu: found.spec.cpu,
            memory: found.spec.memory,
            disk: found.spec.disk,
        };
        Ok(Some((
            found.spec.offer.clone().unwrap_or_else(|| name.clone()),
            resources,
        )))
    }

    pub(super) async fn order(&self, host: &Host) -> Result<Order, Error> {
        let size = self.resources(host)?;
        if size.is_none()
            && self
                .cloud(host)?
                .is_some_and(|c| c.spec.driver != skysail_schemas::cloud::Driver::Ssh)
        {
            return Err(Error::refused(
                "NoMachineType",
                "spec.machineType is needed: `kubectl get machinetypes` lists what the cloud offers",
            ));
        }
        self.within_limits(host)?;
        let (offer, resources) = size.unwrap_or_default();
        Ok(Order {
            name: host.name_any(),
            offer,
            resources,
            public_address: host.spec.public_address,
            authorized_keys: vec![self.ssh.public_key().await?],
            tags: BTreeMap::from([("skysail.dev/host".to_owned(), host.name_any())]),
            spot: host.spec.spot,
            instead_of: None,
        })
    }

    /// Of the Hosts of a limited cloud, the oldest are within its limit.
    pub(super) fn within_limits(&self, host: &Host) -> Result<(), Error> {
        let Some(cloud) = self.cloud(host)? else {
            return Ok(());
        };
        let Some(limit) = cloud.spec.limits.as_ref().and_then(|l| l.hosts) else {
            return Ok(());
        };
        let age = |h: &Host| {
            (
                h.meta().creation_timestamp.clone().map(|t| t.0),
                h.name_any(),
            )
        };
        let own = age(host);
        let all = self.context.hosts.list();
        let older = all
            .iter()
            .filter(|h| h.spec.cloud == host.spec.cloud && age(h) < own)
            .count();
        if older < usize::try_from(limit).unwrap_or(usize::MAX) {
            return Ok(());
        }
        let message = format!(
            "Cloud {} may have {limit} hosts (spec.limits.hosts) and has as many; raise the limit or delete a Host",
            cloud.name_any()
        );
        Err(Error::refused("LimitReached", message))
    }

    pub(super) fn labels(&self, host: &Host) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([("skysail.dev/host".to_owned(), host.name_any())]);
        if let Ok(Some(cloud)) = self.cloud(host) {
            labels.insert("skysail.dev/cloud".into(), cloud.name_any());
            labels.extend(
                cloud
                    .spec
                    .region
                    .clone()
                    .map(|r| ("skysail.dev/region".to_owned(), r)),
            );
            labels.extend(
                cloud
                    .spec
                    .zone
                    .clone()
                    .map(|z| ("skysail.dev/zone".to_owned(), z)),
            );
        }
        labels
    }
}
