//! The effects: the cloud, SSH, the API.

use super::{
    install,
    plan::{self, Heartbeat, Observed, PATIENCE, Plan, Report, Seen, Step},
    probe, ssh,
};
use crate::Context;
use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde_json::json;
use skysail_clouds::{self as clouds, Driver, Machine, Order, State, open};
use skysail_reconcile::{Error, Outcome, Reconciler};
use skysail_schemas::{Cloud, Host, HostStatus, SYSTEM_NAMESPACE, host::Resources};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// The Host controller.
pub struct HostReconciler {
    context: Arc<Context>,
    ssh: ssh::Folder,
    binary: OnceCell<String>,
    memory: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of a Host between turns, by uid; losing it costs time only.
#[derive(Debug, Default)]
struct Memory {
    /// When bootstrap last finished.
    bootstrapped: Option<Instant>,
    /// The lease's time as its holder wrote it, and when that was first seen. Clocks of
    /// two machines are never compared.
    heard: Option<(String, Instant)>,
}

impl HostReconciler {
    pub(super) fn new(context: Arc<Context>) -> Self {
        let ssh = ssh::Folder(context.settings.site.data_dir.join("ssh"));
        Self {
            context,
            ssh,
            binary: OnceCell::new(),
            memory: Mutex::new(HashMap::new()),
        }
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cloud(&self, host: &Host) -> Result<Option<Arc<Cloud>>, Error> {
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

    fn driver(&self, host: &Host) -> Result<Box<dyn Driver>, Error> {
        match (self.cloud(host)?, &host.spec.ssh) {
            (Some(cloud), _) => {
                open::cloud(&cloud.name_any(), &cloud.spec, &self.context.settings.site)
                    .map_err(|e| reaction(&e))
            }
            (None, Some(target)) => Ok(open::existing(target)),
            (None, None) => Err(Error::refused(
                "NoSource",
                "the Host names neither a cloud nor an ssh address",
            )),
        }
    }

    /// What the machine type has. `None` for machines that were not ordered by size.
    fn resources(&self, host: &Host) -> Result<Option<(String, Resources)>, Error> {
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

    async fn order(&self, host: &Host) -> Result<Order, Error> {
        let size = self.resources(host)?;
        if size.is_none()
            && self
                .cloud(host)?
                .is_some_and(|c| c.spec.driver == skysail_schemas::cloud::Driver::Sandbox)
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
        })
    }

    /// Of the Hosts of a limited cloud, the oldest are within its limit.
    fn within_limits(&self, host: &Host) -> Result<(), Error> {
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

    async fn machine(&self, host: &Host) -> Seen {
        let driver = match self.driver(host) {
            Ok(driver) => driver,
            // Without its Cloud nobody knows; only a Host that never had a machine surely has none.
            Err(e) if host.status.as_ref().is_some_and(|s| s.machine_id.is_some()) => {
                return Seen::Unknown(e);
            }
            Err(_) => return Seen::Absent,
        };
        let found = match host.status.as_ref().and_then(|s| s.machine_id.as_deref()) {
            Some(id) => driver.get(id).await,
            // Whoever ordered may have been killed before the answer was written down.
            None if host.spec.cloud.is_none() => return Seen::Absent,
            None => match driver.list().await {
                Ok(machines) => machines
                    .into_iter()
                    .find(|m| m.name == host.name_any())
                    .ok_or(clouds::Error::NotFound(String::new())),
                Err(e) => Err(e),
            },
        };
        match found {
            Ok(machine) => Seen::Present(machine),
            Err(clouds::Error::NotFound(_)) => Seen::Absent,
            Err(e) => Seen::Unknown(reaction(&e)),
        }
    }

    async fn heartbeat(&self, host: &Host) -> Result<Heartbeat, Error> {
        let lease = skysail_reconcile::get::<Lease>(
            &self.context.client,
            Some(SYSTEM_NAMESPACE),
            &host.name_any(),
        )
        .await?;
        let Some(spec) = lease.and_then(|l| l.spec) else {
            return Ok(Heartbeat::Never);
        };
        let Some(renewed) = spec.renew_time else {
            return Ok(Heartbeat::Never);
        };
        let holds = Duration::from_secs(
            u64::try_from(spec.lease_duration_seconds.unwrap_or(40)).unwrap_or(40),
        );
        let renewed = renewed.0.to_string();
        let mut memory = self.memory();
        let known = memory.entry(host.uid().unwrap_or_default()).or_default();
        let since = match &known.heard {
            Some((at, since)) if *at == renewed => *since,
            _ => {
                let now = Instant::now();
                known.heard = Some((renewed, now));
                now
            }
        };
        let silent = since.elapsed();
        Ok(match holds.checked_sub(silent) {
            Some(left) => Heartbeat::Alive(left),
            None => Heartbeat::Silent(silent - holds),
        })
    }

    /// The key that opens the machine.
    async fn key(&self, machine: &Machine) -> Result<PathBuf, ssh::Trouble> {
        let Some(name) = &machine.ssh.key_secret else {
            return self
                .ssh
                .own_key()
                .await
                .map_err(|e| ssh::Trouble::Failed(e.to_string()));
        };
        let refused =
            |why: &str| ssh::Trouble::KeyRefused(format!("Secret {SYSTEM_NAMESPACE}/{name} {why}"));
        let secret =
            skysail_reconcile::get::<Secret>(&self.context.client, Some(SYSTEM_NAMESPACE), name)
                .await;
        let secret = secret
            .map_err(|e| ssh::Trouble::Failed(e.to_string()))?
            .ok_or_else(|| refused("does not exist"))?;
        let key = secret
            .data
            .unwrap_or_default()
            .remove("ssh-privatekey")
            .ok_or_else(|| refused("has no key ssh-privatekey"))?;
        self.ssh
            .keep_key(name, &key.0)
            .await
            .map_err(|e| ssh::Trouble::Failed(e.to_string()))
    }

    async fn connect(&self, host: &Host, machine: &Machine) -> Result<ssh::Remote, ssh::Trouble> {
        let key = self.key(machine).await?;
        self.ssh.connect(&host.name_any(), &machine.ssh, &key).await
    }

    async fn probe(&self, host: &Host, machine: &Machine) -> Result<probe::Probe, ssh::Trouble> {
        let remote = self.connect(host, machine).await?;
        let answer = remote.look(&probe::script()).await;
        remote.close().await;
        Ok(probe::parse(&answer?))
    }

    /// SHA-256 of the program that runs here; by a program, as a debug build of ours takes seconds.
    async fn binary(&self) -> Result<String, Error> {
        let trouble = |e: &dyn std::fmt::Display| {
            Error::Transient(format!("cannot hash /proc/self/exe: {e}"))
        };
        let hash = async || {
            let file = std::fs::File::open("/proc/self/exe").map_err(|e| trouble(&e))?;
            let output = tokio::process::Command::new("sha256sum")
                .stdin(file)
                .output()
                .await
                .map_err(|e| trouble(&e))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split(' ')
                .next()
                .filter(|h| h.len() == 64)
                .map(str::to_owned)
                .ok_or_else(|| trouble(&"sha256sum failed"))
        };
        self.binary.get_or_try_init(hash).await.cloned()
    }

    fn labels(&self, host: &Host) -> BTreeMap<String, String> {
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

    fn containers(&self, host: &Host) -> Vec<String> {
        let name = host.name_any();
        let here = |c: &&Arc<skysail_schemas::Container>| {
            c.status
                .as_ref()
                .is_some_and(|s| s.host.as_deref() == Some(&name))
        };
        let mut names: Vec<String> = self
            .context
            .containers
            .list()
            .iter()
            .filter(here)
            .map(|c| format!("{}/{}", c.namespace().unwrap_or_default(), c.name_any()))
            .collect();
        names.sort();
        names
    }

    async fn credential(&self, host: &Host) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Credential {
            kubeconfig: String,
        }
        let path = format!(
            "{}/{}/credential",
            Host::url_path(&(), None),
            host.name_any()
        );
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(b"{}".to_vec());
        let request = request.map_err(|e| Error::Transient(e.to_string()))?;
        Ok(self
            .context
            .client
            .request::<Credential>(request)
            .await?
            .kubeconfig)
    }

    async fn forget_lease(&self, host: &Host) -> Result<(), Error> {
        match skysail_reconcile::get::<Lease>(
            &self.context.client,
            Some(SYSTEM_NAMESPACE),
            &host.name_any(),
        )
        .await?
        {
            Some(lease) => skysail_reconcile::delete_if_present(&self.context.client, &lease).await,
            None => Ok(()),
        }
    }

    async fn step(&self, host: &Host, step: &Step, turn: &mut Turn) -> Result<(), Error> {
        match step {
            Step::Label(labels) => {
                let patch = json!({ "metadata": { "labels": labels } });
                let patched =
                    skysail_reconcile::patch_meta(&self.context.client, Self::NAME, host, patch)
                        .await?;
                self.context.hosts.wrote(patched);
            }
            Step::Create { order, anew } => {
                if *anew {
                    self.ssh.forget(&host.name_any()).await;
                }
                // What the agent of a machine that stopped has said is void.
                self.forget_lease(host).await?;
                self.memory().remove(&host.uid().unwrap_or_default());
                turn.machine = Some(
                    self.driver(host)?
                        .create(order)
                        .await
                        .map_err(|e| reaction(&e))?,
                );
            }
            Step::Packages(names) => install::packages(self.session(host, turn).await?, names)
                .await
                .map_err(failed)?,
            Step::Binary(hash) => install::binary(self.session(host, turn).await?, hash)
                .await
                .map_err(failed)?,
            Step::Credential => {
                let kubeconfig = self.credential(host).await?;
                install::credential(self.session(host, turn).await?, &kubeconfig)
                    .await
                    .map_err(failed)?;
            }
            Step::Start { systemd } => {
                install::start(self.session(host, turn).await?, &host.name_any(), *systemd)
                    .await
                    .map_err(failed)?;
                self.memory()
                    .entry(host.uid().unwrap_or_default())
                    .or_default()
                    .bootstrapped = Some(Instant::now());
            }
            Step::Delete(id) => {
                self.leave(host).await;
                self.driver(host)?
                    .delete(id)
                    .await
                    .map_err(|e| reaction(&e))?;
            }
            Step::Forget => {
                self.ssh.forget(&host.name_any()).await;
                self.forget_lease(host).await?;
                self.memory().remove(&host.uid().unwrap_or_default());
            }
        }
        Ok(())
    }

    /// A machine that only was lent is given back without our agent. One that cannot be
    /// reached keeps it; without its Host it can do nothing.
    async fn leave(&self, host: &Host) {
        let lent = self
            .cloud(host)
            .ok()
            .flatten()
            .is_none_or(|c| c.spec.driver == skysail_schemas::cloud::Driver::Ssh);
        let Seen::Present(machine) = self.machine(host).await else {
            return;
        };
        if !lent {
            return;
        }
        let left = async {
            let remote = self.connect(host, &machine).await?;
            let result = install::remove(&remote).await;
            remote.close().await;
            result
        };
        if let Err(trouble) = left.await {
            tracing::warn!(
                host = host.name_any(),
                ?trouble,
                "the agent could not be removed from the machine"
            );
        }
    }

    /// The one session of a turn.
    async fn session<'a>(&self, host: &Host, turn: &'a mut Turn) -> Result<&'a ssh::Remote, Error> {
        if turn.remote.is_none() {
            let Seen::Present(machine) = self.machine(host).await else {
                return Err(Error::Transient("the machine has just gone".into()));
            };
            turn.remote = Some(self.connect(host, &machine).await.map_err(failed)?);
        }
        turn.remote
            .as_ref()
            .ok_or_else(|| Error::Transient("no session".into()))
    }
}

/// What one turn holds.
#[derive(Default)]
struct Turn {
    remote: Option<ssh::Remote>,
    machine: Option<Machine>,
}

fn failed(trouble: ssh::Trouble) -> Error {
    match trouble {
        ssh::Trouble::Unreachable(said) | ssh::Trouble::Failed(said) => Error::Transient(said),
        ssh::Trouble::KeyRefused(said) => Error::refused("KeyRefused", said),
        ssh::Trouble::HostKeyChanged(at) => Error::refused("HostKeyChanged", at),
    }
}

/// The loop's reaction to each error of a driver.
pub(crate) fn reaction(error: &clouds::Error) -> Error {
    use clouds::Error as E;
    match error {
        E::NoCapacity(m) | E::Throttled(m) => Error::Capacity(m.clone()),
        E::Quota(m) | E::Denied(m) | E::Refused(m) => Error::refused(error.reason(), m.clone()),
        E::NotFound(m) | E::Transient(m) => Error::Transient(m.clone()),
    }
}

impl Reconciler for HostReconciler {
    type Kind = Host;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Report;
    const NAME: &'static str = "host";
    const FINALIZER: Option<&'static str> = Some("skysail.dev/machine");

    async fn observe(&self, host: &Host) -> Result<Observed, Error> {
        let deleting = host.meta().deletion_timestamp.is_some();
        let (machine, heartbeat) = tokio::join!(self.machine(host), self.heartbeat(host));
        let heartbeat = heartbeat?;
        let bootstrapped = self
            .memory()
            .get(&host.uid().unwrap_or_default())
            .and_then(|m| m.bootstrapped)
            .map(|at| at.elapsed());
        let waits = bootstrapped.is_some_and(|ago| ago < PATIENCE);
        let probe = match &machine {
            Seen::Present(m)
                if m.state == State::Running
                    && !deleting
                    && !waits
                    && !matches!(heartbeat, Heartbeat::Alive(_)) =>
            {
                Some(self.probe(host, m).await)
            }
            _ => None,
        };
        Ok(Observed {
            order: self.order(host).await,
            machine,
            heartbeat,
            probe,
            binary: self.binary().await?,
            labels: self.labels(host),
            resources: self.resources(host).ok().flatten().map(|(_, r)| r),
            containers: if deleting {
                self.containers(host)
            } else {
                vec![]
            },
        })
    }

    fn plan(host: &Host, observed: &Observed, _now: Timestamp) -> Plan {
        plan::plan(host, observed)
    }

    async fn apply(&self, host: &Host, plan: &Plan) -> Report {
        let mut report = Report::default();
        let mut turn = Turn::default();
        for step in plan {
            tracing::info!(host = host.name_any(), "{}", step.title());
            match self.step(host, step, &mut turn).await {
                Ok(()) => report.done.push(step.clone()),
                Err(e) => {
                    report.failed = Some((step.clone(), e));
                    break;
                }
            }
        }
        if let Some(remote) = turn.remote {
            remote.close().await;
        }
        report.machine = turn.machine;
        report
    }

    fn status(
        host: &Host,
        observed: &Observed,
        _plan: &Plan,
        report: &Report,
        now: Timestamp,
    ) -> Outcome<HostStatus> {
        plan::status(host, observed, report, now)
    }
}
