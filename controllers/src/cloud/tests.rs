//! Laws of the Cloud controller.

use super::plan::{self, Observed, Plan};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use skysail_clouds::{Machine, Offer, SshTarget, State};
use skysail_reconcile::{Error, Next, Steps};
use skysail_schemas::{
    Cloud, CloudSpec, Host, HostSpec, MachineType,
    cloud::Driver,
    condition::is_true,
    host::Resources,
    quantity::{Bytes, Cpu},
};
use std::{collections::BTreeMap, sync::Arc};

fn cloud() -> Cloud {
    let mut cloud = Cloud::new(
        "east",
        CloudSpec {
            driver: Driver::Ssh,
            ..CloudSpec::default()
        },
    );
    cloud.metadata.uid = Some("u1".into());
    cloud
}

fn offer(name: &str, price: &str) -> Offer {
    let resources = Resources {
        cpu: Cpu(2000),
        memory: Bytes(2 << 30),
        disk: Bytes(8 << 30),
    };
    Offer {
        name: name.into(),
        resources,
        price_per_hour: Some(price.into()),
        ..Offer::default()
    }
}

fn machine(name: &str) -> Machine {
    let ssh = SshTarget {
        address: "h".into(),
        port: 22,
        user: "root".into(),
        proxy_command: None,
        key_secret: None,
    };
    Machine {
        id: name.into(),
        name: name.into(),
        tags: BTreeMap::new(),
        state: State::Running,
        internal: None,
        external: None,
        ssh,
    }
}

fn host(name: &str) -> Arc<Host> {
    Arc::new(Host::new(
        name,
        HostSpec {
            cloud: Some("east".into()),
            machine_type: Some("east-small".into()),
            ..HostSpec::default()
        },
    ))
}

fn offering(offers: Vec<Offer>) -> Observed {
    Observed {
        offers: Some(Ok(offers)),
        ..Observed::default()
    }
}

fn made(observed: &Observed) -> Vec<Arc<MachineType>> {
    plan::plan(&cloud(), observed)
        .create
        .into_iter()
        .map(Arc::new)
        .collect()
}

#[test]
fn offers_become_machine_types_once_and_follow_the_price() {
    let mut seen = offering(vec![offer("small", "0.02"), offer("M5.Large", "0.1")]);
    seen.types = made(&seen);
    let names: Vec<String> = seen.types.iter().map(|t| t.name_any()).collect();
    assert_eq!(names, ["east-small", "east-m5-large"]);
    assert_eq!(
        plan::plan(&cloud(), &seen),
        Plan::default(),
        "converged input plans nothing"
    );

    seen.offers = Some(Ok(vec![offer("small", "0.03")]));
    let plan = plan::plan(&cloud(), &seen);
    assert_eq!(plan.update[0].1.price_per_hour.as_deref(), Some("0.03"));
    assert_eq!(
        plan.withdraw
            .iter()
            .map(|t| t.name_any())
            .collect::<Vec<_>>(),
        ["east-m5-large"]
    );
    seen.hosts = vec![Arc::new(Host::new(
        "h",
        HostSpec {
            machine_type: Some("east-m5-large".into()),
            ..HostSpec::default()
        },
    ))];
    assert_eq!(
        plan::plan(&cloud(), &seen).withdraw,
        [],
        "a size in use stays"
    );
}

#[test]
fn a_machine_type_that_somebody_wrote_is_never_touched() {
    let mut seen = offering(vec![offer("small", "0.02")]);
    let mut theirs = (*made(&seen)[0]).clone();
    theirs.metadata.owner_references = None;
    theirs.spec.price_per_hour = Some("9".into());
    let mut edited = (*made(&seen)[0]).clone();
    edited.spec.price_per_hour = Some("9".into());
    let entry = json!({ "manager": "kubectl", "fieldsV1": { "f:spec": { "f:pricePerHour": {} } } });
    edited.metadata.managed_fields = Some(vec![serde_json::from_value(entry).unwrap()]);
    for offers in [vec![offer("small", "0.02")], vec![]] {
        let mut seen = offering(offers);
        seen.types = vec![Arc::new(edited.clone())];
        assert_eq!(
            plan::plan(&cloud(), &seen),
            Plan::default(),
            "an edit wins over the offer"
        );
    }
    seen.types = vec![Arc::new(theirs)];
    assert_eq!(plan::plan(&cloud(), &seen), Plan::default());
    seen.offers = Some(Ok(vec![]));
    assert_eq!(plan::plan(&cloud(), &seen), Plan::default());
}

#[test]
fn a_cloud_that_does_not_answer_says_why_and_nothing_is_withdrawn() {
    let mut seen = offering(vec![offer("small", "0.02")]);
    seen.types = made(&seen);
    seen.offers = Some(Err(Error::refused("Denied", "needs root: run as root")));
    let plan = plan::plan(&cloud(), &seen);
    assert_eq!(plan, Plan::default());
    let outcome = plan::status(
        &cloud(),
        &seen,
        &plan,
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    let ready = outcome
        .status
        .conditions
        .iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "Denied")
    );
    assert_ne!(outcome.next, Next::OnChange);
}

#[test]
fn the_spend_is_the_sum_over_machines_that_run() {
    let mut seen = offering(vec![offer("small", "0.02")]);
    seen.types = made(&seen);
    seen.hosts = vec![host("a"), host("b"), host("not-made-yet")];
    seen.machines = vec![machine("a"), machine("b")];
    let outcome = plan::status(
        &cloud(),
        &seen,
        &Plan::default(),
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(
        (
            outcome.status.hosts,
            outcome.status.spend_per_hour.as_deref()
        ),
        (2, Some("0.040"))
    );
    assert!(is_true(&outcome.status.conditions, "Ready"));
}

#[test]
fn a_machine_without_a_host_is_given_back_and_a_cloud_goes_after_its_last_host() {
    let mut seen = offering(vec![offer("small", "0.02")]);
    seen.types = made(&seen);
    seen.unowned = vec!["left-behind".into()];
    seen.hosts = vec![host("a")];
    assert_eq!(plan::plan(&cloud(), &seen).reap, ["left-behind"]);

    let mut leaving = cloud();
    leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let waiting = plan::plan(&leaving, &seen);
    assert!(!waiting.retire && waiting.withdraw.is_empty());
    let outcome = plan::status(
        &leaving,
        &seen,
        &waiting,
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(
        outcome
            .status
            .conditions
            .iter()
            .find(|c| c.type_ == "Ready")
            .unwrap()
            .reason,
        "HostsLeft"
    );

    seen.hosts.clear();
    let last = plan::plan(&leaving, &seen);
    assert!(last.retire && last.withdraw.len() == 1 && last.create.is_empty());
    assert_eq!(
        plan::status(
            &leaving,
            &seen,
            &last,
            &Steps::default(),
            Timestamp::UNIX_EPOCH
        )
        .next,
        Next::Finished
    );
}

fn said<'a>(
    outcome: &'a skysail_reconcile::Outcome<skysail_schemas::CloudStatus>,
    kind: &str,
) -> (&'a str, &'a str) {
    let conditions = &outcome.status.conditions;
    let found = conditions.iter().find(|c| c.type_ == kind).unwrap();
    (found.status.as_str(), found.reason.as_str())
}

#[test]
fn credentials_have_a_condition_of_their_own_that_an_outage_does_not_touch() {
    let mut cloud = cloud();
    cloud.spec.driver = Driver::Ec2;
    let mut look = |offers| {
        let seen = Observed {
            offers: Some(offers),
            ..Observed::default()
        };
        let outcome = plan::status(
            &cloud,
            &seen,
            &Plan::default(),
            &Steps::default(),
            Timestamp::UNIX_EPOCH,
        );
        cloud.status = Some(outcome.status.clone());
        outcome
    };
    let missing = look(Err(Error::refused("SecretNotFound", "there is no Secret")));
    assert_eq!(
        said(&missing, "CredentialsValid"),
        ("False", "SecretNotFound")
    );
    assert_eq!(
        said(&missing, "Reachable"),
        ("Unknown", "CredentialsInvalid")
    );
    assert_eq!(said(&missing, "Ready"), ("False", "SecretNotFound"));
    let fine = look(Ok(vec![]));
    assert_eq!(said(&fine, "CredentialsValid"), ("True", "Accepted"));
    assert_eq!(said(&fine, "Ready"), ("True", "Ready"));
    let out = look(Err(Error::Transient("no answer".into())));
    assert_eq!(said(&out, "CredentialsValid"), ("True", "Accepted"));
    assert_eq!(said(&out, "Ready"), ("False", "Error"));
    let refused = look(Err(Error::refused(
        "Denied",
        "lack the permission ec2:RunInstances",
    )));
    assert_eq!(said(&refused, "CredentialsValid"), ("False", "Denied"));
}

#[test]
fn a_host_bought_on_the_spot_market_costs_what_the_spot_market_asks() {
    let mut with_spot = offer("small", "0.02");
    with_spot.spot_price_per_hour = Some("0.005".into());
    let mut seen = offering(vec![with_spot]);
    seen.types = made(&seen);
    let mut spot = (*host("a")).clone();
    spot.spec.spot = true;
    seen.hosts = vec![Arc::new(spot), host("b")];
    seen.machines = vec![machine("a"), machine("b")];
    let outcome = plan::status(
        &cloud(),
        &seen,
        &Plan::default(),
        &Steps::default(),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(outcome.status.spend_per_hour.as_deref(), Some("0.025"));
}
