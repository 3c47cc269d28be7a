//! The quickstart's own proof, made from inside the containers with their own tools:
//! within a tenant everything answers, between tenants nothing does, and one of them moves
//! to another cloud while it is talked with.

mod moves;

use super::watch::Journal;
use crate::session::{self, Finished};
use anyhow::{Result, bail, ensure};
use futures::{StreamExt, stream};
use skysail_schemas::Container;
use std::collections::BTreeMap;

/// A container that takes part.
#[derive(Clone)]
struct Member {
    tenant: String,
    name: String,
    address: String,
    domain: String,
}

async fn members(client: &kube::Client) -> Result<Vec<Member>> {
    let networks = kube::Api::<skysail_schemas::Network>::all(client.clone())
        .list(&Default::default())
        .await?;
    let domains: BTreeMap<(String, String), String> = networks
        .items
        .into_iter()
        .map(|n| {
            (
                (
                    n.metadata.namespace.unwrap_or_default(),
                    n.metadata.name.unwrap_or_default(),
                ),
                n.spec.dns_domain,
            )
        })
        .collect();
    let containers = kube::Api::<Container>::all(client.clone())
        .list(&Default::default())
        .await?;
    Ok(containers
        .items
        .into_iter()
        .filter_map(|c| {
            let address = c.status.as_ref()?.addresses.first()?.clone();
            let tenant = c.metadata.namespace?;
            let domain = domains
                .get(&(tenant.clone(), address.network.clone()))?
                .clone();
            Some(Member {
                tenant,
                name: c.metadata.name?,
                address: address.address.to_string(),
                domain,
            })
        })
        .collect())
}

async fn sh(client: &kube::Client, member: &Member, script: &str) -> Result<Finished> {
    session::run(
        client,
        &member.tenant,
        &member.name,
        &["sh".into(), "-c".into(), script.into()],
    )
    .await
}

/// Shows it, or says what does not hold.
///
/// # Errors
/// When a packet that should pass does not, one passes that should not, or a move fails.
pub async fn run(client: &kube::Client, journal: &Journal) -> Result<()> {
    let members = members(client).await?;
    let tenants: std::collections::BTreeSet<_> = members.iter().map(|m| m.tenant.clone()).collect();
    ensure!(
        tenants.len() >= 2,
        "the proof needs containers of two tenants; found {tenants:?}"
    );
    let inside = connected(client, &members).await?;
    journal.say(format!("within a tenant: {inside} of {inside} pings answered, by address and by name, across both clouds"));
    let outside = isolated(client, &members).await?;
    journal.say(format!("between tenants: nothing passed; {outside} connections to an address that both use met the caller's own tenant"));
    moves::run(client, &members, journal).await
}

/// Every container pings every other of its tenant by address, name and full name.
async fn connected(client: &kube::Client, members: &[Member]) -> Result<usize> {
    let checks = members.iter().map(|from| async move {
        let targets: Vec<String> = members
            .iter()
            .filter(|to| to.tenant == from.tenant)
            .flat_map(|to| [to.address.clone(), to.name.clone(), format!("{}.{}", to.name, to.domain)])
            .collect();
        // One session per container; the first failing target ends it and is named.
        let script = format!("for t in {}; do ping -q -c 1 -W 2 $t >/dev/null 2>&1 || ping -q -c 1 -W 2 $t >/dev/null 2>&1 || {{ echo $t; exit 1; }}; done", targets.join(" "));
        let done = sh(client, from, &script).await?;
        if done.code != 0 {
            bail!("{}/{} cannot ping {}{}", from.tenant, from.name, done.stdout.trim(), done.stderr.trim());
        }
        Ok(targets.len())
    });
    let counts: Vec<Result<usize>> = stream::iter(checks).buffer_unordered(4).collect().await;
    counts.into_iter().sum()
}

/// An address that two tenants use is served in each by its own container, which answers
/// with its tenant's name; everybody must meet the own one.
async fn isolated(client: &kube::Client, members: &[Member]) -> Result<usize> {
    let shared = members
        .iter()
        .find(|a| {
            members
                .iter()
                .any(|b| b.tenant != a.tenant && b.address == a.address)
        })
        .map(|a| a.address.clone());
    let Some(shared) = shared else {
        bail!("no address is used by two tenants, so isolation cannot be shown")
    };
    for server in members.iter().filter(|m| m.address == shared) {
        let script = format!(
            "echo {} >/run/who; setsid sh -c 'for i in $(seq 200); do timeout 30 nc -l -p 7 -q 0 </run/who; done' >/dev/null 2>&1 </dev/null &",
            server.tenant
        );
        let done = sh(client, server, &script).await?;
        ensure!(
            done.code == 0,
            "{}/{}: {}",
            server.tenant,
            server.name,
            done.stderr
        );
    }
    let mut met = 0;
    for caller in members.iter().filter(|m| m.address != shared) {
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do a=$(nc -w 1 {shared} 7 </dev/null) && [ -n \"$a\" ] && break; sleep 0.1; done; echo $a"
        );
        let done = sh(client, caller, &script).await?;
        ensure!(
            done.stdout.trim() == caller.tenant,
            "{}/{} connected to {shared} and met {:?}, not its own tenant's container",
            caller.tenant,
            caller.name,
            done.stdout.trim()
        );
        met += 1;
    }
    Ok(met)
}
