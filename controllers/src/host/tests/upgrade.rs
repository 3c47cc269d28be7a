//! Agents of another build.

use super::*;
use crate::host::plan::{self, Step};
use crate::host::upgrade::{CONDITION, Upgrade, fact, turn};
use skysail_reconcile::Error;
use skysail_schemas::condition::is_true;
use std::sync::Arc;
use std::time::Duration;

fn reporting(name: &str, build: Option<&str>, said: &str) -> Arc<Host> {
    let mut host = ordering();
    host.metadata.name = Some(name.into());
    if let Some(status) = &mut host.status {
        status.phase = HostPhase::Running;
        status.agent_version = Some("0.1.0".into());
        status.agent_build = build.map(str::to_owned);
        if !said.is_empty() {
            let fact = Fact::no(CONDITION, said, "");
            condition::merge(&mut status.conditions, &[fact], None, Timestamp::UNIX_EPOCH);
        }
    }
    Arc::new(host)
}

fn alive(upgrade: Upgrade, probe: Option<Probe>) -> Observed {
    let mut seen = observed(
        Seen::Present(machine(State::Running)),
        Heartbeat::Alive(Duration::from_secs(9)),
        probe.map(Ok),
    );
    seen.upgrade = upgrade;
    seen
}

#[test]
fn an_agent_of_this_build_or_one_that_has_not_reported_is_left_alone() {
    let hosts = [reporting("a", Some("new"), "")];
    assert_eq!(turn(&hosts[0], &hosts, "new"), Upgrade::Current);
    assert_eq!(turn(&ordering(), &hosts, "new"), Upgrade::Unknown);
    for upgrade in [
        Upgrade::Current,
        Upgrade::Unknown,
        Upgrade::Waits("b".into()),
    ] {
        assert_eq!(plan::plan(&hosts[0], &alive(upgrade, None)), []);
    }
    let (said, _) = say(
        &hosts[0],
        &alive(Upgrade::Current, None),
        &Report::default(),
    );
    assert!(is_true(&said.conditions, CONDITION));
}

#[test]
fn an_agent_of_another_build_is_replaced_step_by_step_and_its_host_stays_ready() {
    for build in [Some("old"), None] {
        let mut host = Host::clone(&reporting("a", build, ""));
        let (mut binary, mut credential) = (build, Some(9999));
        let mut steps = vec![];
        for _ in 0..9 {
            let all = [Arc::new(host.clone())];
            assert_eq!(turn(&host, &all, "new"), Upgrade::Now);
            let started = steps.contains(&Step::Start { systemd: false });
            let probe = (!started).then(|| Probe {
                binary: binary.map(str::to_owned),
                credential_age: credential,
                ..fresh()
            });
            let seen = alive(Upgrade::Now, probe);
            let done = plan::plan(&host, &seen);
            assert!(done.len() <= 1, "{done:?}");
            match done.first() {
                Some(Step::Binary(hash)) => {
                    assert_eq!(hash, "new");
                    binary = Some("new");
                }
                Some(Step::Credential) => credential = Some(0),
                _ => {}
            }
            steps.extend(done.clone());
            let report = Report {
                done,
                ..Report::default()
            };
            let (said, _) = say(&host, &seen, &report);
            assert!(is_true(&said.conditions, "Ready"), "{:?}", said.conditions);
            assert!(!is_true(&said.conditions, CONDITION));
            assert_eq!(said.phase, HostPhase::Running);
            host.status = Some(said);
        }
        assert_eq!(
            steps,
            [
                Step::Binary("new".into()),
                Step::Credential,
                Step::Start { systemd: false }
            ]
        );
        let said = &host.status.as_ref().unwrap().conditions;
        let said = said.iter().find(|c| c.type_ == CONDITION).unwrap();
        assert_eq!(said.reason, "AwaitingReport");
    }
}

#[test]
fn one_in_ten_goes_at_a_time_and_one_whose_new_agent_is_silent_holds_the_others() {
    let all = |said: &str| {
        [
            reporting("a", Some("old"), said),
            reporting("b", Some("old"), "WaitsForTurn"),
            reporting("c", Some("new"), ""),
        ]
    };
    let waits = |first: &str| Upgrade::Waits(first.into());
    for said in ["", "CopyingBinary", "AwaitingReport"] {
        let hosts = all(said);
        assert_eq!(turn(&hosts[0], &hosts, "new"), Upgrade::Now, "{said}");
        assert_eq!(turn(&hosts[1], &hosts, "new"), waits("a"), "{said}");
    }
    // One that keeps its old agent stops nobody, and goes on itself.
    let hosts = all("BinaryFailed");
    assert_eq!(turn(&hosts[0], &hosts, "new"), Upgrade::Now);
    assert_eq!(turn(&hosts[1], &hosts, "new"), Upgrade::Now);

    let many: Vec<_> = (10..40)
        .map(|i| reporting(&format!("h{i}"), Some("old"), ""))
        .collect();
    let now = many
        .iter()
        .filter(|h| turn(h, &many, "new") == Upgrade::Now);
    assert_eq!(now.count(), 3);
}

#[test]
fn a_failed_replacement_is_said_and_the_host_stays_as_it_was() {
    let host = reporting("a", Some("old"), "CopyingBinary");
    let report = Report {
        failed: Some((
            Step::Binary("new".into()),
            Error::refused("KeyRefused", "no key"),
        )),
        ..Report::default()
    };
    let seen = alive(Upgrade::Now, Some(fresh()));
    let said = fact(&seen, &report).unwrap();
    assert_eq!(
        (said.status, said.reason.as_str()),
        (Some(false), "BinaryFailed")
    );
    assert!(said.message.contains("no key"), "{said:?}");
    let (status, _) = say(&host, &seen, &report);
    assert!(is_true(&status.conditions, "Ready"));
    assert_eq!(status.phase, HostPhase::Running);
}
