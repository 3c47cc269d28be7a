//! Inside a tenant everything reaches everything, across clouds; between tenants nothing passes.

use crate::Case;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skysail_e2e::{Cluster, until};
use std::time::Duration;

pub const CASES: &[Case] = &[
    (
        "containers_of_both_tenants_are_spread_over_both_clouds",
        spread,
    ),
    ("tenants_use_the_same_addresses", same_addresses),
    (
        "containers_of_a_tenant_reach_one_another_by_address_and_by_name",
        reach,
    ),
    ("the_gateway_answers_ping", gateway),
    ("nothing_passes_between_tenants", isolated),
    ("limits_of_the_instance_type_are_enforced", limits),
    ("the_container_is_unprivileged", unprivileged),
];

pub fn containers(cluster: &Cluster) -> Result<Vec<(String, String, String, String)>> {
    let list: Value = serde_json::from_str(
        &cluster
            .kubectl(&["get", "containers", "-A", "-o", "json"])?
            .ok()?,
    )?;
    let text = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_str).map(str::to_owned);
    list["items"]
        .as_array()
        .context("no items")?
        .iter()
        .map(|c| {
            Ok((
                text(c, "/metadata/namespace").context("namespace")?,
                text(c, "/metadata/name").context("name")?,
                text(c, "/status/addresses/0/address").context("address")?,
                text(c, "/status/host").context("host")?,
            ))
        })
        .collect()
}

fn spread(cluster: &Cluster) -> Result<()> {
    for tenant in ["acme", "globex"] {
        let hosts: std::collections::BTreeSet<_> = containers(cluster)?
            .into_iter()
            .filter(|c| c.0 == tenant)
            .map(|c| c.3)
            .collect();
        ensure!(hosts.len() == 4, "{tenant} runs on {hosts:?} only");
    }
    Ok(())
}

fn same_addresses(cluster: &Cluster) -> Result<()> {
    let of = |tenant: &str| -> Result<Vec<_>> {
        let mut found: Vec<_> = containers(cluster)?
            .into_iter()
            .filter(|c| c.0 == tenant)
            .map(|c| c.2)
            .collect();
        found.sort();
        Ok(found)
    };
    let (acme, globex) = (of("acme")?, of("globex")?);
    ensure!(
        acme.contains(&"10.0.0.10".to_owned()) && globex.contains(&"10.0.0.10".to_owned()),
        "{acme:?} {globex:?}"
    );
    Ok(())
}

fn reach(cluster: &Cluster) -> Result<()> {
    let all = containers(cluster)?;
    for (namespace, from, ..) in &all {
        for (_, to, address, _) in all.iter().filter(|c| c.0 == *namespace) {
            for target in [
                address.clone(),
                to.clone(),
                format!("{to}.{namespace}.internal"),
            ] {
                until(
                    &format!("{namespace}/{from} to ping {target}"),
                    Duration::from_secs(10),
                    || {
                        cluster
                            .exec(namespace, from, &["ping", "-c", "1", "-W", "1", &target])?
                            .ok()
                    },
                )?;
            }
        }
    }
    Ok(())
}

fn gateway(cluster: &Cluster) -> Result<()> {
    cluster
        .exec("acme", "db", &["ping", "-c", "2", "-W", "1", "10.0.0.1"])?
        .ok()
        .map(drop)
}

fn isolated(cluster: &Cluster) -> Result<()> {
    // Both tenants' databases have the same address. Each answers with its own name: whoever
    // connects must meet the one of its own tenant, and an address that only the other tenant
    // uses must meet nobody.
    cluster.apply(
        "apiVersion: skysail.dev/v1alpha1\nkind: Container\nmetadata: {name: only-here, namespace: acme}\n\
         spec: {image: debian, instanceType: small, networks: [{name: private, address: 10.0.0.77}]}\n",
    )?.ok()?;
    cluster
        .kubectl(&[
            "wait",
            "-n",
            "acme",
            "container/only-here",
            "--for=condition=Ready",
            "--timeout=60s",
        ])?
        .ok()?;
    cluster
        .exec(
            "acme",
            "web-0",
            &["ping", "-c", "2", "-W", "1", "10.0.0.77"],
        )?
        .ok()?;
    for container in ["web-0", "web-1", "web-2", "db"] {
        let met = cluster.exec(
            "globex",
            container,
            &["ping", "-c", "3", "-i", "0.2", "-W", "1", "10.0.0.77"],
        )?;
        ensure!(
            met.code == Some(1),
            "globex/{container} reached acme's 10.0.0.77:\n{}",
            met.stdout
        );
    }
    for tenant in ["acme", "globex"] {
        cluster.exec(tenant, "db", &["sh", "-c", &format!("echo {tenant} > /tmp/who; setsid sh -c 'while true; do nc -l -p 7777 -q 0 < /tmp/who; done' >/dev/null 2>&1 &")])?.ok()?;
    }
    for tenant in ["acme", "globex"] {
        for container in ["web-0", "web-1", "web-2"] {
            let (answer, _) = until(
                &format!("{tenant}/{container} to be answered"),
                Duration::from_secs(10),
                || {
                    let text = cluster
                        .exec(tenant, container, &["nc", "-w", "2", "10.0.0.10", "7777"])?
                        .ok()?;
                    ensure!(!text.is_empty(), "no answer yet");
                    Ok(text)
                },
            )?;
            ensure!(
                answer.trim() == tenant,
                "{tenant}/{container} met {answer:?}"
            );
        }
    }
    cluster
        .kubectl(&["delete", "container", "-n", "acme", "only-here"])?
        .ok()
        .map(drop)
}

fn limits(cluster: &Cluster) -> Result<()> {
    // Allocating more than the instance type's memory must end in the container, not on the host.
    let hungry = "head -c 400M /dev/zero | tail | wc -c";
    let output = cluster.exec("acme", "web-0", &["sh", "-c", hungry])?;
    ensure!(
        output.stdout.trim() != (400u64 << 20).to_string(),
        "400M of memory could be taken in a container of 192Mi"
    );
    let object = cluster.get("container", "acme", "web-0")?;
    ensure!(
        object["status"]["phase"] == "Running",
        "the container did not survive its own memory limit"
    );
    Ok(())
}

fn unprivileged(cluster: &Cluster) -> Result<()> {
    let map = cluster
        .exec("acme", "web-0", &["cat", "/proc/self/uid_map"])?
        .ok()?;
    let fields: Vec<_> = map.split_whitespace().collect();
    ensure!(
        fields.first() == Some(&"0") && fields.get(1) != Some(&"0"),
        "uid map {map:?}"
    );
    Ok(())
}
