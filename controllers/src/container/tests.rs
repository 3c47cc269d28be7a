//! Laws.

use super::claim::{Addresses, choose};
use super::plan::{Observed, Plan, orphans, plan, status};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;
use skysail_reconcile::{Next, Steps};
use skysail_schemas::container::{AGENT_FINALIZER, Attachment};
use skysail_schemas::{Container, Host, Network, Port};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn container(networks: serde_json::Value) -> Container {
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
        "metadata": {"name": "c1", "namespace": "acme", "uid": "u1"},
        "spec": {"image": "debian", "instanceType": "small", "networks": networks}
    }))
    .unwrap()
}

fn network(name: &str, cidr: &str) -> Arc<Network> {
    let value = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Network",
        "metadata": {"name": name, "namespace": "acme", "uid": name},
        "spec": {"cidr": cidr}, "status": {"vni": 7}
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

fn seen(networks: &[Arc<Network>], ports: &[Port]) -> Observed {
    let by_name = |n: &Arc<Network>| (n.metadata.name.clone().unwrap(), n.clone());
    Observed {
        networks: networks.iter().map(by_name).collect(),
        ports: ports.iter().cloned().map(Arc::new).collect(),
        ..Observed::default()
    }
}

fn on(host: &str, mut container: Container, epoch: u64) -> Container {
    let mut status = container.status.take().unwrap_or_default();
    (status.host, status.epoch) = (Some(host.to_owned()), epoch);
    container.status = Some(status);
    container
}

#[test]
fn what_is_claimed_and_told_plans_nothing() {
    let container = container(json!([{"name": "a"}, {"name": "b", "address": "10.0.1.9"}]));
    let networks = [network("a", "10.0.0.0/24"), network("b", "10.0.1.0/24")];
    let first = plan(&container, &seen(&networks, &[]), NOW);
    let names: Vec<_> = first
        .claim
        .iter()
        .map(|p| p.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["a.10.0.0.2", "b.10.0.1.9"]);
    let after = seen(&networks, &first.claim);
    assert_eq!(plan(&container, &after, NOW), Plan::default());
    let told = status(
        &container,
        &after,
        &Plan::default(),
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(told.next, Next::OnChange);
    let mut container = container;
    container.status = Some(told.status.clone());
    let again = status(
        &container,
        &after,
        &Plan::default(),
        &Steps::default(),
        Timestamp::now(),
    );
    assert_eq!(
        again.status, told.status,
        "a repeated turn changed the status"
    );
}

#[test]
fn a_move_changes_the_location_and_nothing_else() {
    let networks = [network("a", "10.0.0.0/24")];
    let container = container(json!([{"name": "a"}]));
    let port = plan(&container, &seen(&networks, &[]), NOW).claim.remove(0);
    let moved = on("h1", container, 3);
    let mut observed = seen(&networks, std::slice::from_ref(&port));
    let host = json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Host", "metadata": {"name": "h1"},
        "spec": {"cloud": "east"}, "status": {"addresses": {"internal": "10.1.0.4", "external": "198.18.0.9"}}
    });
    observed.host = Some(Arc::new(serde_json::from_value::<Host>(host).unwrap()));
    let changed = plan(&moved, &observed, NOW);
    assert_eq!((changed.claim.len(), changed.release.len()), (0, 0));
    let (_, wanted) = &changed.update[0];
    let location = wanted.location.clone().unwrap();
    assert_eq!(
        (
            location.host.as_str(),
            location.epoch,
            location.cloud.as_deref()
        ),
        ("h1", 3, Some("east"))
    );
    let without = skysail_schemas::PortSpec {
        location: None,
        ..wanted.clone()
    };
    assert_eq!(without, port.spec);
}

#[test]
fn addresses_go_back_only_when_the_host_has_let_go() {
    let networks = [network("a", "10.0.0.0/24")];
    let mut container = on("h1", container(json!([{"name": "a"}])), 1);
    let observed = seen(
        &networks,
        &plan(&container, &seen(&networks, &[]), NOW).claim,
    );
    container.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    container.metadata.finalizers = Some(vec![AGENT_FINALIZER.to_owned()]);
    assert_eq!(plan(&container, &observed, NOW), Plan::default());
    container.metadata.finalizers = None;
    let last = plan(&container, &observed, NOW);
    assert_eq!(last.release, observed.ports);
    let told = status(
        &container,
        &observed,
        &last,
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(told.next, Next::Finished);
}

#[test]
fn networks_that_overlap_are_refused_with_the_field() {
    let networks = [network("a", "10.0.0.0/16"), network("b", "10.0.1.0/24")];
    let container = container(json!([{"name": "a"}, {"name": "b"}]));
    let observed = seen(&networks, &[]);
    let planned = plan(&container, &observed, NOW);
    assert_eq!(planned.claim.len(), 1);
    let told = status(
        &container,
        &observed,
        &planned,
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    let networked = told
        .status
        .conditions
        .iter()
        .find(|c| c.type_ == "Networked")
        .unwrap();
    assert_eq!(networked.reason, "NetworksOverlap");
    assert!(
        networked
            .message
            .starts_with("spec.networks[1].name: 10.0.1.0/24"),
        "{}",
        networked.message
    );
}

#[test]
fn only_ports_without_owner_are_orphans() {
    let container = container(json!([{"name": "a"}]));
    let own = Arc::new(
        plan(&container, &seen(&[network("a", "10.0.0.0/24")], &[]), NOW)
            .claim
            .remove(0),
    );
    assert_eq!(
        orphans(std::slice::from_ref(&own), &[Arc::new(container)]),
        []
    );
    assert_eq!(orphans(std::slice::from_ref(&own), &[]), [own]);
}

proptest! {
    #[test]
    fn an_automatic_address_is_usable_and_nobodys(taken in proptest::collection::btree_set(2u8..30, 0..29), asked in proptest::collection::btree_set(2u8..30, 0..5), ahead in 0usize..4) {
        let address = |a: &u8| Ipv4Addr::new(10, 0, 0, *a);
        let addresses = Addresses {
            taken: taken.iter().map(|a| (address(a), "x".to_owned())).collect::<BTreeMap<_, _>>(),
            asked_for: asked.iter().map(address).collect::<BTreeSet<_>>(),
            ahead,
        };
        let wish = Attachment { name: "a".into(), address: None };
        let free: Vec<u8> = (2..31).filter(|a| !taken.contains(a) && !asked.contains(a)).collect();
        match choose("spec.networks[0]", &wish, &network("a", "10.0.0.0/27"), &addresses, None) {
            Ok(chosen) => prop_assert_eq!(chosen, address(&free[ahead])),
            Err(refusal) => {
                prop_assert_eq!(refusal.reason, "AddressesExhausted");
                prop_assert!(free.len() <= ahead);
            }
        }
    }
}

#[test]
fn a_new_container_claims_its_addresses_once_placement_looked_at_it_or_did_not_in_time() {
    let networks = [network("a", "10.0.0.0/24")];
    let observed = seen(&networks, &[]);
    let mut new = container(json!([{"name": "a"}]));
    new.metadata.creation_timestamp = Some(Time(NOW));
    let later = NOW + SignedDuration::from_secs(3);
    let waits = plan(&new, &observed, NOW);
    assert_eq!(waits, Plan::default());
    let outcome = status(&new, &observed, &waits, &Steps::default(), NOW);
    assert!(matches!(outcome.next, Next::After(_)), "{:?}", outcome.next);
    assert_eq!(outcome.status, Default::default());
    assert_eq!(plan(&new, &observed, later).claim.len(), 1);
    let bound = on("h1", new.clone(), 1);
    let claimed = &plan(&bound, &observed, NOW).claim[0];
    assert!(claimed.spec.location.is_some(), "in one write");
    let mut refused = new;
    let scheduled = skysail_schemas::condition::Fact::no("Scheduled", "NoRoom", "");
    let status = refused.status.get_or_insert_default();
    skysail_schemas::condition::merge(&mut status.conditions, &[scheduled], None, NOW);
    assert_eq!(plan(&refused, &observed, NOW).claim.len(), 1);
}
