//! The objects that decide where containers run: as they are, and with manifests laid over.

use crate::refusal::explain;
use anyhow::Result;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use skysail_controllers::container_set::plan as set;
use skysail_controllers::placement::snapshot::Objects;
use skysail_schemas::condition::READY;
use skysail_schemas::host::{HostPhase, Resources};
use skysail_schemas::{Container, ContainerSet, Host, MachineType};
use std::sync::Arc;

/// Reads them all.
///
/// # Errors
/// When the server does not answer.
pub async fn read(client: &Client) -> Result<Objects> {
    Ok(Objects {
        hosts: list(client).await?,
        containers: list(client).await?,
        container_sets: list(client).await?,
        images: list(client).await?,
        instance_types: list(client).await?,
        machine_types: list(client).await?,
        clouds: list(client).await?,
        namespaces: list(client).await?,
        migrations: list(client).await?,
    })
}

async fn list<K>(client: &Client) -> Result<Vec<Arc<K>>>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let all = Api::<K>::all(client.clone());
    let list = all.list(&ListParams::default()).await;
    let items = list.map_err(|e| explain(e, K::plural(&())))?.items;
    Ok(items.into_iter().map(Arc::new).collect())
}

/// Lays an object over: `after` takes the place of the object of its name, or (null) `live` goes.
///
/// # Errors
/// When it is not what its kind says; the server has checked it, so this means that the versions differ.
pub fn lay(objects: &mut Objects, live: &Value, after: &Value) -> Result<()> {
    let kind = if after.is_null() { live } else { after };
    let text = |key: &str| kind.get(key).and_then(Value::as_str).unwrap_or_default();
    let ours = text("apiVersion").starts_with("skysail.dev/");
    match text("kind") {
        "Host" if ours => one(&mut objects.hosts, live, after),
        "Container" if ours => one(&mut objects.containers, live, after),
        "ContainerSet" if ours => one(&mut objects.container_sets, live, after),
        "Image" if ours => one(&mut objects.images, live, after),
        "InstanceType" if ours => one(&mut objects.instance_types, live, after),
        "MachineType" if ours => one(&mut objects.machine_types, live, after),
        "Cloud" if ours => one(&mut objects.clouds, live, after),
        "Namespace" => one(&mut objects.namespaces, live, after),
        _ => Ok(()),
    }
}

fn one<K>(all: &mut Vec<Arc<K>>, live: &Value, after: &Value) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned,
{
    let which: K = serde_json::from_value(if after.is_null() { live } else { after }.clone())?;
    let same = |o: &Arc<K>| o.name_any() == which.name_any() && o.namespace() == which.namespace();
    let at = all.iter().position(same);
    match (at, after.is_null()) {
        (Some(at), true) => drop(all.swap_remove(at)),
        (Some(at), false) => {
            // What the system found out about it stays.
            all[at] = Arc::new(which);
        }
        (None, true) => {}
        (None, false) => all.push(Arc::new(which)),
    }
    Ok(())
}

/// What follows by itself: containers of sets come and go, new hosts come up.
/// Answers the hosts that are assumed to come up, and sentences about what cannot be foreseen.
pub fn settle(objects: &mut Objects) -> (Vec<String>, Vec<String>) {
    let mut remarks = vec![];
    sets(objects, &mut remarks);
    let gone: Vec<String> = objects
        .containers
        .iter()
        .filter_map(|c| c.status.as_ref()?.host.clone())
        .filter(|host| !objects.hosts.iter().any(|h| h.name_any() == *host))
        .collect();
    for host in gone.iter().collect::<std::collections::BTreeSet<_>>() {
        let count = gone.iter().filter(|g| *g == host).count();
        remarks.push(format!(
            "hosts/{host} goes while {count} containers are on it: it waits for them; move them first (skysail drain {host})"
        ));
    }
    let mut coming = vec![];
    let types = objects.machine_types.clone();
    for host in &mut objects.hosts {
        if host
            .status
            .as_ref()
            .is_some_and(|s| s.allocatable.is_some())
        {
            continue;
        }
        let kind = host.spec.machine_type.as_ref();
        let kind = kind.and_then(|k| types.iter().find(|t| t.name_any() == *k));
        match kind {
            Some(kind) => {
                *host = Arc::new(come_up(host, kind));
                coming.push(host.name_any());
            }
            None => remarks.push(format!(
                "hosts/{}: how much it can give is not known before it is up, so nothing is planned on it",
                host.name_any()
            )),
        }
    }
    (coming, remarks)
}

fn sets(objects: &mut Objects, remarks: &mut Vec<String>) {
    let all = objects.container_sets.clone();
    let owner_lives = |c: &Arc<Container>| {
        let mut owners = c.owner_references().iter();
        let set = owners.find(|o| o.kind == "ContainerSet");
        set.is_none_or(|o| all.iter().any(|s| s.uid().as_deref() == Some(&o.uid)))
    };
    objects.containers.retain(owner_lives);
    for set in &mut objects.container_sets {
        if set.uid().is_none() {
            let mut named: ContainerSet = (**set).clone();
            let name = format!("{}/{}", set.namespace().unwrap_or_default(), set.name_any());
            named.metadata.uid = Some(name);
            *set = Arc::new(named);
        }
        let mut own = objects.containers.clone();
        own.retain(|c| c.namespace() == set.namespace());
        let plan = set::plan(set, &own);
        let is = |a: &Container, b: &Container| {
            a.name_any() == b.name_any() && a.namespace() == b.namespace()
        };
        for gone in &plan.remove {
            objects.containers.retain(|c| !is(c, gone));
        }
        if !plan.remove.is_empty()
            && plan.create.is_empty()
            && own.len() <= set.spec.replicas as usize
        {
            remarks.push(format!(
                "containersets/{} -n {}: the template changes what a running container cannot take; they are made anew one at a time",
                set.name_any(),
                set.namespace().unwrap_or_default()
            ));
        }
        for (there, wish) in plan.update {
            if let Some(at) = objects.containers.iter_mut().find(|c| is(c, &there)) {
                let mut changed = (**at).clone();
                changed.spec = wish.spec;
                *at = Arc::new(changed);
            }
        }
        objects
            .containers
            .extend(plan.create.into_iter().map(Arc::new));
    }
}

/// The Host as it will be when it is up.
fn come_up(host: &Host, kind: &MachineType) -> Host {
    let capacity = Resources {
        cpu: kind.spec.cpu,
        memory: kind.spec.memory,
        disk: kind.spec.disk,
    };
    let mut up = host.clone();
    let mut status = up.status.unwrap_or_default();
    status.phase = HostPhase::Running;
    status.allocatable = Some(skysail_agent::usage::machine::allocatable(capacity));
    status.conditions.retain(|c| c.type_ != READY);
    let fact = skysail_schemas::condition::Fact::yes(READY, "Assumed", "");
    skysail_schemas::condition::merge(
        &mut status.conditions,
        &[fact],
        None,
        jiff::Timestamp::UNIX_EPOCH,
    );
    up.status = Some(status);
    up
}
