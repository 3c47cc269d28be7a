//! The ec2 driver against a small EC2 (see `double`): its habits and faults, one test each.
//!
//! Needs moto; without it the tests say so and pass.
#![allow(clippy::unwrap_used)]

mod double;

use double::{Double, KEYS};
use serde_json::json;
use skysail_clouds::{
    Driver, Error, Machine, Order, State,
    open::{self, Account, Site},
};
use skysail_schemas::{
    host::Resources,
    quantity::{Bandwidth, Bytes, Cpu},
};
use std::{collections::BTreeMap, sync::OnceLock, time::Duration};
use tokio::sync::{Mutex, MutexGuard};

/// One double for all tests, one after the other: starting it takes longer than any of them.
async fn cloud() -> Option<MutexGuard<'static, Double>> {
    static DOUBLE: OnceLock<Option<Mutex<Double>>> = OnceLock::new();
    let double = DOUBLE.get_or_init(|| Double::on_paper().map(Mutex::new));
    let double = double.as_ref()?.lock().await;
    double.reset();
    Some(double)
}

fn order(name: &str) -> Order {
    Order {
        name: name.into(),
        offer: "t3.medium".into(),
        resources: Resources::default(),
        public_address: false,
        authorized_keys: vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqhF1zOg0yXH5uKxd8J3TjY0kGq5bR1zXJ3R0uGx0zN a"
                .into(),
        ],
        tags: BTreeMap::from([("skysail.dev/host".into(), name.into())]),
        spot: false,
        instead_of: None,
    }
}

/// The cloud as a process sees it that remembers nothing.
fn fresh(account: &Account) -> Box<dyn Driver> {
    open::cloud(account, &Site::default()).unwrap()
}

async fn running(driver: &dyn Driver, id: &str) -> Machine {
    for _ in 0..1200 {
        let machine = driver.get(id).await.unwrap();
        if machine.state == State::Running {
            return machine;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} does not run");
}

#[tokio::test]
async fn offers_have_sizes_prices_and_network_and_are_those_that_were_asked_for() {
    let Some(double) = cloud().await else {
        return;
    };
    let driver = fresh(&double.account("a"));
    let offers = driver.offers().await.unwrap();
    let names: Vec<&str> = offers.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["m6i.large", "t3.large", "t3.medium"]);
    let medium = &offers[2];
    assert_eq!(medium.resources.cpu, Cpu(2000));
    assert_eq!(medium.resources.memory, Bytes(4 << 30));
    assert_eq!(medium.price_per_hour.as_deref(), Some("0.0416"));
    assert!(medium.spot_price_per_hour.is_some());
    assert_eq!(medium.bandwidth, Some(Bandwidth(5_000_000_000)));
    let asked = double.calls("DescribeInstanceTypes");
    driver.offers().await.unwrap();
    assert_eq!(double.calls("DescribeInstanceTypes"), asked, "kept");

    let mut account = double.account("a");
    let settings = account.spec.ec2.as_mut().unwrap();
    settings.prices.insert("t3.medium".into(), "0.01".into());
    let offers = fresh(&account).offers().await.unwrap();
    assert_eq!(offers[2].price_per_hour.as_deref(), Some("0.01"));

    account.spec.zone = Some("eu-central-1z".into());
    let said = fresh(&account).offers().await.unwrap_err();
    assert!(said.to_string().contains("eu-central-1a"), "{said}");
}

#[tokio::test]
async fn a_launch_whose_answer_is_lost_buys_one_machine() {
    let Some(double) = cloud().await else {
        return;
    };
    let account = double.account("a");
    let (order, driver) = (order("h"), fresh(&account));
    double.fault(json!({"action": "RunInstances", "lost": true}));
    assert!(matches!(
        driver.create(&order).await,
        Err(Error::Transient(_))
    ));
    assert_eq!(double.bought().len(), 1);
    // The listing does not show it yet, and whoever ordered was killed meanwhile.
    double.fault(json!({"action": "DescribeInstances", "hide": true, "count": 2}));
    let again = fresh(&account);
    let machine = again.create(&order).await.unwrap();
    assert_eq!(double.bought(), std::slice::from_ref(&machine.id));
    assert_eq!(running(&*again, &machine.id).await.name, "h");
}

#[tokio::test]
async fn a_machine_that_is_not_listed_yet_is_not_absent() {
    let Some(double) = cloud().await else {
        return;
    };
    let account = double.account("a");
    let driver = fresh(&account);
    double.fault(json!({"action": "DescribeInstances", "hide": true, "count": 3}));
    let machine = driver.create(&order("h")).await.unwrap();
    assert_eq!(
        driver.get(&machine.id).await.unwrap().state,
        State::Starting
    );
    assert_eq!(driver.list().await.unwrap().len(), 1);
    double.fault(json!({"action": "DescribeInstances", "hide": true, "count": 1000}));
    let stranger = fresh(&account);
    let unknown = stranger.get(&machine.id).await;
    assert!(matches!(unknown, Err(Error::Transient(_))), "{unknown:?}");
    let kept = stranger.delete(&machine.id).await;
    assert!(matches!(kept, Err(Error::Transient(_))), "{kept:?}");
    assert_eq!(double.living(), std::slice::from_ref(&machine.id));
    double.heal();
    stranger.delete(&machine.id).await.unwrap();
    assert_eq!(double.living(), [""; 0]);
}

#[tokio::test]
async fn a_machine_ended_behind_our_back_is_gone_and_the_next_order_buys_another() {
    let Some(double) = cloud().await else {
        return;
    };
    let driver = fresh(&double.account("a"));
    let first = driver.create(&order("h")).await.unwrap();
    running(&*driver, &first.id).await;
    double.kill(&first.id);
    tokio::time::sleep(Duration::from_millis(1100)).await; // a glance may be a second old
    let gone = driver.get(&first.id).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    let next = Order {
        instead_of: Some(first.id.clone()),
        ..order("h")
    };
    let second = driver.create(&next).await.unwrap();
    assert_ne!(second.id, first.id);
    // Also where the one before was never written down: its token is used up.
    running(&*driver, &second.id).await;
    double.kill(&second.id);
    let third = driver.create(&next).await.unwrap();
    assert_eq!(double.bought(), [first.id, second.id, third.id.clone()]);
    assert_eq!(double.living(), [third.id]);
    // Amazon's own words for a token that is used up.
    double.fault(json!({"action": "RunInstances", "code": "IdempotentInstanceTerminated"}));
    let fourth = driver.create(&order("i")).await.unwrap();
    assert_eq!(fourth.name, "i");
    // A setting was changed after a launch whose answer was lost.
    double.fault(json!({"action": "RunInstances", "lost": true}));
    driver.create(&order("j")).await.unwrap_err();
    double.fault(json!({"action": "DescribeInstances", "hide": true}));
    let changed = Order {
        authorized_keys: vec![],
        ..order("j")
    };
    let adopted = driver.create(&changed).await.unwrap();
    assert_eq!(double.bought().last(), Some(&adopted.id));
    assert_eq!(double.bought().len(), 5);
}

#[tokio::test]
async fn each_error_has_its_reaction_and_buys_nothing() {
    let Some(double) = cloud().await else {
        return;
    };
    let account = double.account("a");
    let cases = [
        ("InsufficientInstanceCapacity", 500, "NoCapacity"),
        ("VcpuLimitExceeded", 400, "QuotaExceeded"),
        ("MaxSpotInstanceCountExceeded", 400, "QuotaExceeded"),
        ("InvalidParameterValue", 400, "Refused"),
        ("InternalError", 500, "Unavailable"),
        ("UnauthorizedOperation", 403, "Denied"),
        // Some services say 200 and mean an error.
        ("VcpuLimitExceeded", 200, "QuotaExceeded"),
    ];
    for (code, status, reason) in cases {
        double.fault(json!({"action": "RunInstances", "code": code, "status": status}));
        let said = fresh(&account).create(&order("h")).await.unwrap_err();
        assert_eq!(said.reason(), reason, "{code}: {said}");
    }
    let page = "<!DOCTYPE html><html><body>Please log in</body></html>";
    for status in [200, 502] {
        double.fault(json!({"action": "RunInstances", "html": page, "status": status}));
        let said = fresh(&account).create(&order("h")).await.unwrap_err();
        assert_eq!(said.reason(), "Unavailable");
        assert!(said.to_string().contains("web page"), "{said}");
    }
    assert_eq!(double.bought(), [""; 0]);

    // What there is none of is not asked for again at once.
    let driver = fresh(&account);
    double.fault(json!({"action": "RunInstances", "code": "InsufficientInstanceCapacity"}));
    driver.create(&order("h")).await.unwrap_err();
    let asked = double.calls("RunInstances");
    let said = driver.create(&order("i")).await.unwrap_err();
    assert_eq!(said.reason(), "NoCapacity");
    assert_eq!(double.calls("RunInstances"), asked);
}

#[tokio::test]
async fn an_answer_with_the_wrong_machine_is_refused() {
    let Some(double) = cloud().await else {
        return;
    };
    let account = double.account("a");
    for (from, to) in [
        ("<value>h</value>", "<value>other</value>"),
        ("uid-of-a", "uid-of-somebody"),
        ("t3.medium", "u-24tb1.metal"),
        ("<instanceId>i-\\w+", "<instanceId>x"),
    ] {
        double.fault(json!({"action": "RunInstances", "replace": [from, to]}));
        double.fault(json!({"action": "DescribeInstances", "hide": true}));
        let said = fresh(&account).create(&order("h")).await.unwrap_err();
        assert!(
            said.to_string().contains("it is not used"),
            "{from}: {said}"
        );
    }
    assert_eq!(double.bought().len(), 1, "all were the same launch");
    let machine = fresh(&account).create(&order("h")).await.unwrap();
    assert_eq!(double.bought(), [machine.id]);
    // Machines that a listing shows although they are not ours do not concern us.
    double.fault(
        json!({"action": "DescribeInstances", "replace": ["uid-of-a", "uid-of-b"], "count": 1000}),
    );
    assert_eq!(fresh(&account).list().await.unwrap(), []);
    double.heal();
    assert_eq!(fresh(&account).list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_cloud_that_throttles_is_asked_more_slowly_by_all() {
    let Some(double) = cloud().await else {
        return;
    };
    let driver = fresh(&double.account("a"));
    driver.create(&order("h0")).await.unwrap();
    double.fault(json!({"action": "RunInstances", "code": "RequestLimitExceeded", "status": 503, "count": 3}));
    let before = double.calls("RunInstances");
    let orders: Vec<Order> = (1..7).map(|i| order(&format!("h{i}"))).collect();
    let made = futures_of(&*driver, &orders).await;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    assert_eq!(double.calls("RunInstances") - before, 6 + 3);
    assert_eq!(double.bought().len(), 7);

    double.fault(
        json!({"action": "*", "code": "RequestLimitExceeded", "status": 503, "count": 1000}),
    );
    let before = double.calls("DescribeInstances");
    let said = driver.create(&order("h9")).await.unwrap_err();
    assert_eq!(said.reason(), "Throttled");
    assert!(double.calls("DescribeInstances") - before <= 4);
}

/// All orders at the same time.
async fn futures_of(driver: &dyn Driver, orders: &[Order]) -> Vec<skysail_clouds::Result<Machine>> {
    let mut made: Vec<_> = orders
        .iter()
        .map(|order| Box::pin(driver.create(order)))
        .collect();
    let mut results = vec![];
    // Polled together, so that they share listings and turns.
    std::future::poll_fn(|context| {
        made.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(result) => {
                results.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        match made.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    results
}

#[tokio::test]
async fn missing_permissions_are_named_all_at_once_and_wrong_keys_are_refused() {
    let Some(double) = cloud().await else {
        return;
    };
    let mut account = double.account("a");
    for action in ["RunInstances", "TerminateInstances"] {
        double.fault(json!({"action": action, "code": "UnauthorizedOperation", "status": 403, "dryRun": true}));
    }
    let said = fresh(&account).offers().await.unwrap_err();
    assert_eq!(said.reason(), "Denied");
    let said = said.to_string();
    assert!(
        said.contains(
            "Secret skysail-system/a lack the permission ec2:RunInstances, ec2:TerminateInstances;"
        ),
        "{said}"
    );
    fresh(&account).offers().await.unwrap();

    // Rotated: the old keys are refused, the new ones taken by the same process.
    let site = Site::default();
    double.rotate("AKIDNEW", "another/secret");
    let old = open::cloud(&account, &site).unwrap().offers().await;
    assert_eq!(old.unwrap_err().reason(), "Denied");
    let secret = account.secret.as_mut().unwrap();
    secret.data.insert("accessKeyId".into(), "AKIDNEW".into());
    let half = open::cloud(&account, &site).unwrap().offers().await;
    let half = half.unwrap_err();
    assert!(half.to_string().contains("SignatureDoesNotMatch"), "{half}");
    assert!(
        !format!("{half:?}").contains(KEYS.1),
        "no secret in messages"
    );
    let secret = account.secret.as_mut().unwrap();
    secret
        .data
        .insert("secretAccessKey".into(), "another/secret".into());
    open::cloud(&account, &site)
        .unwrap()
        .offers()
        .await
        .unwrap();
}

#[tokio::test]
async fn two_clouds_of_one_account_do_not_see_each_other_and_each_leaves_nothing() {
    let Some(double) = cloud().await else {
        return;
    };
    let (one, two) = (fresh(&double.account("a")), fresh(&double.account("b")));
    let with_address = Order {
        public_address: true,
        ..order("h")
    };
    let mine = one.create(&with_address).await.unwrap();
    let theirs = two.create(&order("h")).await.unwrap();
    assert_ne!(mine.id, theirs.id);
    assert_eq!(one.list().await.unwrap().len(), 1);
    let foreign = one.delete(&theirs.id).await;
    assert!(matches!(foreign, Err(Error::Transient(_))), "{foreign:?}");
    assert_eq!(double.calls("AllocateAddress"), 1);
    one.delete(&mine.id).await.unwrap();
    assert_eq!(double.calls("ReleaseAddress"), 1);
    one.retire().await.unwrap();
    one.retire().await.unwrap();
    assert_eq!(double.calls("DeleteSecurityGroup"), 1);
    assert_eq!(double.calls("DeleteKeyPair"), 1);
    assert!(matches!(two.retire().await, Err(Error::Refused(_))));
    assert_eq!(double.living(), [theirs.id]);
}

#[tokio::test]
async fn a_hundred_looks_at_once_are_one_call() {
    let Some(double) = cloud().await else {
        return;
    };
    let site = Site::default();
    let account = double.account("a");
    let machine = open::cloud(&account, &site)
        .unwrap()
        .create(&order("h"))
        .await
        .unwrap();
    running(&*open::cloud(&account, &site).unwrap(), &machine.id).await;
    let before = double.calls("DescribeInstances");
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        let driver = open::cloud(&account, &site).unwrap();
        driver.get(&machine.id).await.unwrap();
    }
    let seconds = begun.elapsed().as_secs() + 1;
    assert!(double.calls("DescribeInstances") - before <= seconds);
}

#[tokio::test]
async fn a_stopped_machine_is_started_again_as_the_same() {
    let Some(double) = cloud().await else {
        return;
    };
    let driver = fresh(&double.account("a"));
    let machine = driver.create(&order("h")).await.unwrap();
    running(&*driver, &machine.id).await;
    double.stop(&machine.id);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(driver.get(&machine.id).await.unwrap().state, State::Stopped);
    assert_eq!(driver.create(&order("h")).await.unwrap().id, machine.id);
    running(&*driver, &machine.id).await;
    assert_eq!(double.bought().len(), 1);
}
