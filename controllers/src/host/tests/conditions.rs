//! What is said.

use super::*;
use crate::host::plan::{self, Step};
use skysail_reconcile::Error;
use skysail_schemas::condition::is_true;
use std::time::Duration;

#[test]
fn a_host_whose_agent_reports_plans_nothing_and_is_ready() {
    let seen = observed(
        Seen::Present(machine(State::Running)),
        Heartbeat::Alive(Duration::from_secs(30)),
        None,
    );
    assert_eq!(plan::plan(&host(), &seen), []);
    let (status, next) = say(&host(), &seen, &Report::default());
    assert!(
        is_true(&status.conditions, "Ready"),
        "{:?}",
        status.conditions
    );
    assert_eq!(
        (status.phase, status.capacity),
        (HostPhase::Running, Some(resources()))
    );
    assert_eq!(
        next,
        Next::After(Duration::from_secs(5)),
        "a machine that vanishes is noticed"
    );
}

#[test]
fn what_the_agent_measured_is_not_overwritten() {
    let mut host = host();
    let measured = Resources {
        cpu: Cpu(7),
        ..Resources::default()
    };
    host.status = Some(skysail_schemas::HostStatus {
        capacity: Some(measured),
        datapath: Some("netdev".into()),
        ..Default::default()
    });
    let seen = observed(
        Seen::Present(machine(State::Running)),
        Heartbeat::Alive(Duration::from_secs(30)),
        None,
    );
    let (status, _) = say(&host, &seen, &Report::default());
    assert_eq!(
        (status.capacity, status.datapath.as_deref()),
        (Some(measured), Some("netdev"))
    );
}

#[test]
fn every_machine_that_cannot_be_used_says_why_and_what_to_do() {
    let running = || Seen::Present(machine(State::Running));
    let old = Probe {
        os_name: "Debian 11".into(),
        os_version: Some(11),
        ..fresh()
    };
    let other = Probe {
        os: vec!["fedora".into()],
        os_name: "Fedora 43".into(),
        ..fresh()
    };
    let cases = [
        (
            Ok(old),
            "Bootstrapped",
            "WrongOperatingSystem",
            "Debian 12 or newer",
        ),
        (
            Ok(other),
            "Bootstrapped",
            "WrongOperatingSystem",
            "Fedora 43",
        ),
        (
            Ok(Probe {
                architecture: Some("riscv64".into()),
                ..fresh()
            }),
            "Bootstrapped",
            "WrongArchitecture",
            "run a skysail built for riscv64",
        ),
        (
            Ok(Probe {
                root: false,
                ..fresh()
            }),
            "Bootstrapped",
            "NoRoot",
            "sudo",
        ),
        (
            Err(Trouble::KeyRefused("root@h".into())),
            "Reachable",
            "KeyRefused",
            "id_ed25519.pub",
        ),
        (
            Err(Trouble::Unreachable("root@h".into())),
            "Reachable",
            "Unreachable",
            "address",
        ),
        (
            Err(Trouble::HostKeyChanged("root@h".into())),
            "Reachable",
            "HostKeyChanged",
            "reinstalled",
        ),
    ];
    for (probe, kind, reason, way_out) in cases {
        let seen = observed(running(), Heartbeat::Never, Some(probe));
        assert_eq!(plan::plan(&host(), &seen), [], "{reason}");
        let (status, next) = say(&host(), &seen, &Report::default());
        let condition = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
        assert_eq!(
            (condition.status.as_str(), condition.reason.as_str()),
            ("False", reason)
        );
        assert!(condition.message.contains(way_out), "{}", condition.message);
        assert!(!is_true(&status.conditions, "Ready"));
        assert_ne!(
            next,
            Next::OnChange,
            "{reason}: nothing tells us when it passes"
        );
    }
}

#[test]
fn a_host_that_cannot_be_ordered_waits_with_the_reason_and_never_has_a_machine() {
    let mut seen = observed(Seen::Absent, Heartbeat::Never, None);
    seen.order = Err(Error::refused("CloudNotFound", "there is no Cloud east"));
    assert_eq!(plan::plan(&host(), &seen), []);
    let (status, _) = say(&host(), &seen, &Report::default());
    assert_eq!(status.phase, HostPhase::Failed);
    assert_eq!(
        status
            .conditions
            .iter()
            .find(|c| c.type_ == "Ready")
            .unwrap()
            .reason,
        "CloudNotFound"
    );
}

#[test]
fn an_agent_that_falls_silent_makes_a_running_host_lost_and_is_reinstalled() {
    let mut host = host();
    host.status = Some(skysail_schemas::HostStatus {
        phase: HostPhase::Running,
        ..Default::default()
    });
    let seen = observed(
        Seen::Present(machine(State::Running)),
        Heartbeat::Silent(Duration::from_secs(12)),
        Some(Ok(Probe {
            binary: Some("new".into()),
            ..fresh()
        })),
    );
    assert_eq!(
        plan::pending(&seen),
        [Step::Credential, Step::Start { systemd: false }]
    );
    let (status, _) = say(&host, &seen, &Report::default());
    assert_eq!(status.phase, HostPhase::Lost);
    let alive = status
        .conditions
        .iter()
        .find(|c| c.type_ == "AgentAlive")
        .unwrap();
    assert_eq!(
        (alive.status.as_str(), alive.reason.as_str()),
        ("Unknown", "HeartbeatLost")
    );
}
