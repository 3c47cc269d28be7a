//! What is done, and in which order.

use super::*;
use crate::host::plan::{self, Step};
use proptest::prelude::*;
use skysail_reconcile::Error;
use std::time::Duration;

#[test]
fn a_machine_that_is_absent_is_ordered_and_one_that_stopped_is_started_whatever_its_agent_said() {
    for heartbeat in [
        Heartbeat::Never,
        Heartbeat::Alive(Duration::from_secs(9)),
        Heartbeat::Silent(Duration::ZERO),
    ] {
        let create = |anew| Step::Create {
            order: Box::new(order()),
            anew,
        };
        assert_eq!(
            plan::plan(&ordering(), &observed(Seen::Absent, heartbeat, None)),
            [create(true)]
        );
        assert_eq!(
            plan::plan(
                &ordering(),
                &observed(Seen::Present(machine(State::Stopped)), heartbeat, None)
            ),
            [create(false)]
        );
    }
}

#[test]
fn nothing_is_ordered_or_deleted_while_the_cloud_cannot_be_asked() {
    let seen = observed(
        Seen::Unknown(Error::Transient("timeout".into())),
        Heartbeat::Never,
        None,
    );
    assert_eq!(plan::plan(&host(), &seen), []);
    assert_eq!(plan::plan(&leaving(), &seen), []);
    assert_eq!(say(&host(), &seen, &Report::default()).1, Next::Retry);
}

#[test]
fn a_machine_that_is_gone_is_replaced_by_another_order_and_the_first_is_always_the_same() {
    let mut lost = ordering();
    let bought = |host: &Host| {
        let seen = observed(Seen::Absent, Heartbeat::Never, None);
        match plan::plan(host, &seen).as_slice() {
            [Step::Create { order, anew: true }] => order.instead_of.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(bought(&lost), None);
    if let Some(status) = &mut lost.status {
        status.machine_id = Some("m1".into());
    }
    assert_eq!(bought(&lost), Some("m1".into()));
}

#[test]
fn a_host_whose_agent_reports_stays_ready_while_its_cloud_cannot_be_asked() {
    let seen = observed(
        Seen::Unknown(Error::Transient("no answer".into())),
        Heartbeat::Alive(Duration::from_secs(9)),
        None,
    );
    assert_eq!(plan::plan(&host(), &seen), []);
    let (status, next) = say(&host(), &seen, &Report::default());
    assert_eq!(status.phase, HostPhase::Running);
    assert!(condition::is_true(&status.conditions, "Ready"));
    assert_eq!(next, Next::Retry);
}

#[test]
fn bootstrap_does_only_what_is_missing() {
    let steps = plan::bootstrap(
        &Probe {
            missing: vec!["lxc".into()],
            ..fresh()
        },
        "new",
    )
    .unwrap();
    assert_eq!(
        steps,
        [
            Step::Packages(vec!["lxc".into()]),
            Step::Binary("new".into()),
            Step::Credential,
            Step::Start { systemd: false }
        ]
    );
    let half = Probe {
        binary: Some("new".into()),
        credential_age: Some(3),
        ..fresh()
    };
    assert_eq!(
        plan::bootstrap(&half, "new").unwrap(),
        [Step::Start { systemd: false }],
        "a killed bootstrap goes on where it was"
    );
}

#[test]
fn deletion_waits_for_containers_of_a_living_agent_and_leaves_nothing() {
    let mut seen = observed(
        Seen::Present(machine(State::Running)),
        Heartbeat::Alive(Duration::from_secs(9)),
        None,
    );
    seen.containers = vec!["acme/db".into()];
    assert_eq!(plan::plan(&leaving(), &seen), []);
    let (waiting, _) = say(&leaving(), &seen, &Report::default());
    let ready = waiting
        .conditions
        .iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(ready.reason, "ContainersLeft");
    assert!(ready.message.contains("acme/db"));

    seen.heartbeat = Heartbeat::Silent(Duration::from_secs(1));
    assert_eq!(
        plan::plan(&leaving(), &seen),
        [Step::Delete("m1".into()), Step::Forget],
        "a dead agent's containers go with the machine"
    );
    let report = Report {
        done: vec![Step::Delete("m1".into()), Step::Forget],
        ..Report::default()
    };
    assert_eq!(say(&leaving(), &seen, &report).1, Next::Finished);

    assert_eq!(
        plan::plan(&leaving(), &observed(Seen::Absent, Heartbeat::Never, None)),
        [Step::Forget]
    );
    let failed = Report {
        failed: Some((
            Step::Delete("m1".into()),
            Error::Transient("timeout".into()),
        )),
        ..Report::default()
    };
    assert_eq!(
        say(&leaving(), &seen, &failed).1,
        Next::Retry,
        "the finalizer stays until the machine is gone"
    );
}

#[test]
fn a_step_of_bootstrap_is_done_after_the_host_says_so_and_again_after_it_failed() {
    let running = || Seen::Present(machine(State::Running));
    let seen = observed(running(), Heartbeat::Never, Some(Ok(fresh())));
    assert_eq!(plan::plan(&ordering(), &seen), []);
    let (said, next) = say(&ordering(), &seen, &Report::default());
    assert_eq!(
        (reason(&said), next),
        ("CopyingBinary", Next::After(Duration::ZERO))
    );
    let copy = Step::Binary("new".into());
    let again = copy.clone();
    assert_eq!(plan::plan(&at("CopyingBinary"), &seen), [again]);

    let failed = Report {
        failed: Some((copy.clone(), Error::Transient("no space".into()))),
        ..Report::default()
    };
    let (said, next) = say(&at("CopyingBinary"), &seen, &failed);
    assert_eq!((reason(&said), next), ("BinaryFailed", Next::Retry));
    assert_eq!(
        plan::plan(&at("BinaryFailed"), &seen),
        [copy],
        "no turn in between, which would undo the growing delay"
    );
}

fn reason(status: &skysail_schemas::HostStatus) -> &str {
    let mut all = status.conditions.iter();
    all.find(|c| c.type_ == "Bootstrapped")
        .map_or("", |c| c.reason.as_str())
}

proptest! {
    /// Whatever a kill left on the machine and in the Host, every turn does one step at the
    /// most, every step was announced, and the last is the start of the agent.
    #[test]
    fn bootstrap_goes_on_from_anywhere(
        mut missing in any::<bool>(),
        mut copied in any::<bool>(),
        mut credential in prop::option::of(0u64..60),
        said in prop::sample::select(vec!["", "InstallingPackages", "BinaryFailed", "StartingAgent", "KeyRefused"]),
    ) {
        let mut host = at(said);
        let mut steps = vec![];
        for _ in 0..9 {
            let probe = Probe {
                missing: missing.then(|| "lxc".to_owned()).into_iter().collect(),
                binary: copied.then(|| "new".to_owned()),
                credential_age: credential,
                ..fresh()
            };
            let seen = observed(Seen::Present(machine(State::Running)), Heartbeat::Never, Some(Ok(probe)));
            let done = plan::plan(&host, &seen);
            prop_assert!(done.len() <= 1);
            match done.first() {
                Some(Step::Packages(_)) => missing = false,
                Some(Step::Binary(_)) => copied = true,
                Some(Step::Credential) => credential = Some(0),
                _ => {}
            }
            steps.extend(done.clone());
            let (status, next) = say(&host, &seen, &Report { done, ..Report::default() });
            let finished = reason(&status) == "Installed";
            host.status = Some(status);
            if finished {
                prop_assert_eq!(steps.last(), Some(&Step::Start { systemd: false }));
                prop_assert!(!missing && copied && credential.is_some());
                return Ok(());
            }
            prop_assert_eq!(next, Next::After(Duration::ZERO));
        }
        prop_assert!(false, "it does not end: {steps:?}");
    }
}
