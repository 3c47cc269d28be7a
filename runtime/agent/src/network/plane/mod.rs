//! The loop: one task that makes the host as it must be, after every request, every change of a Port and
//! every few seconds, always the whole of it. Nobody else touches the switch, so nothing races.
//!
//! A pass after a request or a change trusts what the last one left; the audit looks at everything.

mod guard;
mod known;
mod pass;
mod policies;

pub use policies::Tenants;

use super::Settings;
use super::datapath::Datapath;
use super::devices::Forwarding;
use super::error::{Error, Result};
use super::links;
use super::record::{Attachment, PortKey, Record, key};
use super::service::Service;
use super::switch::Switch;
use super::trouble::Troubles;
use super::watch::Followed;
pub use pass::Pass;
use skysail_schemas::PortSpec;
use skysail_schemas::port::Port;
use skysail_schemas::quantity::Bandwidth;
use skysail_schemas::security_policy::ProgrammedPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

/// How often the host is compared with what it must be when nothing happens.
const AUDIT: Duration = Duration::from_secs(2);

/// How long other changes of Ports are waited for after one.
const BURST: Duration = Duration::from_millis(10);

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
    switch: Switch,
    /// How many meters the switch can have: without any there are no limits.
    meters: u32,
    mtu: u32,
    record: PathBuf,
    saved: Record,
    attachments: BTreeMap<PortKey, Attachment>,
    /// Attachments whose devices must be looked at.
    fresh: BTreeSet<PortKey>,
    changed: Arc<Notify>,
    mine: Followed<Port>,
    networks: BTreeMap<u32, Followed<Port>>,
    tenants: Arc<Tenants>,
    /// Containers that an agent connected who knew of no policies: they stay open until theirs are known.
    open_before: BTreeSet<PortKey>,
    /// Policies that are in the switch.
    programmed: watch::Sender<Vec<ProgrammedPolicy>>,
    troubles: Arc<Troubles>,
    services: BTreeMap<u32, Service>,
    /// This pass made devices, so what was listed before is not all.
    made: bool,
    /// What the tunnel devices were told last; none where that is not known.
    forwarded: Option<Forwarding>,
    /// The host's rules for egress, and the addresses that they were made for.
    host_rules: Option<(BTreeSet<String>, String)>,
}

impl Plane {
    /// Brings the switch up and adopts what an earlier agent left.
    pub async fn prepare(
        settings: Settings,
        client: kube::Client,
        datapath: Datapath,
    ) -> Result<Self> {
        let mut switch = Switch::default();
        switch.ensure(datapath).await?;
        let meters = switch.meter_count().await?;
        let mtu = links::overlay_mtu(settings.internal).await?;
        let record = settings.data_dir.join("network/record.json");
        let saved = Record::load(&record);
        let mut attachments = saved.attached();
        attachments.retain(|_, a| links::is_namespace(&a.netns));
        let changed = Arc::new(Notify::new());
        let fields = format!("spec.location.host={}", settings.host);
        let mine = Followed::ports(&client, fields, changed.clone());
        let tenants = Tenants::new(client.clone(), changed.clone());
        let open_before = match saved.policies {
            None => attachments.keys().copied().collect(),
            Some(_) => BTreeSet::new(),
        };
        let fresh = attachments.keys().copied().collect();
        let (networks, services) = (BTreeMap::new(), BTreeMap::new());
        tracing::info!(
            datapath = datapath.name(),
            mtu,
            meters,
            adopted = attachments.len(),
            "network plane"
        );
        Ok(Self {
            settings,
            client,
            datapath,
            switch,
            meters,
            mtu,
            record,
            saved,
            attachments,
            fresh,
            changed,
            troubles: Arc::default(),
            mine,
            networks,
            tenants,
            open_before,
            programmed: watch::Sender::default(),
            services,
            made: false,
            forwarded: None,
            host_rules: None,
        })
    }

    /// The tenants whose policies are followed.
    pub fn tenants(&self) -> Arc<Tenants> {
        self.tenants.clone()
    }

    /// The policies that are in the switch.
    pub fn programmed(&self) -> watch::Receiver<Vec<ProgrammedPolicy>> {
        self.programmed.subscribe()
    }

    /// Whether a container's bandwidth can be limited.
    pub fn can_limit(&self) -> bool {
        self.meters > 0
    }

    /// What is wrong here, as every pass finds it.
    pub fn troubles(&self) -> Arc<Troubles> {
        self.troubles.clone()
    }

    /// Runs until nobody can ask any more. Containers keep their network.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut audit = tokio::time::interval(AUDIT);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let changed = self.changed.clone();
        loop {
            let mut waiting = Vec::new();
            let mut look = false;
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => waiting.extend(self.accept(request)),
                    None => return,
                },
                // Ports change in bursts. Who asks for something waits for no burst.
                () = changed.notified() => tokio::select! {
                    request = requests.recv() => match request {
                        Some(request) => waiting.extend(self.accept(request)),
                        None => return,
                    },
                    () = tokio::time::sleep(BURST) => {}
                },
                _ = audit.tick() => look = true,
            }
            while let Ok(request) = requests.try_recv() {
                waiting.extend(self.accept(request));
            }
            let outcome = self.pass(look).await;
            self.troubles.note(&outcome, Instant::now());
            if let Err(e) = &outcome {
                self.switch.distrust();
                tracing::warn!(error = %e, "network is not yet as it must be");
            }
            answer(waiting, outcome);
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
                // The default route leads out where there is a way out, else through the first interface.
                let outward = |p: &&PortSpec| (!p.egress, p.interface);
                let outward = ports.iter().min_by_key(outward).map(|p| p.interface);
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
}

/// Tells those who wait what came of their ports. A network that is not whole fails all of its ports: without
/// its gateway and DNS a container is not connected.
fn answer(waiting: Vec<Waiting>, outcome: Result<Pass>) {
    let (mut pass, general) = match outcome {
        Ok(pass) => (pass, None),
        Err(e) => (Pass::default(), Some(e.to_string())),
    };
    for (keys, reply) in waiting {
        let own = keys.iter().find_map(|k| pass.ports.remove(k));
        let network = keys.iter().find_map(|(vni, _)| {
            let message = pass.networks.get(vni)?.clone();
            Some(Error::Network { vni: *vni, message })
        });
        let result = match (own.or(network), &general) {
            (Some(e), _) => Err(e),
            (None, Some(message)) => Err(Error::Switch(message.clone())),
            (None, None) => Ok(()),
        };
        // Who gave up waiting will ask again.
        let _ = reply.send(result);
    }
    for (key, e) in pass.ports {
        tracing::warn!(vni = key.0, address = %key.1, error = %e, "port is not attached");
    }
    for (vni, message) in pass.networks {
        tracing::warn!(vni, message, "network is not whole; it is tried again");
    }
}
