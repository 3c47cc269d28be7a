//! The hetzner driver against a small Hetzner Cloud: its faults. That it conforms is shown with the other drivers.
#![allow(clippy::unwrap_used)]

#[path = "double/hetzner.rs"]
mod double;

use axum::http::Method;
use double::{Double, Fault};
use skysail_clouds::{Driver, Error, Order, open};
use skysail_schemas::quantity::{Bytes, Cpu};

fn order(name: &str) -> Order {
    Order {
        name: name.into(),
        offer: "cx22".into(),
        resources: Default::default(),
        public_address: true,
        authorized_keys: vec!["ssh-ed25519 AAAA a".into()],
        tags: Default::default(),
        spot: false,
        instead_of: None,
    }
}

fn driver(account: &open::Account) -> Box<dyn Driver> {
    open::cloud(account, &open::Site::default()).unwrap()
}

#[tokio::test]
async fn offers_are_those_of_the_location_and_of_this_processor() {
    let double = Double::start(None).await;
    let mut account = double.account("a");
    let settings = account.spec.hetzner.as_mut().unwrap();
    settings.machine_types.push("cax*".into());
    let offers = driver(&account).offers().await.unwrap();
    let mine = if cfg!(target_arch = "aarch64") {
        "cax11"
    } else {
        "cx22"
    };
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].name, mine);
    assert_eq!(offers[0].resources.cpu, Cpu(2000));
    assert_eq!(offers[0].resources.memory, Bytes(4 << 30));
    assert!(
        offers[0]
            .price_per_hour
            .as_ref()
            .unwrap()
            .starts_with("0.00")
    );
}

#[tokio::test]
async fn a_purchase_whose_answer_is_lost_is_not_repeated() {
    let double = Double::start(None).await;
    let account = double.account("a");
    let driver = driver(&account);
    driver.create(&order("first")).await.unwrap(); // so that the key is there
    double.fault(Method::POST, Fault::Lost);
    let lost = driver.create(&order("h")).await;
    assert!(matches!(lost, Err(Error::Transient(_))), "{lost:?}");
    let machine = driver.create(&order("h")).await.unwrap();
    assert_eq!((machine.name.as_str(), double.bought()), ("h", 2));
}

#[tokio::test]
async fn a_hundred_looks_are_a_call_every_two_seconds() {
    let double = Double::start(None).await;
    let site = open::Site::default();
    let account = double.account("a");
    let machine = open::cloud(&account, &site).unwrap();
    let machine = machine.create(&order("h")).await.unwrap();
    let begun = std::time::Instant::now();
    let before = double.calls();
    for _ in 0..100 {
        let driver = open::cloud(&account, &site).unwrap();
        driver.get(&machine.id).await.unwrap();
    }
    let windows = begun.elapsed().as_secs() / 2 + 1;
    assert!(u64::try_from(double.calls() - before).unwrap() <= windows);
}

#[tokio::test]
async fn each_error_has_its_reaction_and_buys_nothing() {
    let double = Double::start(None).await;
    let account = double.account("a");
    for (status, code, reason) in [
        (403, "forbidden", "Denied"),
        (429, "rate_limit_exceeded", "Throttled"),
        (412, "resource_unavailable", "NoCapacity"),
        (403, "resource_limit_exceeded", "QuotaExceeded"),
        (422, "invalid_input", "Refused"),
        (503, "service_error", "Unavailable"),
    ] {
        double.fault(Method::POST, Fault::Error(status, code));
        let said = driver(&account).create(&order("h")).await.unwrap_err();
        assert_eq!(said.reason(), reason, "{said}");
    }
    double.fault(Method::GET, Fault::Html);
    let said = driver(&account).list().await.unwrap_err();
    assert!(said.to_string().contains("spec.hetzner.endpoint"), "{said}");
    let mut wrong = account.clone();
    let secret = wrong.secret.as_mut().unwrap();
    secret.data.insert("token".into(), "hush".into());
    let said = driver(&wrong).offers().await.unwrap_err();
    assert_eq!(said.reason(), "Denied");
    let said = said.to_string();
    assert!(said.contains("Secret skysail-system/a") && !said.contains("hush"));
    assert_eq!(double.bought(), 0);
}

#[tokio::test]
async fn two_clouds_of_one_project_do_not_see_each_other() {
    let double = Double::start(None).await;
    let (one, two) = (driver(&double.account("a")), driver(&double.account("b")));
    let mine = one.create(&order("h")).await.unwrap();
    let theirs = two.create(&order("h")).await.unwrap();
    assert!(matches!(one.get(&theirs.id).await, Err(Error::NotFound(_))));
    one.delete(&theirs.id).await.unwrap();
    assert_eq!(two.list().await.unwrap().len(), 1, "not ours, not ended");
    one.delete(&mine.id).await.unwrap();
    one.retire().await.unwrap();
}
