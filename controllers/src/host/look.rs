//! What is there: the machine, the agent's lease, what SSH shows.

use super::{
    apply::{HostReconciler, reaction},
    plan::{Heartbeat, Seen, usable},
    probe, ssh,
};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::ResourceExt;
use skysail_clouds::{self as clouds, Machine};
use skysail_reconcile::Error;
use skysail_schemas::{Host, SYSTEM_NAMESPACE};
use std::collections::BTreeSet;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

impl HostReconciler {
    pub(super) async fn machine(&self, host: &Host) -> Seen {
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

    pub(super) async fn heartbeat(&self, host: &Host) -> Result<Heartbeat, Error> {
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
    pub(super) async fn key(&self, machine: &Machine) -> Result<PathBuf, ssh::Trouble> {
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

    pub(super) async fn connect(
        &self,
        host: &Host,
        machine: &Machine,
    ) -> Result<ssh::Remote, ssh::Trouble> {
        let key = self.key(machine).await?;
        self.ssh.connect(&host.name_any(), &machine.ssh, &key).await
    }

    pub(super) async fn probe(
        &self,
        host: &Host,
        machine: &Machine,
    ) -> Result<probe::Probe, ssh::Trouble> {
        let mut kept = self.kept_session(host);
        if let Some((_, other)) = kept.take_if(|(target, _)| *target != machine.ssh) {
            other.close().await;
        }
        if let Some((target, remote)) = kept {
            if let Ok(answer) = remote.look(&probe::script()).await {
                self.keep_session(host, target, remote);
                return Ok(probe::parse(&answer));
            }
            remote.close().await; // it broke: try another
        }
        let remote = match self.connect(host, machine).await {
            Err(ssh::Trouble::Unreachable(said)) => {
                let said = said + &self.last_words(host, machine).await;
                return Err(ssh::Trouble::Unreachable(said));
            }
            connected => connected?,
        };
        let seen = remote
            .look(&probe::script())
            .await
            .map(|a| probe::parse(&a));
        if seen.as_ref().is_ok_and(|probe| usable(probe).is_ok()) {
            self.keep_session(host, machine.ssh.clone(), remote);
        } else {
            remote.close().await;
        }
        seen
    }

    /// What the machine said on its console, where its cloud knows it.
    async fn last_words(&self, host: &Host, machine: &Machine) -> String {
        let Ok(driver) = self.driver(host) else {
            return String::new();
        };
        match driver.console(&machine.id).await {
            Ok(said) if !said.is_empty() => format!("; the end of its console: {said}"),
            _ => String::new(),
        }
    }

    /// The build that agents should be of: ours.
    pub(super) async fn binary(&self) -> Result<String, Error> {
        let hash = async || {
            let hash = skysail_reconcile::program::hash().await;
            hash.map_err(|e| Error::Transient(e.to_string()))
        };
        self.binary.get_or_try_init(hash).await.cloned()
    }

    /// Containers that are on it, or on their way from or to it.
    pub(super) fn containers(&self, host: &Host) -> Vec<String> {
        let name = host.name_any();
        let full = |namespace: Option<String>, name: &str| {
            format!("{}/{name}", namespace.unwrap_or_default())
        };
        let containers = self.context.containers.list();
        let on = containers.iter().filter_map(|c| {
            let here = c.status.as_ref()?.host.as_deref() == Some(&name);
            here.then(|| full(c.namespace(), &c.name_any()))
        });
        let migrations = self.context.migrations.list();
        let moving = migrations.iter().filter_map(|m| {
            let status = m.status.as_ref().filter(|s| !s.phase.is_finished())?;
            let ends = [status.source.as_deref(), status.target.as_deref()];
            let here = ends.contains(&Some(&name));
            here.then(|| full(m.namespace(), &m.spec.container))
        });
        let names: BTreeSet<String> = on.chain(moving).collect();
        names.into_iter().collect()
    }
}
