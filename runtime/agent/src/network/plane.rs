//! The loop: one task that makes the host as it must be, after every request, every change of a Port and
//! every few seconds, always the whole of it. Nobody else touches the switch, so nothing races.

use super::Settings;
use super::dns::Zone;
use super::error::{Error, Result};
use super::links::{self, Far};
use super::plan::{self, Member, Network, Place, Tunnel, View};
use super::record::{Attachment, PortKey, Record, key};
use super::service::{self, Service};
use super::switch::{self, BRIDGE, Datapath, NewPort};
use super::watch::Followed;
use futures::future::join_all;
use ipnet::Ipv4Net;
use skysail_schemas::PortSpec;
use skysail_schemas::quantity::Bandwidth;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

/// How often the host is compared with what it must be when nothing happens.
const AUDIT: Duration = Duration::from_secs(2);
/// Port of the kernel datapath's one tunnel.
const SHARED_TUNNEL: &str = "skx0";

/// Something that the agent asks for.
pub enum Request {
    /// Give a container its interfaces.
    Attach {
        /// Where its namespace is mounted.
        netns: PathBuf,
        /// Its ports.
        ports: Vec<PortSpec>,
        /// What they may carry together.
        bandwidth: Option<Bandwidth>,
        /// Told when it is done.
        reply: oneshot::Sender<Result<()>>,
    },
    /// Take interfaces away.
    Detach {
        /// Which.
        ports: Vec<PortSpec>,
        /// Told when it is done.
        reply: oneshot::Sender<Result<()>>,
    },
}

type Waiting = (Vec<PortKey>, oneshot::Sender<Result<()>>);

/// State of the loop.
pub struct Plane {
    settings: Settings,
    client: kube::Client,
    datapath: Datapath,
    mtu: u32,
    record: PathBuf,
    saved: Record,
    attachments: BTreeMap<PortKey, Attachment>,
    /// Attachments whose devices must be looked at.
    fresh: BTreeSet<PortKey>,
    changed: Arc<Notify>,
    mine: Followed,
    networks: BTreeMap<u32, Followed>,
    services: BTreeMap<u32, Service>,
    host_rules: String,
}

impl Plane {
    /// Brings the switch up and adopts what an earlier agent left.
    pub async fn prepare(
        settings: Settings,
        client: kube::Client,
        datapath: Datapath,
    ) -> Result<Self> {
        switch::ensure_running().await?;
        switch::ensure_bridge(datapath).await?;
        let mtu = links::overlay_mtu(settings.internal).await?;
        let record = settings.data_dir.join("network/record.json");
        let saved = Record::load(&record);
        let mut attachments = saved.attached();
        attachments.retain(|_, a| links::is_namespace(&a.netns));
        let changed = Arc::new(Notify::new());
        let mine = Followed::start(
            client.clone(),
            format!("spec.location.host={}", settings.host),
            changed.clone(),
        );
        let fresh = attachments.keys().copied().collect();
        let (networks, services, host_rules) = (BTreeMap::new(), BTreeMap::new(), String::new());
        tracing::info!(
            datapath = datapath.name(),
            mtu,
            adopted = attachments.len(),
            "network plane"
        );
        Ok(Self {
            settings,
            client,
            datapath,
            mtu,
            record,
            saved,
            attachments,
            fresh,
            changed,
            mine,
            networks,
            services,
            host_rules,
        })
    }

    /// Runs until nobody can ask any more. Containers keep their network.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut audit = tokio::time::interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let changed = self.changed.clone();
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => waiting.extend(self.accept(request)),
                    None => return,
                },
                () = changed.notified() => {}
                _ = audit.tick() => {}
            }
            while let Ok(request) = requests.try_recv() {
                waiting.extend(self.accept(request));
            }
            let outcome = self.converge().await;
            if let Err(e) = &outcome {
                tracing::warn!(error = %e, "network is not yet as it must be");
            }
            self.answer(waiting, outcome);
        }
    }

    fn accept(&mut self, request: Request) -> Option<Waiting> {
        match request {
            Request::Attach {
                netns,
                ports,
                bandwidth,
                reply,
            } => {
                let outward = ports
                    .iter()
                    .filter(|p| p.egress)
                    .chain(&ports)
                    .map(|p| p.interface);
                let outward = ports
                    .iter()
                    .filter(|p| p.egress)
                    .map(|p| p.interface)
                    .min()
                    .or(outward.min());
                for port in &ports {
                    let default_route = outward == Some(port.interface);
                    self.attachments.insert(
                        key(port),
                        Attachment {
                            netns: netns.clone(),
                            port: port.clone(),
                            default_route,
                            bandwidth,
                        },
                    );
                    self.fresh.insert(key(port));
                }
                Some((ports.iter().map(key).collect(), reply))
            }
            Request::Detach { ports, reply } => {
                for port in &ports {
                    self.attachments.remove(&key(port));
                }
                Some((Vec::new(), reply))
            }
        }
    }

    fn answer(&mut self, waiting: Vec<Waiting>, outcome: Result<BTreeMap<PortKey, Error>>) {
        let (mut failed, general) = match outcome {
            Ok(failed) => (failed, None),
            Err(e) => (BTreeMap::new(), Some(e.to_string())),
        };
        for (keys, reply) in waiting {
            let own = keys.iter().find_map(|k| failed.remove(k));
            let result = match (own, &general) {
                (Some(e), _) => Err(e),
                (None, Some(message)) => Err(Error::Switch(message.clone())),
                (None, None) => Ok(()),
            };
            // Who gave up waiting will ask again.
            let _ = reply.send(result);
        }
        for (key, e) in failed {
            tracing::warn!(vni = key.0, address = %key.1, error = %e, "port is not attached");
        }
    }

    /// One pass over everything. Returns the ports that could not be attached; an error concerns the whole host.
    async fn converge(&mut self) -> Result<BTreeMap<PortKey, Error>> {
        let known = self.known();
        self.follow(&known);
        let mut view = self.view(&known);
        if switch::ensure_running().await?
            || !switch::ports().await.is_ok_and(|p| p.contains_key(BRIDGE))
        {
            switch::ensure_running().await?;
            switch::ensure_bridge(self.datapath).await?;
        }
        self.remember(&known)?;
        self.remove_stale(&view).await?;
        let mut failed = self.make_devices(&view).await;
        failed.extend(self.make_networks(&view).await);
        let numbers = self.connect(&view).await?;
        self.number(&mut view, &numbers);
        let change = plan::change(&plan::flows(&view), &switch::flows().await?);
        if !change.is_empty() {
            tracing::debug!(
                add = change.add.len(),
                remove = change.remove.len(),
                "flows"
            );
            switch::apply(&change).await?;
        }
        if self.datapath == Datapath::Netdev {
            links::forward(&plan::forwarding(&view)).await?;
        }
        self.guard(&view, &known).await?;
        for key in self.attachments.keys().copied().collect::<Vec<_>>() {
            let there = numbers.contains_key(&links::container_device(key.0, key.1));
            if !there && self.fresh.contains(&key) && !failed.contains_key(&key) {
                failed.insert(
                    key,
                    Error::Switch(format!(
                        "{} of VNI {} has no port in {BRIDGE}",
                        key.1, key.0
                    )),
                );
            }
        }
        self.fresh.clear();
        Ok(failed)
    }

    /// Every port that is known: watched, or else remembered; and those attached here.
    fn known(&self) -> BTreeMap<PortKey, PortSpec> {
        let remembered = |vni: u32| {
            self.saved
                .ports
                .iter()
                .filter(move |p| p.vni == vni)
                .map(|p| (key(p), p.clone()))
        };
        let mine = self.mine.ports();
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
            match self.networks.get(&vni).and_then(Followed::ports) {
                Some(watched) => known.extend(watched),
                None => known.extend(remembered(vni)),
            }
        }
        known.extend(mine.into_iter().flatten());
        known
    }

    fn follow(&mut self, known: &BTreeMap<PortKey, PortSpec>) {
        let carried: BTreeSet<u32> = known.keys().map(|k| k.0).collect();
        self.networks.retain(|vni, _| carried.contains(vni));
        for vni in carried {
            let start = || {
                Followed::start(
                    self.client.clone(),
                    format!("spec.vni={vni}"),
                    self.changed.clone(),
                )
            };
            self.networks.entry(vni).or_insert_with(start);
        }
    }

    fn remember(&mut self, known: &BTreeMap<PortKey, PortSpec>) -> Result<()> {
        let attachments = self.attachments.values().cloned().collect();
        let now = Record {
            attachments,
            ports: known.values().cloned().collect(),
        };
        if now != self.saved {
            now.save(&self.record)?;
            self.saved = now;
        }
        Ok(())
    }

    /// What this host must be, but for the numbers of the switch's ports.
    fn view(&self, known: &BTreeMap<PortKey, PortSpec>) -> View {
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
            };
            let network = view.networks.entry(port.vni).or_insert_with(new);
            network.members.insert(
                port.address,
                Member {
                    mac,
                    place: self.place(key, port),
                },
            );
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

    /// Removes devices, ports and namespaces of ours that nothing asks for any more.
    async fn remove_stale(&mut self, view: &View) -> Result<()> {
        let wanted = self.wanted_ports(view);
        let ports = switch::ports().await?;
        let stale = |name: &String, port: &switch::Port| {
            port.owner.is_some()
                && name != BRIDGE
                && (!wanted.contains_key(name) || is_dead(name, port))
        };
        let remove: Vec<String> = ports
            .iter()
            .filter(|(n, p)| stale(n, p))
            .map(|(n, _)| n.clone())
            .collect();
        switch::remove_ports(&remove).await?;
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
        for device in links::ours()
            .iter()
            .filter(|d| !wanted.contains_key(*d) && !transit.contains(*d))
        {
            links::remove(device).await?;
        }
        Ok(())
    }

    /// Every port that `br-int` must have, by device, with its owner.
    fn wanted_ports(&self, view: &View) -> BTreeMap<String, NewPort> {
        let port = |name: String, owner: String| {
            (
                name.clone(),
                NewPort {
                    name,
                    owner,
                    settings: Vec::new(),
                },
            )
        };
        let containers = self.attachments.keys().map(|k| {
            port(
                links::container_device(k.0, k.1),
                format!("{}/{}", k.0, k.1),
            )
        });
        let mut wanted: BTreeMap<String, NewPort> = containers.collect();
        for vni in view.networks.keys() {
            wanted.extend([port(service::device(*vni), format!("{vni}/service"))]);
            if self.datapath == Datapath::Netdev {
                wanted.extend([port(links::tunnel_device(*vni), format!("{vni}/tunnel"))]);
            }
        }
        if self.datapath == Datapath::System {
            let settings = ["type=vxlan", "options:remote_ip=flow", "options:key=flow"]
                .map(str::to_owned)
                .to_vec();
            wanted.insert(
                SHARED_TUNNEL.into(),
                NewPort {
                    name: SHARED_TUNNEL.into(),
                    owner: "tunnel".into(),
                    settings,
                },
            );
        }
        wanted
    }

    /// Makes the interfaces of containers where they are new or missing.
    async fn make_devices(&self, view: &View) -> BTreeMap<PortKey, Error> {
        let offload = links::offload(self.datapath);
        let missing = |k: &PortKey, a: &Attachment| {
            self.fresh.contains(k)
                || links::index(&links::container_device(k.0, k.1)).is_none()
                    && links::is_namespace(&a.netns)
        };
        let make = |(k, a): (PortKey, &Attachment)| {
            let attachment = a.clone();
            async move { (k, self.make_device(k, &attachment, view, offload).await) }
        };
        let made = join_all(
            self.attachments
                .iter()
                .filter(|(k, a)| missing(k, a))
                .map(|(k, a)| make((*k, a))),
        )
        .await;
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

    /// Makes tunnel and service of every network that this host carries.
    async fn make_networks(&mut self, view: &View) -> BTreeMap<PortKey, Error> {
        let mut failed = BTreeMap::new();
        for (vni, network) in &view.networks {
            if let Err(e) = self.make_network(*vni, network).await {
                failed.insert((*vni, network.gateway), e);
            }
        }
        failed
    }

    async fn make_network(&mut self, vni: u32, network: &Network) -> Result<()> {
        if self.datapath == Datapath::Netdev && links::index(&links::tunnel_device(vni)).is_none() {
            links::tunnel(vni, self.mtu).await?;
        }
        let current = self
            .services
            .get(&vni)
            .is_some_and(|s| s.is_current(vni, network));
        if !current || !service::is_whole(vni, network) {
            service::ensure(vni, network, self.mtu, links::offload(self.datapath)).await?;
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

    fn zone(&self, vni: u32, network: &Network) -> Zone {
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
            names,
        }
    }

    /// Connects what is missing in the switch; returns the numbers of all ports.
    async fn connect(&self, view: &View) -> Result<BTreeMap<String, u32>> {
        let mut present = switch::ports().await?;
        let wanted = self.wanted_ports(view);
        let there = |p: &&NewPort| p.name == SHARED_TUNNEL || links::index(&p.name).is_some();
        // A device that was made again in this pass: the switch must let go of the dead one first.
        let dead: Vec<String> = present
            .iter()
            .filter(|(n, p)| is_dead(n, p))
            .map(|(n, _)| n.clone())
            .collect();
        switch::remove_ports(&dead).await?;
        present.retain(|name, _| !dead.contains(name));
        let missing = |p: &&NewPort| !present.contains_key(&p.name);
        let add: Vec<NewPort> = wanted
            .values()
            .filter(there)
            .filter(missing)
            .cloned()
            .collect();
        if !add.is_empty() {
            switch::add_ports(&add).await?;
            present = switch::ports().await?;
        }
        Ok(present
            .into_iter()
            .filter(|(n, _)| wanted.contains_key(n))
            .filter_map(|(n, p)| Some((n, p.number?)))
            .collect())
    }

    /// Fills the switch's numbers into the view.
    fn number(&self, view: &mut View, numbers: &BTreeMap<String, u32>) {
        let shared = numbers.get(SHARED_TUNNEL).copied().map(Tunnel::Shared);
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
                }
            }
        }
    }

    /// Installs the host's rules for egress where a network has it.
    async fn guard(&mut self, view: &View, known: &BTreeMap<PortKey, PortSpec>) -> Result<()> {
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
        let mut protected: BTreeSet<String> = addresses.map(|a| a.to_string()).collect();
        protected.extend(service::underlay().await?);
        let rules = service::host_rules(&protected);
        if rules != self.host_rules || !service::host_rules_present().await {
            service::install_host_rules(&rules).await?;
            self.host_rules = rules;
        }
        Ok(())
    }
}

/// Whether the switch holds a device that is gone, or has been made again under the same name.
fn is_dead(name: &str, port: &switch::Port) -> bool {
    let kernel = name != SHARED_TUNNEL && name != BRIDGE && port.owner.is_some();
    kernel && (port.number.is_none() || links::index(name) != port.index)
}
