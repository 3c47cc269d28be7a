//! Addresses and VNIs: never twice, never lost, whatever happens at once or is killed.

#![allow(clippy::unwrap_used)] // A test says by panicking what went wrong.

mod world;

use futures::future::join_all;
use kube::ResourceExt;
use serde_json::json;
use skysail_schemas::{Container, Network, Port};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use world::*;

fn on(network: &str) -> serde_json::Value {
    json!([{ "name": network }])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_gets_a_vni_and_gives_it_back() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    let networks = world.tenant::<Network>();
    world.network("web", "10.0.0.0/24").await;
    let ready = wait(&networks, "web", "allocated", |n| {
        n.status.as_ref().is_some_and(|s| s.vni.is_some())
    })
    .await;
    let status = ready.status.unwrap();
    assert_eq!(
        (status.gateway, status.addresses, status.addresses_in_use),
        (Some(Ipv4Addr::new(10, 0, 0, 1)), 253, 0)
    );
    let segments = world.segments().await;
    assert_eq!(
        (segments.len(), Some(segments[0].spec.vni)),
        (1, status.vni)
    );
    delete(&networks, "web").await;
    gone(&networks, "web").await;
    assert_eq!(world.segments().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_in_use_says_who_uses_it_and_goes_after_them() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    let networks = world.tenant::<Network>();
    world.network("web", "10.0.0.0/24").await;
    world.container("c1", on("web")).await;
    let containers = world.tenant::<Container>();
    wait(&containers, "c1", "networked", |c| {
        networked(c).is_some_and(|n| n.0)
    })
    .await;
    delete(&networks, "web").await;
    let blocked = wait(&networks, "web", "blocked", |n| {
        n.status.as_ref().is_some_and(|s| {
            s.conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.reason == "InUse")
        })
    })
    .await;
    let message = &blocked
        .status
        .unwrap()
        .conditions
        .iter()
        .find(|c| c.type_ == "Ready")
        .unwrap()
        .message
        .clone();
    assert!(message.contains("c1 (10.0.0.2)"), "{message}");
    world.container("late", on("web")).await;
    wait(&containers, "late", "refused", |c| {
        has_reason(networked(c), "NetworkDeleting")
    })
    .await;
    delete(&containers, "c1").await;
    gone(&containers, "c1").await;
    gone(&networks, "web").await;
    assert_eq!(
        (world.segments().await.len(), world.ports().await.len()),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_created_at_once_get_the_lowest_addresses_each_one() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    world.network("web", "10.0.0.0/24").await;
    let names: Vec<String> = (0..40).map(|i| format!("c{i}")).collect();
    join_all(names.iter().map(|n| world.container(n, on("web")))).await;
    let containers = world.tenant::<Container>();
    let mut seen = BTreeSet::new();
    for name in &names {
        let container = wait(&containers, name, "networked", |c| {
            networked(c).is_some_and(|n| n.0)
        })
        .await;
        seen.insert(container.status.unwrap().addresses[0].address);
    }
    let expected: BTreeSet<Ipv4Addr> = (2..42).map(|i| Ipv4Addr::new(10, 0, 0, i)).collect();
    assert_eq!(seen, expected);
    assert_eq!(world.ports().await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_may_use_the_same_addresses_and_get_different_vnis() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    world.namespace("globex").await;
    let other = kube::Api::<Network>::namespaced(world.client.clone(), "globex");
    world.network("web", "10.0.0.0/24").await;
    create(
        &other,
        json!({"metadata": {"name": "web"}, "spec": {"cidr": "10.0.0.0/24"}}),
    )
    .await;
    let has_vni = |n: &Network| n.status.as_ref().is_some_and(|s| s.vni.is_some());
    let a = wait(&world.tenant::<Network>(), "web", "allocated", has_vni).await;
    let b = wait(&other, "web", "allocated", has_vni).await;
    assert_ne!(a.status.unwrap().vni, b.status.unwrap().vni);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_manifest_gets_wrong_is_said_and_heals_by_itself() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    let containers = world.tenant::<Container>();
    world.container("c1", on("web")).await;
    let refused = wait(&containers, "c1", "refused", |c| {
        has_reason(networked(c), "NetworkNotFound")
    })
    .await;
    assert!(
        networked(&refused)
            .unwrap()
            .2
            .starts_with("spec.networks[0].name: there is no Network \"web\"")
    );
    world.network("web", "10.0.0.0/29").await;
    let healed = wait(&containers, "c1", "networked", |c| {
        networked(c).is_some_and(|n| n.0)
    })
    .await;
    assert_eq!(
        healed.status.unwrap().addresses[0].address,
        Ipv4Addr::new(10, 0, 0, 2)
    );
    for (name, address, reason) in [
        ("outside", "10.0.1.5", "AddressNotUsable"),
        ("gateway", "10.0.0.1", "AddressNotUsable"),
        ("taken", "10.0.0.2", "AddressTaken"),
    ] {
        world
            .container(name, json!([{ "name": "web", "address": address }]))
            .await;
        let refused = wait(&containers, name, "refused", |c| {
            has_reason(networked(c), reason)
        })
        .await;
        assert!(
            networked(&refused)
                .unwrap()
                .2
                .starts_with("spec.networks[0].address: ")
        );
    }
    delete(&containers, "c1").await;
    let healed = wait(&containers, "taken", "healed", |c| {
        networked(c).is_some_and(|n| n.0)
    })
    .await;
    assert_eq!(
        healed.status.unwrap().addresses[0].address,
        Ipv4Addr::new(10, 0, 0, 2)
    );
    for i in 0..5 {
        world.container(&format!("more{i}"), on("web")).await;
    }
    // 10.0.0.0/29 has five; one is taken and one container of five finds none.
    wait(&containers, "more4", "exhausted", |c| {
        has_reason(networked(c), "AddressesExhausted")
    })
    .await;
    delete(&containers, "more0").await;
    wait(&containers, "more4", "healed", |c| {
        networked(c).is_some_and(|n| n.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_automatic_address_is_never_one_that_another_asks_for() {
    let world = World::new().await;
    world.network("web", "10.0.0.0/24").await;
    world.container("auto", on("web")).await;
    world
        .container("fixed", json!([{ "name": "web", "address": "10.0.0.2" }]))
        .await;
    let _controllers = world.controllers(&[]);
    let containers = world.tenant::<Container>();
    for (name, address) in [("fixed", 2), ("auto", 3)] {
        let c = wait(&containers, name, "networked", |c| {
            networked(c).is_some_and(|n| n.0)
        })
        .await;
        assert_eq!(
            c.status.unwrap().addresses[0].address,
            Ipv4Addr::new(10, 0, 0, address)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_port_comes_back_with_its_address() {
    let world = World::new().await;
    let _controllers = world.controllers(&[]);
    world.network("web", "10.0.0.0/24").await;
    let containers = world.tenant::<Container>();
    for name in ["c1", "c2"] {
        world.container(name, on("web")).await;
        wait(&containers, name, "networked", |c| {
            networked(c).is_some_and(|n| n.0)
        })
        .await;
    }
    let ports = world.tenant::<Port>();
    let before = ports.get("web.10.0.0.3").await.unwrap();
    delete(&containers, "c1").await;
    gone(&containers, "c1").await;
    delete(&ports, "web.10.0.0.3").await;
    let after = wait(&ports, "web.10.0.0.3", "made anew", |p| {
        p.uid() != before.uid()
    })
    .await;
    assert_eq!(after.spec, before.spec);
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_killed_at_any_moment_neither_leak_nor_double_a_claim() {
    let world = World::new().await;
    let containers = world.tenant::<Container>();
    let networks = world.tenant::<Network>();
    for round in 0..12u64 {
        let controllers = world.controllers(&[]);
        world.network(&format!("n{round}"), "10.0.0.0/24").await;
        for i in 0..4 {
            world
                .container(&format!("c{round}-{i}"), on(&format!("n{round}")))
                .await;
        }
        // Killed ever later into the work, so that every step is the last one once.
        tokio::time::timeout(
            std::time::Duration::from_millis(3 * round),
            std::future::pending::<()>(),
        )
        .await
        .unwrap_err();
        controllers.kill().await;
    }
    let _controllers = world.controllers(&[]);
    for round in 0..12 {
        for i in 0..4 {
            wait(&containers, &format!("c{round}-{i}"), "networked", |c| {
                networked(c).is_some_and(|n| n.0)
            })
            .await;
        }
    }
    let (segments, ports) = (world.segments().await, world.ports().await);
    assert_eq!((segments.len(), ports.len()), (12, 48));
    let uids: BTreeSet<_> = segments.iter().map(|s| &s.spec.network_uid).collect();
    assert_eq!(uids.len(), 12, "two VNIs of one network");
    for container in containers.list(&Default::default()).await.unwrap() {
        delete(&containers, &container.name_any()).await;
    }
    for round in 0..12 {
        delete(&networks, &format!("n{round}")).await;
    }
    for round in 0..12 {
        gone(&networks, &format!("n{round}")).await;
    }
    assert_eq!(
        (world.segments().await.len(), world.ports().await.len()),
        (0, 0)
    );
}
