//! What the tenants' policies ask of this host.

use super::Plane;
use crate::network::policy::{End, Guard, Policies, compile};
use crate::network::record::PortKey;
use skysail_schemas::PortSpec;
use skysail_schemas::security_policy::ProgrammedPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

impl Plane {
    /// A tenant's policies: watched, or else remembered.
    pub(super) fn policies(&self, namespace: &str) -> Option<Policies> {
        let remembered = || self.saved.policies.as_ref()?.get(namespace).cloned();
        self.tenants.known(namespace).or_else(remembered)
    }

    /// What the policies ask of a network. Containers of whose tenant they are not known are closed, but for those that
    /// an agent connected who knew of no policies.
    pub(super) fn guard_of(&self, vni: u32, known: &BTreeMap<PortKey, PortSpec>) -> Guard {
        let whole = (vni, Ipv4Addr::UNSPECIFIED)..=(vni, Ipv4Addr::BROADCAST);
        let ends: BTreeMap<Ipv4Addr, End<'_>> = known
            .range(whole.clone())
            .map(|(key, port)| {
                let end = End {
                    labels: &port.labels,
                    here: self.attachments.contains_key(key),
                };
                (key.1, end)
            })
            .collect();
        let mut tenants = known.range(whole).map(|(_, p)| &p.namespace);
        let tenant = tenants.find(|n| !n.is_empty());
        match tenant.and_then(|n| Some((n, self.policies(n)?))) {
            Some((namespace, policies)) => compile(namespace, &policies, &ends),
            None => Guard {
                closed: ends
                    .iter()
                    .filter(|(a, e)| e.here && !self.open_before.contains(&(vni, **a)))
                    .map(|(a, _)| *a)
                    .collect(),
                ..Guard::default()
            },
        }
    }

    /// The policies that hold here: those that select a container of this host, connected already or not.
    pub(super) fn in_force(&self, known: &BTreeMap<PortKey, PortSpec>) -> Vec<ProgrammedPolicy> {
        let here = |key: &PortKey, port: &PortSpec| {
            let location = port.location.as_ref();
            self.attachments.contains_key(key)
                || location.is_some_and(|l| l.host == self.settings.host)
        };
        let mut tenants: BTreeMap<&str, BTreeMap<Ipv4Addr, End<'_>>> = BTreeMap::new();
        for (i, (_, port)) in known.iter().filter(|(k, p)| here(k, p)).enumerate() {
            let end = End {
                labels: &port.labels,
                here: true,
            };
            // Only who is selected counts: ports of several networks are told apart by a number.
            let number = Ipv4Addr::from(u32::try_from(i).unwrap_or(u32::MAX));
            tenants
                .entry(&port.namespace)
                .or_default()
                .insert(number, end);
        }
        let all = tenants.into_iter().filter_map(|(namespace, ends)| {
            Some(compile(namespace, &self.policies(namespace)?, &ends).in_force)
        });
        let all: BTreeSet<ProgrammedPolicy> = all.flatten().collect();
        all.into_iter().collect()
    }
}
