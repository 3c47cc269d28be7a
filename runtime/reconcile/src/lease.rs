//! Leadership: of many processes, one runs the thing.
//!
//! A Lease in `skysail-system` names the holder. Every write of it is a
//! compare-and-swap. The holder stops before others may take over: it counts from
//! *before* its last successful renewal, others from when they *saw* it, so no two
//! clocks are compared.

use crate::{Error, api};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use serde_json::json;
use skysail_schemas::SYSTEM_NAMESPACE;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long others wait after they saw the last renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How long the holder goes on after its last renewal.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often the holder renews and others look.
const PERIOD: Duration = Duration::from_secs(2);

/// Runs `work` whenever this process, called `identity`, holds the Lease `name`;
/// drops it when the Lease is lost; gives the Lease back at `shutdown`.
///
/// A process that comes back with the identity of the holder goes on at once, so an
/// identity must never be used by two processes at a time.
pub async fn lead<F: Future<Output = ()>>(
    client: &Client,
    name: &str,
    identity: &str,
    shutdown: CancellationToken,
    work: impl Fn(CancellationToken) -> F,
) {
    let mut seen: Option<(String, Instant)> = None;
    while !shutdown.is_cancelled() {
        match acquire(client, name, identity, &mut seen).await {
            Ok(Some(lease)) => {
                tracing::info!(lease = name, identity, "leads");
                let stop = shutdown.child_token();
                tokio::select! {
                    () = work(stop.clone()) => {
                        release(client, name, identity).await;
                        return;
                    }
                    () = hold(client, lease, identity) => tracing::warn!(lease = name, identity, "lost the lease; stops until it has it again"),
                }
                stop.cancel();
            }
            Ok(None) => {}
            Err(e) => tracing::debug!(lease = name, error = %e, "cannot take the lease"),
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Takes the Lease if it is free, ours, or was not renewed for [`DURATION`] since this process first saw it so.
async fn acquire(
    client: &Client,
    name: &str,
    identity: &str,
    seen: &mut Option<(String, Instant)>,
) -> Result<Option<Lease>, Error> {
    let Some(lease) = api::get::<Lease>(client, Some(SYSTEM_NAMESPACE), name).await? else {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        };
        let now = Some(MicroTime(Timestamp::now()));
        let spec = LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let made = api::create_if_absent(
            client,
            identity,
            &Lease {
                metadata,
                spec: Some(spec),
            },
        )
        .await?;
        return Ok(if let api::Made::New(lease) = made {
            Some(lease)
        } else {
            None
        });
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let version = lease.metadata.resource_version.clone().unwrap_or_default();
    if !holder.is_empty() && holder != identity {
        match seen {
            Some((v, since)) if *v == version && since.elapsed() >= DURATION => {}
            Some((v, _)) if *v == version => return Ok(None),
            _ => {
                *seen = Some((version, Instant::now()));
                return Ok(None);
            }
        }
    }
    let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(holder != identity);
    let now = MicroTime(Timestamp::now());
    let patch = json!({ "spec": { "holderIdentity": identity, "acquireTime": now, "renewTime": now, "leaseTransitions": transitions } });
    match api::patch_meta(client, identity, &lease, patch).await {
        Ok(lease) => Ok(Some(lease)),
        Err(Error::Conflict(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Renews until it cannot be known any more that the Lease is held.
async fn hold(client: &Client, mut lease: Lease, identity: &str) {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(PERIOD).await;
        let begun = Instant::now();
        let patch = json!({ "spec": { "renewTime": MicroTime(Timestamp::now()) } });
        let left = DEADLINE.saturating_sub(renewed.elapsed());
        match tokio::time::timeout(left, api::patch_meta(client, identity, &lease, patch)).await {
            Ok(Ok(new)) => {
                lease = new;
                renewed = begun;
            }
            Ok(Err(Error::Conflict(_) | Error::Refused { .. })) => {
                // An answer to an own write may have been lost: only another holder's name means that it is lost.
                let name = lease.metadata.name.clone().unwrap_or_default();
                match api::get::<Lease>(client, Some(SYSTEM_NAMESPACE), &name).await {
                    Ok(Some(now))
                        if now.spec.as_ref().and_then(|s| s.holder_identity.as_deref())
                            == Some(identity) =>
                    {
                        lease = now
                    }
                    Ok(_) => return,
                    Err(_) => {}
                }
            }
            Ok(Err(_)) => {}
            Err(_) => return,
        }
        if renewed.elapsed() >= DEADLINE {
            return;
        }
    }
}

/// Lets others take over at once.
async fn release(client: &Client, name: &str, identity: &str) {
    let Ok(Some(lease)) = api::get::<Lease>(client, Some(SYSTEM_NAMESPACE), name).await else {
        return;
    };
    if lease
        .spec
        .as_ref()
        .and_then(|s| s.holder_identity.as_deref())
        == Some(identity)
    {
        let _ = api::patch_meta(
            client,
            identity,
            &lease,
            json!({ "spec": { "holderIdentity": "" } }),
        )
        .await;
    }
}
