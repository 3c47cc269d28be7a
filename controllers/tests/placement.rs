//! Placement against a real API server: never two hosts, never too full, always explained.

#![allow(clippy::unwrap_used)] // A test says by panicking what went wrong.

mod world;

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use skysail_schemas::{Container, ContainerSet, Host, Port};
use std::collections::BTreeMap;
use world::*;

fn bound(c: &Container) -> bool {
    c.status.as_ref().is_some_and(|s| s.host.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_bound_with_everything_that_its_host_needs() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    world.host("h1", "4", "4Gi").await;
    world.network("web", "10.0.0.0/24").await;
    world.container("c1", json!([{ "name": "web" }])).await;
    let containers = world.tenant::<Container>();
    let c1 = wait(&containers, "c1", "bound and networked", |c| {
        bound(c) && networked(c).is_some_and(|n| n.0)
    })
    .await;
    let status = c1.status.as_ref().unwrap();
    assert_eq!((status.host.as_deref(), status.epoch), (Some("h1"), 1));
    assert!(c1.finalizers().contains(&"skysail.dev/agent".to_owned()));
    assert_eq!(status.allocation.as_ref().unwrap().cpu.to_string(), "500m");
    assert_eq!(status.image.as_ref().unwrap().init, ["/sbin/init"]);
    let port = wait(&world.tenant::<Port>(), "web.10.0.0.2", "located", |p| {
        p.spec.location.is_some()
    })
    .await;
    let location = port.spec.location.unwrap();
    assert_eq!(
        (location.host.as_str(), location.epoch, location.internal),
        ("h1", 1, Some("10.1.0.1".parse().unwrap()))
    );
    delete(&containers, "c1").await;
    let going = wait(&containers, "c1", "going", |c| {
        c.metadata.deletion_timestamp.is_some()
    })
    .await;
    assert!(!going.finalizers().is_empty());
    assert_eq!(
        world.ports().await.len(),
        1,
        "the address went before the host let go of the container"
    );
    world.agent_lets_go("c1").await;
    gone(&containers, "c1").await;
    assert_eq!(world.ports().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_and_heals_by_itself() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    let containers = world.tenant::<Container>();
    let mut odd = container("odd", json!([]));
    odd["spec"]["image"] = json!("other");
    odd["spec"]["instanceType"] = json!("big");
    create::<Container>(&containers, odd).await;
    wait(&containers, "odd", "refused", |c| {
        has_reason(scheduled(c), "InstanceTypeNotFound")
    })
    .await;
    world.instance_type("big", "64", "64Gi").await;
    wait(&containers, "odd", "refused", |c| {
        has_reason(scheduled(c), "ImageNotFound")
    })
    .await;
    world.image("other").await;
    wait(&containers, "odd", "refused", |c| {
        has_reason(scheduled(c), "NoHostFits")
    })
    .await;
    world.host("h1", "4", "4Gi").await;
    let refused = wait(&containers, "odd", "refused", |c| {
        has_reason(scheduled(c), "LargerThanAnyHost")
    })
    .await;
    assert!(
        scheduled(&refused)
            .unwrap()
            .2
            .contains("the largest possible host h1 has 4 cpu")
    );
    world.host("h2", "64", "64Gi").await;
    let placed = wait(&containers, "odd", "bound", bound).await;
    assert_eq!(placed.status.unwrap().host.as_deref(), Some("h2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_never_overfill_a_host_and_the_rest_is_told_why() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    // Room for 4 each by cpu (500m) and for 12 by memory.
    for host in ["h1", "h2", "h3"] {
        world.host(host, "2", "3Gi").await;
    }
    let names: Vec<String> = (0..16).map(|i| format!("c{i}")).collect();
    futures::future::join_all(names.iter().map(|n| world.container(n, json!([])))).await;
    let containers = world.tenant::<Container>();
    let mut hosts: BTreeMap<String, u32> = BTreeMap::new();
    let mut left = vec![];
    for name in &names {
        let c = wait(&containers, name, "decided", |c| {
            bound(c) || has_reason(scheduled(c), "NoHostFits")
        })
        .await;
        match c.status.as_ref().and_then(|s| s.host.clone()) {
            Some(host) => *hosts.entry(host).or_default() += 1,
            None => left.push(c),
        }
    }
    assert_eq!(hosts.values().copied().collect::<Vec<_>>(), [4, 4, 4]);
    // Whichever of the three hosts would have to change.
    let reason = scheduled(&left[0]).unwrap().2;
    let told = "3 hosts: 3 too small in cpu by at least 500m; the least change that would do: 500m less cpu on h";
    assert!(reason.starts_with(told), "{reason}");
    let placed = names
        .iter()
        .find(|n| !left.iter().any(|l| l.name_any() == **n));
    delete(&containers, placed.unwrap()).await;
    world.agent_lets_go(placed.unwrap()).await;
    let any = left.iter().map(|c| {
        let (api, name) = (containers.clone(), c.name_any());
        Box::pin(async move { wait(&api, &name, "bound", bound).await })
    });
    let (healed, ..) = futures::future::select_all(any).await;
    assert_eq!(healed.status.unwrap().epoch, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_killed_at_any_moment_neither_overfill_nor_bind_twice() {
    let world = World::new().await;
    for host in ["h1", "h2"] {
        world.host(host, "3", "8Gi").await;
    }
    let containers = world.tenant::<Container>();
    for round in 0..10u64 {
        let controllers = world.controllers(&["placement"]);
        world.container(&format!("c{round}"), json!([])).await;
        tokio::time::timeout(
            std::time::Duration::from_millis(2 * round),
            std::future::pending::<()>(),
        )
        .await
        .unwrap_err();
        controllers.kill().await;
    }
    let _two = (
        world.controllers(&["placement"]),
        world.controllers(&["container"]),
    );
    for round in 0..10 {
        let c = wait(&containers, &format!("c{round}"), "bound", bound).await;
        assert_eq!(c.status.unwrap().epoch, 1);
    }
    let all = containers.list(&Default::default()).await.unwrap();
    for host in ["h1", "h2"] {
        let here = all
            .iter()
            .filter(|c| c.status.as_ref().unwrap().host.as_deref() == Some(host))
            .count();
        assert!(here <= 6, "{here} of 500m on a host of 3 cores");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_makes_scales_and_removes_its_containers() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    world.host("h1", "8", "8Gi").await;
    let sets = world.tenant::<ContainerSet>();
    let containers = world.tenant::<Container>();
    world.container("web-1", json!([])).await;
    // Bound, so that it is kept by its finalizers when it is deleted below.
    let bound = |c: &Container| c.status.as_ref().is_some_and(|s| s.host.is_some());
    wait(&world.tenant::<Container>(), "web-1", "bound", bound).await;
    let spec = container("x", json!([]))["spec"].clone();
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": spec});
    create::<ContainerSet>(
        &sets,
        json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "template": template}}),
    )
    .await;
    let taken = |s: &ContainerSet| {
        s.status
            .as_ref()
            .is_some_and(|s| s.conditions.iter().any(|c| c.reason == "NameTaken"))
    };
    wait(&sets, "web", "blocked by a foreign container", taken).await;
    wait(&containers, "web-2", "there", |_| true).await;
    let foreign = containers.get("web-1").await.unwrap();
    assert!(foreign.owner_references().is_empty());
    delete(&containers, "web-1").await;
    world.agent_lets_go("web-1").await;
    let own = wait(&containers, "web-1", "made by the set", |c| {
        !c.owner_references().is_empty()
    })
    .await;
    assert_eq!(own.labels().get("app").map(String::as_str), Some("web"));
    sets.patch(
        "web",
        &PatchParams::default(),
        &Patch::Merge(json!({"spec": {"replicas": 1}})),
    )
    .await
    .unwrap();
    for name in ["web-2", "web-1"] {
        world.agent_lets_go(name).await;
        gone(&containers, name).await;
    }
    let running = json!({"spec": {"template": {"spec": {"running": false}}}});
    sets.patch("web", &PatchParams::default(), &Patch::Merge(running))
        .await
        .unwrap();
    wait(&containers, "web-0", "stopped in place", |c| {
        !c.spec.running
    })
    .await;
    delete(&sets, "web").await;
    world.agent_lets_go("web-0").await;
    gone(&containers, "web-0").await;
    gone(&sets, "web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spread_waits_for_hosts_that_are_coming_up() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    world.host("h1", "8", "8Gi").await;
    create::<Host>(
        &world.all(),
        json!({"metadata": {"name": "h2"}, "spec": {"ssh": {"address": "h2"}}}),
    )
    .await;
    let containers = world.tenant::<Container>();
    for name in ["a", "b"] {
        let mut c = container(name, json!([]));
        c["metadata"]["labels"] = json!({"app": "x"});
        c["spec"]["placement"] =
            json!({"spread": [{"topology": "host", "selector": {"matchLabels": {"app": "x"}}}]});
        create::<Container>(&containers, c).await;
    }
    wait(&containers, "a", "bound", bound).await;
    let waits = wait(&containers, "b", "waiting", |c| {
        has_reason(scheduled(c), "NoHostFits")
    })
    .await;
    assert!(
        scheduled(&waits).unwrap().2.contains("still coming up: h2"),
        "{:?}",
        scheduled(&waits)
    );
    let ready = json!({"status": {"phase": "Running", "allocatable": {"cpu": "8", "memory": "8Gi", "disk": "9Gi"}, "conditions": [condition("Ready", "True", "Ready")]}});
    world
        .all::<Host>()
        .patch_status("h2", &PatchParams::default(), &Patch::Merge(ready))
        .await
        .unwrap();
    let placed = wait(&containers, "b", "bound", bound).await;
    assert_eq!(placed.status.unwrap().host.as_deref(), Some("h2"));
}
