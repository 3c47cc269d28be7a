//! Laws.

use super::plan::{Observed, Plan, free_vni, orphans, plan, status};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use skysail_reconcile::{Error, Next, Steps};
use skysail_schemas::{Network, Segment, SegmentSpec, segment};
use std::collections::BTreeSet;
use std::sync::Arc;

fn network(uid: &str) -> Network {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Network",
        "metadata": {"name": "web", "namespace": "acme", "uid": uid},
        "spec": {"cidr": "10.0.0.0/24"}
    }))
    .unwrap()
}

fn claim(vni: u32, uid: &str) -> Arc<Segment> {
    let (namespace, network, network_uid) = ("acme".into(), "web".into(), uid.into());
    let spec = SegmentSpec {
        vni,
        namespace,
        network,
        network_uid,
    };
    Arc::new(Segment::new(&segment::name(vni), spec))
}

fn seen(own: &[Arc<Segment>], taken: &[u32]) -> Observed {
    let taken = own
        .iter()
        .map(|s| s.spec.vni)
        .chain(taken.iter().copied())
        .collect();
    Observed {
        own: own.to_vec(),
        taken,
        ports: vec![],
    }
}

#[test]
fn a_claimed_network_plans_nothing() {
    assert_eq!(
        plan(&network("u1"), &seen(&[claim(7, "u1")], &[8, 9])),
        Plan::default()
    );
}

#[test]
fn of_two_claims_the_one_that_others_have_seen_stays() {
    let mut network = network("u1");
    let observed = seen(&[claim(7, "u1"), claim(9, "u1")], &[]);
    assert_eq!(plan(&network, &observed).release, [claim(9, "u1")]);
    let told = status(
        &network,
        &seen(&[claim(9, "u1")], &[]),
        &Plan::default(),
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    network.status = Some(told.status);
    assert_eq!(plan(&network, &observed).release, [claim(7, "u1")]);
}

#[test]
fn a_deleted_network_gives_back_all_its_claims_and_claims_none() {
    let mut network = network("u1");
    network.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let observed = seen(&[claim(7, "u1")], &[]);
    let wanted = Plan {
        claim: None,
        release: vec![claim(7, "u1")],
    };
    assert_eq!(plan(&network, &observed), wanted);
    let told = status(
        &network,
        &observed,
        &wanted,
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(told.next, Next::Finished);
    let failed = Steps(vec![(
        "give back".into(),
        Err(Error::Transient("timeout".into())),
    )]);
    let told = status(&network, &observed, &wanted, &failed, Timestamp::UNIX_EPOCH);
    assert_eq!(told.next, Next::Retry, "it went although its claim stayed");
}

#[test]
fn only_claims_without_owner_are_orphans() {
    let segments = [claim(7, "u1"), claim(8, "gone")];
    assert_eq!(
        orphans(&segments, &[Arc::new(network("u1"))], &[]),
        [claim(8, "gone")]
    );
}

#[test]
fn all_numbers_taken_is_said_not_overwritten() {
    let taken: BTreeSet<u32> = (1..5).collect();
    assert_eq!(free_vni("u1", &taken, 1..5), None);
}

proptest! {
    #[test]
    fn a_free_number_is_found_wherever_it_is(uid in "[a-f0-9]{8}", free in 1u32..50) {
        let taken: BTreeSet<u32> = (1..50).filter(|v| *v != free).collect();
        prop_assert_eq!(free_vni(&uid, &taken, 1..50), Some(free));
    }

    #[test]
    fn applying_a_plan_leaves_nothing_to_plan(uid in "[a-f0-9]{8}", taken in proptest::collection::vec(1u32..1 << 24, 0..20)) {
        let network = network(&uid);
        let claimed = plan(&network, &seen(&[], &taken)).claim.unwrap();
        prop_assert!(!taken.contains(&claimed.spec.vni));
        prop_assert_eq!(plan(&network, &seen(&[Arc::new(claimed)], &taken)), Plan::default());
    }
}
