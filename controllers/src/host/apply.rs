//! The effects: the cloud, SSH, the API.

use super::{
    install,
    plan::{self, Heartbeat, Observed, PATIENCE, Plan, Report, Seen, Step},
    ssh, status,
    upgrade::{self, Upgrade},
};
use crate::Context;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde_json::json;
use skysail_clouds::{self as clouds, Machine, SshTarget, State};
use skysail_reconcile::{Error, Outcome, Reconciler};
use skysail_schemas::{Host, HostStatus, SYSTEM_NAMESPACE};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::OnceCell;

/// The Host controller.
pub struct HostReconciler {
    pub(super) context: Arc<Context>,
    pub(super) ssh: ssh::Folder,
    pub(super) binary: OnceCell<String>,
    memory: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of a Host between turns, by uid; losing it costs time only.
#[derive(Default)]
pub(super) struct Memory {
    /// When bootstrap last finished.
    bootstrapped: Option<Instant>,
    /// The lease's time as its holder wrote it, and when that was first seen. Clocks of
    /// two machines are never compared.
    pub(super) heard: Option<(String, Instant)>,
    /// The session of a bootstrap that is under way.
    session: Option<(SshTarget, ssh::Remote)>,
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

    pub(super) fn memory(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn step(
        &self,
        host: &Host,
        step: &Step,
        made: &mut Option<Machine>,
    ) -> Result<(), Error> {
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
                *made = Some(
                    self.driver(host)?
                        .create(order)
                        .await
                        .map_err(|e| reaction(&e))?,
                );
            }
            Step::Packages(_) | Step::Binary(_) | Step::Credential | Step::Start { .. } => {
                self.install(host, step).await?;
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

    /// A step of bootstrap on the machine.
    async fn install(&self, host: &Host, step: &Step) -> Result<(), Error> {
        let kubeconfig = match step {
            Step::Credential => self.credential(host).await?,
            _ => String::new(),
        };
        let (target, remote) = self.session(host).await?;
        let name = host.name_any();
        let done = match step {
            Step::Packages(names) => install::packages(&remote, names).await,
            Step::Binary(hash) => install::binary(&remote, hash).await,
            Step::Credential => install::credential(&remote, &kubeconfig).await,
            Step::Start { systemd } => install::start(&remote, &name, *systemd).await,
            _ => Ok(()),
        };
        if done.is_ok() && !matches!(step, Step::Start { .. }) {
            self.keep_session(host, target, remote);
            return Ok(());
        }
        remote.close().await;
        done.map_err(failed)?;
        self.memory()
            .entry(host.uid().unwrap_or_default())
            .or_default()
            .bootstrapped = Some(Instant::now());
        Ok(())
    }

    /// The session of the bootstrap that is under way, or a new one.
    async fn session(&self, host: &Host) -> Result<(SshTarget, ssh::Remote), Error> {
        if let Some(kept) = self.kept_session(host) {
            return Ok(kept);
        }
        let Seen::Present(machine) = self.machine(host).await else {
            return Err(Error::Transient("the machine has just gone".into()));
        };
        let remote = self.connect(host, &machine).await.map_err(failed)?;
        Ok((machine.ssh, remote))
    }

    /// Keeps a session for the next turn: the steps of a bootstrap share one.
    pub(super) fn keep_session(&self, host: &Host, target: SshTarget, remote: ssh::Remote) {
        self.memory()
            .entry(host.uid().unwrap_or_default())
            .or_default()
            .session = Some((target, remote));
    }

    /// The session that an earlier turn kept, to be kept again or closed.
    pub(super) fn kept_session(&self, host: &Host) -> Option<(SshTarget, ssh::Remote)> {
        self.memory()
            .get_mut(&host.uid().unwrap_or_default())?
            .session
            .take()
    }
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
        E::NoCapacity(m) => Error::Capacity(m.clone()),
        E::Throttled(m) => Error::Throttled(m.clone()),
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
        let binary = self.binary().await?;
        let alive = matches!(heartbeat, Heartbeat::Alive(_));
        let upgrade = match alive && !deleting {
            true => upgrade::turn(host, &self.context.hosts.list(), &binary),
            false => Upgrade::Unknown,
        };
        let asks = !alive || upgrade == Upgrade::Now;
        let probe = match &machine {
            Seen::Present(m) if m.state == State::Running && !deleting && !waits && asks => {
                Some(self.probe(host, m).await)
            }
            _ => {
                if let Some((_, remote)) = self.kept_session(host) {
                    remote.close().await;
                }
                None
            }
        };
        Ok(Observed {
            order: self.order(host).await,
            machine,
            heartbeat,
            probe,
            binary,
            upgrade,
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
        for step in plan {
            tracing::info!(host = host.name_any(), "{}", step.title());
            match self.step(host, step, &mut report.machine).await {
                Ok(()) => report.done.push(step.clone()),
                Err(e) => {
                    report.failed = Some((step.clone(), e));
                    break;
                }
            }
        }
        report
    }

    fn status(
        host: &Host,
        observed: &Observed,
        _plan: &Plan,
        report: &Report,
        now: Timestamp,
    ) -> Outcome<HostStatus> {
        status::status(host, observed, report, now)
    }
}
