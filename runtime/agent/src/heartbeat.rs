//! Tells the control plane that this host lives (a Lease) and what it has and uses
//! (its Host's status, only when that changed by more than noise).

use crate::VERSION;
use crate::container::site::Site;
use crate::usage::machine::{self, Meter};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use serde_json::json;
use skysail_reconcile::{
    CancellationToken, Error, Made, create_if_absent, get, patch_meta, write_status,
};
use skysail_schemas::host::{Host, HostStatus, HostUsage};
use skysail_schemas::{SYSTEM_NAMESPACE, condition, identity};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the Lease is renewed.
const RENEW: Duration = Duration::from_secs(4);
/// How long others may believe a Lease after its last renewal.
const LEASE_SECONDS: i32 = 20;
/// How often use is measured. What changed by more than noise is reported at once: a rebalancer counts seconds.
const MEASURE: Duration = Duration::from_secs(2);
/// How often all the rest is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Changes that come within this time of each other are reported together.
const TOGETHER: Duration = Duration::from_millis(500);
/// The longest time without a report.
const REPORT: SignedDuration = SignedDuration::from_secs(60);
/// Field manager of its writes.
const NAME: &str = "agent";

/// The sign of life of one host.
pub struct Heartbeat {
    host: String,
    client: kube::Client,
    site: Arc<Site>,
    data_dir: PathBuf,
}

impl Heartbeat {
    /// A heartbeat for `host`.
    pub fn new(host: String, client: kube::Client, site: Arc<Site>, data_dir: PathBuf) -> Self {
        Self {
            host,
            client,
            site,
            data_dir,
        }
    }

    /// Renews the Lease until `shutdown`.
    pub async fn renew(&self, shutdown: CancellationToken) {
        let mut lease = None;
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            lease = match tokio::time::timeout(RENEW * 2, self.beat(lease.take())).await {
                Ok(Ok(renewed)) => Some(renewed),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the lease could not be renewed");
                    None
                }
                Err(_) => None,
            };
        }
    }

    async fn beat(&self, known: Option<Lease>) -> Result<Lease, Error> {
        let now = MicroTime(Timestamp::now());
        let lease = match known {
            Some(lease) => lease,
            None => match get::<Lease>(&self.client, Some(SYSTEM_NAMESPACE), &self.host).await? {
                Some(lease) => lease,
                None => match create_if_absent(&self.client, NAME, &self.new_lease(&now)).await? {
                    Made::New(lease) => return Ok(lease),
                    Made::Taken(lease) => lease,
                },
            },
        };
        let spec = json!({ "holderIdentity": identity::host_user(&self.host), "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now });
        patch_meta(&self.client, NAME, &lease, json!({ "spec": spec })).await
    }

    fn new_lease(&self, now: &MicroTime) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(identity::host_user(&self.host)),
            lease_duration_seconds: Some(LEASE_SECONDS),
            acquire_time: Some(now.clone()),
            renew_time: Some(now.clone()),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta {
            name: Some(self.host.clone()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        };
        Lease {
            metadata,
            spec: Some(spec),
        }
    }

    /// Reports what the host has and uses until `shutdown`.
    pub async fn report(&self, shutdown: CancellationToken) {
        let build = skysail_reconcile::program::hash().await;
        let build = build
            .inspect_err(|error| tracing::warn!(%error, "this program cannot be told from others"))
            .ok();
        let mut meter = Meter::new(self.site.version);
        let (mut images, mut running) = (self.site.images.changed(), self.site.running());
        let mut policies = self.site.plane.policies();
        let mut ticks = tokio::time::interval(MEASURE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last: Option<(Instant, HostUsage)> = None;
        loop {
            let mut measured = false;
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => measured = true,
                _ = images.changed() => {}
                // A plane that never has any is not waited for.
                Ok(()) = policies.changed() => {}
                _ = running.changed() => tokio::time::sleep(TOGETHER).await,
            }
            running.mark_unchanged();
            policies.mark_unchanged();
            let usage = meter.read(&self.data_dir);
            let told = last.as_ref().filter(|(at, _)| at.elapsed() < LOOK);
            if measured && told.is_some_and(|(_, old)| !is_far(Some(old), Some(&usage))) {
                continue;
            }
            if told.is_some_and(|(_, old)| old.cpu.0.abs_diff(usage.cpu.0) > 250) {
                // Whose use it is.
                self.site.look_at_all();
            }
            last = Some((Instant::now(), usage.clone()));
            if let Err(error) = self.tell(usage, &build).await {
                tracing::debug!(%error, "the host could not be reported");
                last = None;
            }
        }
    }

    async fn tell(&self, usage: HostUsage, build: &Option<String>) -> Result<(), Error> {
        let Some(host) = get::<Host>(&self.client, None, &self.host).await? else {
            return Ok(());
        };
        let old = host.status.clone().unwrap_or_default();
        let capacity = machine::capacity(self.site.version, &self.data_dir);
        let mut seen = HostStatus {
            capacity: Some(capacity),
            allocatable: Some(machine::allocatable(capacity)),
            usage: Some(usage),
            containers: *self.site.running().borrow(),
            datapath: self.site.plane.datapath().or_else(|| old.datapath.clone()),
            kernel: machine::kernel(),
            agent_version: Some(VERSION.to_owned()),
            agent_build: build.clone(),
            images: self.site.images.present(),
            policies: self.site.plane.policies().borrow().clone(),
            ..old.clone()
        };
        let now = Timestamp::now();
        let facts = [
            self.site.layers.fact(),
            crate::checkpoint::host_fact().await,
        ];
        condition::merge(&mut seen.conditions, &facts, host.metadata.generation, now);
        match told(&old, seen, now) {
            Some(new) => write_status(&self.client, NAME, &host, &new)
                .await
                .map(drop),
            None => Ok(()),
        }
    }
}

/// What to report after `old`, given what is `seen`: none where nothing changed by more than noise.
fn told(old: &HostStatus, mut seen: HostStatus, now: Timestamp) -> Option<HostStatus> {
    let since = old.last_report.as_ref().map(|t| now.duration_since(t.0));
    if since.is_some_and(|s| s < REPORT) && !is_far(old.usage.as_ref(), seen.usage.as_ref()) {
        seen.usage.clone_from(&old.usage);
        if seen == *old {
            return None;
        }
    }
    seen.last_report = Some(Time(now));
    Some(seen)
}

/// Whether two readings differ by more than noise.
fn is_far(old: Option<&HostUsage>, new: Option<&HostUsage>) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return old != new;
    };
    let far = |a: u64, b: u64, least: u64| a.abs_diff(b) > least.max(a / 5);
    let pressure = |a: Option<u32>, b: Option<u32>| a.unwrap_or(0).abs_diff(b.unwrap_or(0)) > 1000;
    far(old.cpu.0, new.cpu.0, 250)
        || far(old.memory.0, new.memory.0, 64 << 20)
        || far(old.disk.0, new.disk.0, 256 << 20)
        || pressure(old.cpu_pressure, new.cpu_pressure)
        || pressure(old.memory_pressure, new.memory_pressure)
        || pressure(old.io_pressure, new.io_pressure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skysail_schemas::quantity::{Bytes, Cpu};

    fn status(cpu: u64, at: Timestamp) -> HostStatus {
        let usage = HostUsage {
            cpu: Cpu(cpu),
            memory: Bytes(1 << 30),
            ..HostUsage::default()
        };
        HostStatus {
            usage: Some(usage),
            last_report: Some(Time(at)),
            ..HostStatus::default()
        }
    }

    #[test]
    fn noise_is_not_reported_and_a_change_is() {
        let (t0, t1) = (
            Timestamp::UNIX_EPOCH,
            Timestamp::UNIX_EPOCH + SignedDuration::from_secs(10),
        );
        let old = status(1000, t0);
        assert_eq!(told(&old, status(1100, t0), t1), None);
        assert_eq!(
            told(&old, status(1900, t0), t1)
                .and_then(|s| s.usage)
                .map(|u| u.cpu),
            Some(Cpu(1900))
        );
        let image = HostStatus {
            images: vec!["sha256:1".into()],
            ..status(1000, t0)
        };
        assert!(told(&old, image, t1).is_some());
    }

    #[test]
    fn a_quiet_host_is_still_reported_now_and_then() {
        let t0 = Timestamp::UNIX_EPOCH;
        let old = status(1000, t0);
        assert!(told(&old, old.clone(), t0 + REPORT).is_some());
    }
}
