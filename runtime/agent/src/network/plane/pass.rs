//! One pass: makes the host as it must be, step by step, and says what could not be made.

use super::Plane;
use super::known::SHARED_TUNNEL;
use crate::network::datapath::Datapath;
use crate::network::devices::Forwarding;
use crate::network::error::{Error, Result};
use crate::network::links::{self, Far, Present};
use crate::network::plan::{self, Network, View};
use crate::network::record::{Attachment, PortKey};
use crate::network::service;
use crate::network::switch::{BRIDGE, NewPort, Port};
use futures::future::join_all;
use ipnet::Ipv4Net;
use skysail_schemas::PortSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What a pass could not make.
#[derive(Debug, Default)]
pub struct Pass {
    /// Ports that are not attached.
    pub ports: BTreeMap<PortKey, Error>,
    /// Networks whose tunnel, gateway or DNS is missing.
    pub networks: BTreeMap<u32, String>,
}

impl Plane {
    /// One pass over everything; with `look` also over what only somebody else can have changed. An error
    /// concerns the whole host.
    pub(super) async fn pass(&mut self, look: bool) -> Result<Pass> {
        let known = self.known();
        self.follow(&known);
        let mut view = self.view(&known);
        if look {
            self.switch.distrust();
        }
        self.switch.ensure(self.datapath).await?;
        self.remember(&known)?;
        let mut there = links::present()?;
        self.remove_stale(&view, &there).await?;
        self.made = false;
        let mut failed = Pass {
            ports: self.make_devices(&view, &there).await,
            networks: self.make_networks(&view, &there).await,
        };
        if self.made {
            there = links::present()?;
        }
        let numbers = self.connect(&view, &there).await?;
        self.number(&mut view, &numbers);
        self.switch.program(&plan::program(&view), look).await?;
        let in_force = self.in_force(&known);
        self.programmed.send_if_modified(|before| {
            let changed = *before != in_force;
            *before = in_force;
            changed
        });
        if self.datapath == Datapath::Netdev {
            self.forward(plan::forwarding(&view), &there, look)?;
        }
        self.guard(&view, &known, look).await?;
        for key in &self.fresh {
            let there = numbers.contains_key(&links::container_device(key.0, key.1));
            if !there && self.attachments.contains_key(key) && !failed.ports.contains_key(key) {
                let missing = format!("{} of VNI {} has no port in {BRIDGE}", key.1, key.0);
                failed.ports.insert(*key, Error::Switch(missing));
            }
        }
        self.fresh.clear();
        Ok(failed)
    }

    /// Removes devices, ports and namespaces of ours that nothing asks for any more.
    async fn remove_stale(&mut self, view: &View, there: &Present) -> Result<()> {
        let wanted = self.wanted_ports(view, there);
        let ports = self.switch.ports().await?;
        let stale = |name: &String, port: &Port| {
            port.owner.is_some()
                && name != BRIDGE
                && (!wanted.contains_key(name) || is_dead(name, port, there))
        };
        let remove: Vec<String> = ports
            .iter()
            .filter(|(n, p)| stale(n, p))
            .map(|(n, _)| n.clone())
            .collect();
        self.switch.remove_ports(&remove).await?;
        let transit: BTreeSet<String> = view
            .networks
            .keys()
            .map(|vni| service::transit_device(*vni))
            .collect();
        self.services
            .retain(|vni, _| view.networks.contains_key(vni));
        for vni in service::present()
            .into_iter()
            .filter(|vni| !view.networks.contains_key(vni))
        {
            service::remove(vni).await?;
        }
        for device in there
            .keys()
            .filter(|d| links::is_ours(d))
            .filter(|d| !wanted.contains_key(*d) && !transit.contains(*d))
        {
            links::remove(device)?;
        }
        Ok(())
    }

    /// Every port that `br-int` must have, by device.
    fn wanted_ports(&self, view: &View, there: &Present) -> BTreeMap<String, NewPort> {
        let device = |name: String, owner: String| NewPort {
            index: there.get(&name).copied(),
            name,
            owner,
            kind: "",
            options: Vec::new(),
        };
        let of_container = |k: &PortKey| {
            device(
                links::container_device(k.0, k.1),
                format!("{}/{}", k.0, k.1),
            )
        };
        let mut wanted: Vec<NewPort> = self.attachments.keys().map(of_container).collect();
        for vni in view.networks.keys() {
            wanted.push(device(service::device(*vni), format!("{vni}/service")));
            if self.datapath == Datapath::Netdev {
                wanted.push(device(links::tunnel_device(*vni), format!("{vni}/tunnel")));
            }
        }
        if self.datapath == Datapath::System {
            wanted.push(NewPort {
                name: SHARED_TUNNEL.into(),
                owner: "tunnel".into(),
                index: None,
                kind: "vxlan",
                options: vec![("remote_ip", "flow"), ("key", "flow")],
            });
        }
        wanted.into_iter().map(|p| (p.name.clone(), p)).collect()
    }

    /// Makes the interfaces of containers where they are new or missing.
    async fn make_devices(&mut self, view: &View, there: &Present) -> BTreeMap<PortKey, Error> {
        let offload = self.datapath.offloads();
        let missing = |k: &PortKey, a: &Attachment| {
            self.fresh.contains(k)
                || !there.contains_key(&links::container_device(k.0, k.1))
                    && links::is_namespace(&a.netns)
        };
        let make: Vec<(PortKey, Attachment)> = self
            .attachments
            .iter()
            .filter(|(k, a)| missing(k, a))
            .map(|(k, a)| (*k, a.clone()))
            .collect();
        self.made |= !make.is_empty();
        let this = &*self;
        let made = make
            .iter()
            .map(|(k, a)| async move { (*k, this.make_device(*k, a, view, offload).await) });
        let made = join_all(made).await;
        made.into_iter()
            .filter_map(|(k, r)| Some((k, r.err()?)))
            .collect()
    }

    async fn make_device(
        &self,
        key: PortKey,
        attachment: &Attachment,
        view: &View,
        offload: bool,
    ) -> Result<()> {
        let port = &attachment.port;
        let bad = |message: String| Error::Port {
            port: format!("{}.{}", port.network, port.address),
            message,
        };
        let network = view
            .networks
            .get(&key.0)
            .ok_or_else(|| bad("has no valid MAC".into()))?;
        let mac = network.members.get(&port.address).map(|m| m.mac);
        let address =
            Ipv4Net::new(port.address, port.cidr.prefix_len()).map_err(|e| bad(e.to_string()))?;
        let far = Far {
            netns: attachment.netns.clone(),
            device: format!("eth{}", port.interface),
            mac,
            address,
            via: attachment.default_route.then_some(port.gateway),
            mtu: self.mtu,
        };
        links::pair(&links::container_device(key.0, key.1), &far, offload).await
    }

    /// Makes tunnel and service of every network that this host carries; returns what failed.
    async fn make_networks(&mut self, view: &View, there: &Present) -> BTreeMap<u32, String> {
        let mut failed = BTreeMap::new();
        for (vni, network) in &view.networks {
            if let Err(e) = self.make_network(*vni, network, there).await {
                failed.insert(*vni, e.to_string());
            }
        }
        failed
    }

    async fn make_network(&mut self, vni: u32, network: &Network, there: &Present) -> Result<()> {
        if self.datapath == Datapath::Netdev && !there.contains_key(&links::tunnel_device(vni)) {
            self.made = true;
            links::tunnel(vni, self.mtu)?;
        }
        let current = self
            .services
            .get(&vni)
            .is_some_and(|s| s.is_current(vni, network));
        if !current || !service::is_whole(vni, network, there) {
            self.made = true;
            service::ensure(vni, network, self.mtu, self.datapath.offloads()).await?;
        }
        let zone = self.zone(vni, network);
        match self.services.get(&vni).filter(|_| current) {
            Some(service) => service.publish(zone),
            None => {
                self.services.remove(&vni);
                self.services
                    .insert(vni, service::start(vni, network, zone).await?);
            }
        }
        Ok(())
    }

    /// Connects what is missing in the switch; returns the numbers of all ports.
    async fn connect(&mut self, view: &View, there: &Present) -> Result<BTreeMap<String, u32>> {
        let mut present = self.switch.ports().await?;
        let wanted = self.wanted_ports(view, there);
        let exists = |p: &&NewPort| !p.kind.is_empty() || p.index.is_some();
        // A device that was made again in this pass: the switch must let go of the dead one first.
        let dead: Vec<String> = present
            .iter()
            .filter(|(n, p)| is_dead(n, p, there))
            .map(|(n, _)| n.clone())
            .collect();
        self.switch.remove_ports(&dead).await?;
        present.retain(|name, _| !dead.contains(name));
        let missing = |p: &&NewPort| !present.contains_key(&p.name);
        let add: Vec<NewPort> = wanted
            .values()
            .filter(exists)
            .filter(missing)
            .cloned()
            .collect();
        if !add.is_empty() {
            self.switch.add_ports(&add).await?;
            present = self.switch.ports().await?;
        }
        Ok(present
            .into_iter()
            .filter(|(n, _)| wanted.contains_key(n))
            .filter_map(|(n, p)| Some((n, p.number?)))
            .collect())
    }

    /// Tells the tunnel devices who is where, unless they know.
    fn forward(&mut self, wanted: Forwarding, there: &Present, look: bool) -> Result<()> {
        if !look && !self.made && self.forwarded.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.forwarded = None;
        links::forward(&wanted, there)?;
        self.forwarded = Some(wanted);
        Ok(())
    }

    /// Installs the host's rules for egress where a network has it.
    async fn guard(
        &mut self,
        view: &View,
        known: &BTreeMap<PortKey, PortSpec>,
        look: bool,
    ) -> Result<()> {
        if !view.networks.values().any(|n| n.egress) {
            return Ok(());
        }
        let peers = known
            .values()
            .filter_map(|p| p.location.as_ref())
            .flat_map(|l| [l.internal, l.external]);
        let own = [self.settings.internal, self.settings.external];
        let addresses = peers
            .chain(own)
            .flatten()
            .chain(self.settings.protected.iter().copied())
            .filter(IpAddr::is_ipv4);
        let protected: BTreeSet<String> = addresses.map(|a| a.to_string()).collect();
        let unchanged = self.host_rules.as_ref().filter(|(p, _)| *p == protected);
        if unchanged.is_some() && !look {
            return Ok(());
        }
        let own = service::underlay().await?;
        let rules = service::host_rules(&protected.union(&own).cloned().collect());
        let there = unchanged.is_some_and(|(_, r)| *r == rules);
        if !there || !service::host_rules_present().await {
            service::install_host_rules(&rules).await?;
        }
        self.host_rules = Some((protected, rules));
        Ok(())
    }
}

/// Whether the switch holds a device that is gone, or has been made again under the same name.
fn is_dead(name: &str, port: &Port, there: &Present) -> bool {
    let kernel = name != SHARED_TUNNEL && name != BRIDGE && port.owner.is_some();
    kernel && (port.number.is_none() || there.get(name).copied() != port.index)
}
