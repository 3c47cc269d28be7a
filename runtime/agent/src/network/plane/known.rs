//! What this host must be, from what is known of Ports: watched, or else remembered.

use super::Plane;
use crate::network::dns::Zone;
use crate::network::error::Result;
use crate::network::links;
use crate::network::plan::{Limit, Member, Network, Place, Tunnel, View};
use crate::network::policy::Guard;
use crate::network::record::{PortKey, Record, key};
use crate::network::service;
use crate::network::watch::Followed;
use skysail_schemas::PortSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Port of the kernel datapath's one tunnel.
pub(super) const SHARED_TUNNEL: &str = "skx0";

/// The tenants whose ports are known.
fn tenants(known: &BTreeMap<PortKey, PortSpec>) -> BTreeSet<String> {
    let all = known.values().map(|p| p.namespace.clone());
    all.filter(|n| !n.is_empty()).collect()
}

impl Plane {
    /// Every port that is known: watched, or else remembered; and those attached here.
    pub(super) fn known(&self) -> BTreeMap<PortKey, PortSpec> {
        let remembered = |vni: u32| {
            self.saved
                .ports
                .iter()
                .filter(move |p| p.vni == vni)
                .map(|p| (key(p), p.clone()))
        };
        let mine = self.mine.objects();
        let here = |p: &&PortSpec| {
            p.location
                .as_ref()
                .is_some_and(|l| l.host == self.settings.host)
        };
        let old: BTreeSet<u32> = self
            .saved
            .ports
            .iter()
            .filter(here)
            .map(|p| p.vni)
            .collect();
        let bound: BTreeSet<u32> = mine
            .as_ref()
            .map_or(old, |m| m.values().map(|p| p.vni).collect());
        let mut known: BTreeMap<PortKey, PortSpec> = self
            .attachments
            .iter()
            .map(|(k, a)| (*k, a.port.clone()))
            .collect();
        let carried: BTreeSet<u32> = self.attachments.keys().map(|k| k.0).chain(bound).collect();
        for vni in carried {
            match self.networks.get(&vni).and_then(Followed::objects) {
                Some(watched) => known.extend(watched),
                None => known.extend(remembered(vni)),
            }
        }
        known.extend(mine.into_iter().flatten());
        known
    }

    pub(super) fn follow(&mut self, known: &BTreeMap<PortKey, PortSpec>) {
        let carried: BTreeSet<u32> = known.keys().map(|k| k.0).collect();
        self.networks.retain(|vni, _| carried.contains(vni));
        for vni in carried {
            let start = || {
                let fields = format!("spec.vni={vni}");
                Followed::ports(&self.client, fields, self.changed.clone())
            };
            self.networks.entry(vni).or_insert_with(start);
        }
        self.tenants.follow(&tenants(known));
    }

    pub(super) fn remember(&mut self, known: &BTreeMap<PortKey, PortSpec>) -> Result<()> {
        let attachments = self.attachments.values().cloned().collect();
        // While the tenant of a container is not known, it is still one that was connected without policies.
        let complete = known.values().all(|p| !p.namespace.is_empty());
        let policies = tenants(known).into_iter();
        let policies = policies.filter_map(|n| Some((n.clone(), self.policies(&n)?)));
        let now = Record {
            attachments,
            ports: known.values().cloned().collect(),
            policies: complete.then(|| policies.collect()),
        };
        if now != self.saved {
            now.save(&self.record)?;
            self.saved = now;
        }
        Ok(())
    }

    /// What this host must be, but for the numbers of the switch's ports.
    pub(super) fn view(&self, known: &BTreeMap<PortKey, PortSpec>) -> View {
        let mut view = View::default();
        for (key, port) in known {
            let (Ok(mac), Ok(gateway_mac)) = (
                port.mac.parse(),
                skysail_schemas::port::mac(port.vni, port.gateway).parse(),
            ) else {
                tracing::warn!(vni = key.0, address = %key.1, mac = port.mac, "Port has no valid MAC");
                continue;
            };
            let new = || Network {
                cidr: port.cidr,
                gateway: port.gateway,
                gateway_mac,
                egress: port.egress,
                service: None,
                tunnel: None,
                members: BTreeMap::new(),
                guard: Guard::default(),
            };
            let network = view.networks.entry(port.vni).or_insert_with(new);
            network.members.insert(
                port.address,
                Member {
                    mac,
                    place: self.place(key, port),
                    limit: None,
                },
            );
        }
        for (vni, network) in &mut view.networks {
            network.guard = self.guard_of(*vni, known);
        }
        view
    }

    /// Where a port is; for one on this host the switch port is filled in later.
    fn place(&self, key: &PortKey, port: &PortSpec) -> Place {
        let Some(location) = &port.location else {
            return Place::Nowhere;
        };
        let attached = self
            .attachments
            .get(key)
            .and_then(|a| a.port.location.as_ref());
        let moved = attached.is_none_or(|a| location.epoch > a.epoch);
        if location.host == self.settings.host || !moved {
            return Place::Nowhere;
        }
        let near = location.cloud == self.settings.cloud;
        let address = if near {
            location.internal.or(location.external)
        } else {
            location.external.or(location.internal)
        };
        address.map_or(Place::Nowhere, Place::There)
    }

    /// What a network's DNS answers.
    pub(super) fn zone(&self, vni: u32, network: &Network) -> Zone {
        let ports = self.saved.ports.iter().filter(|p| p.vni == vni);
        let mut names: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
        let mut domain = String::new();
        for port in ports {
            names
                .entry(port.container.clone())
                .or_default()
                .insert(port.address);
            domain.clone_from(&port.dns_domain);
        }
        Zone {
            domain,
            cidr: network.cidr,
            forward: network.egress,
            foreign: self.foreign(vni),
            names,
        }
    }

    /// The domains of the other networks that are known here.
    fn foreign(&self, vni: u32) -> BTreeSet<String> {
        let others = self.saved.ports.iter().filter(|p| p.vni != vni);
        others.map(|p| p.dns_domain.clone()).collect()
    }

    /// Fills the switch's numbers into the view, and the limits that are kept by them.
    pub(super) fn number(&self, view: &mut View, numbers: &BTreeMap<String, u32>) {
        let shared = numbers.get(SHARED_TUNNEL).copied().map(Tunnel::Shared);
        let limits = self.limits(numbers);
        for (vni, network) in &mut view.networks {
            network.service = numbers.get(&service::device(*vni)).copied();
            network.tunnel = shared.or(numbers
                .get(&links::tunnel_device(*vni))
                .copied()
                .map(Tunnel::Device));
            for (address, member) in &mut network.members {
                let number = numbers.get(&links::container_device(*vni, *address));
                if let (Place::Nowhere, Some(number)) = (member.place, number) {
                    member.place = Place::Here(*number);
                    member.limit = limits.get(&(*vni, *address)).copied();
                }
            }
        }
    }

    /// The limits of ports on this host. All ports of a container, told by its namespace, share one, which is
    /// numbered by the lowest of their switch ports.
    fn limits(&self, numbers: &BTreeMap<String, u32>) -> BTreeMap<PortKey, Limit> {
        let mut lowest: BTreeMap<&Path, u32> = BTreeMap::new();
        for (k, a) in &self.attachments {
            if let Some(number) = numbers.get(&links::container_device(k.0, k.1)) {
                let own = lowest.entry(&a.netns).or_insert(*number);
                *own = (*own).min(*number);
            }
        }
        let limit = |(k, a): (&PortKey, &crate::network::record::Attachment)| {
            let (rate, number) = (a.bandwidth?.0, *lowest.get(&*a.netns)?);
            let limit = Limit { rate, number };
            (limit.highest() <= self.meters).then_some((*k, limit))
        };
        self.attachments.iter().filter_map(limit).collect()
    }
}
