//! Laws of the Host controller, and its bootstrap on a real sandbox host.

use super::{
    install,
    plan::{self, Heartbeat, Observed, Report, Seen, Step},
    probe::{self, Probe},
    ssh::{Folder, Trouble},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skysail_clouds::{Driver, Machine, Order, SshTarget, State, sandbox};
use skysail_reconcile::{Error, Next};
use skysail_schemas::{
    Host, HostSpec,
    condition::is_true,
    host::{HostPhase, Resources},
    quantity::{Bytes, Cpu},
};
use std::{collections::BTreeMap, time::Duration};

fn host() -> Host {
    Host::new(
        "east-1",
        HostSpec {
            cloud: Some("east".into()),
            machine_type: Some("east-small".into()),
            ..HostSpec::default()
        },
    )
}

/// A Host that has said that its machine is being ordered.
fn ordering() -> Host {
    let mut host = host();
    host.status = Some(skysail_schemas::HostStatus {
        phase: HostPhase::Provisioning,
        ..Default::default()
    });
    host
}

fn leaving() -> Host {
    let mut host = host();
    host.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    host
}

fn machine(state: State) -> Machine {
    let ssh = SshTarget {
        address: "198.18.0.9".into(),
        port: 22,
        user: "root".into(),
        proxy_command: None,
        key_secret: None,
    };
    Machine {
        id: "m1".into(),
        name: "east-1".into(),
        tags: BTreeMap::new(),
        state,
        internal: None,
        external: None,
        ssh,
    }
}

fn resources() -> Resources {
    Resources {
        cpu: Cpu(1000),
        memory: Bytes(1 << 30),
        disk: Bytes(1 << 30),
    }
}

fn order() -> Order {
    Order {
        name: "east-1".into(),
        offer: "small".into(),
        resources: resources(),
        public_address: true,
        authorized_keys: vec![],
        tags: BTreeMap::new(),
    }
}

fn observed(
    machine: Seen,
    heartbeat: Heartbeat,
    probe: Option<Result<Probe, Trouble>>,
) -> Observed {
    Observed {
        order: Ok(order()),
        machine,
        heartbeat,
        probe,
        binary: "new".into(),
        labels: BTreeMap::new(),
        resources: Some(resources()),
        containers: vec![],
    }
}

fn fresh() -> Probe {
    Probe {
        root: true,
        os: vec!["debian".into()],
        os_name: "Debian 13".into(),
        os_version: Some(13),
        ..Probe::default()
    }
}

fn status(
    host: &Host,
    observed: &Observed,
    report: &Report,
) -> (skysail_schemas::HostStatus, Next) {
    let outcome = plan::status(host, observed, report, Timestamp::UNIX_EPOCH);
    (outcome.status, outcome.next)
}

#[test]
fn a_host_whose_agent_reports_plans_nothing_and_is_ready() {
    let seen = observed(
        Seen::Present(machine(State::Running)),
        Heartbeat::Alive(Duration::from_secs(30)),
        None,
    );
    assert_eq!(plan::plan(&host(), &seen), []);
    let (status, next) = status(&host(), &seen, &Report::default());
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
    let (status, _) = status(&host, &seen, &Report::default());
    assert_eq!(
        (status.capacity, status.datapath.as_deref()),
        (Some(measured), Some("netdev"))
    );
}

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
    assert_eq!(status(&host(), &seen, &Report::default()).1, Next::Retry);
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
        let (status, next) = status(&host(), &seen, &Report::default());
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
    let (status, _) = status(&host(), &seen, &Report::default());
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
        plan::plan(&host, &seen),
        [Step::Credential, Step::Start { systemd: false }]
    );
    let (status, _) = status(&host, &seen, &Report::default());
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

#[test]
fn deletion_waits_for_containers_of_a_living_agent_and_leaves_nothing() {
    let mut seen = observed(
        Seen::Present(machine(State::Running)),
        Heartbeat::Alive(Duration::from_secs(9)),
        None,
    );
    seen.containers = vec!["acme/db".into()];
    assert_eq!(plan::plan(&leaving(), &seen), []);
    let (waiting, _) = status(&leaving(), &seen, &Report::default());
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
    assert_eq!(status(&leaving(), &seen, &report).1, Next::Finished);

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
        status(&leaving(), &seen, &failed).1,
        Next::Retry,
        "the finalizer stays until the machine is gone"
    );
}

#[test]
fn the_probes_answer_is_understood_and_so_is_nonsense() {
    let answer = "root=yes\nos=ubuntu debian\nos_name=Ubuntu 24.04\nos_version=24.04\nsystemd=yes\nmissing=ovs-vsctl\nmissing=ovs-vswitchd\nbinary=\ncredential_age=-5\nlog=a;b;\n";
    let probe = probe::parse(answer);
    assert_eq!(probe.missing, ["openvswitch-switch"]);
    assert_eq!(
        (
            probe.os_version,
            probe.binary,
            probe.credential_age,
            probe.systemd
        ),
        (Some(24), None, Some(0), true)
    );
    assert_eq!(probe.log, "a; b");
    assert_eq!(probe::parse("\u{0}=\n===\nroot"), Probe::default());
}

/// Everything but the API: a sandbox host is made, looked at, and bootstrapped twice.
#[tokio::test]
async fn a_sandbox_host_is_bootstrapped_over_ssh() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: the sandbox needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = std::env::var_os("SKYSAIL_CACHE").map_or_else(
        || std::env::temp_dir().join("skysail-test-cache"),
        Into::into,
    );
    let settings = sandbox::Settings {
        instance: "cfh".into(),
        block: "198.18.246.0/24".parse().unwrap(),
        state_dir: folder.path().join("s"),
        cache_dir: cache,
    };
    sandbox::Fabric::remove(&settings).await.unwrap();
    let spec = skysail_schemas::cloud::SandboxSettings {
        subnet: "10.1.0.0/24".parse().unwrap(),
    };
    let driver = sandbox::Sandbox::new("east", spec, settings.clone());
    let ssh = Folder(folder.path().join("ssh"));
    // Without a public address, so that the way through the router is seen to work too.
    let order = Order {
        public_address: false,
        authorized_keys: vec![ssh.public_key().await.unwrap()],
        ..order()
    };
    let machine = driver.create(&order).await.unwrap();
    let key = ssh.own_key().await.unwrap();
    let remote = loop {
        match ssh.connect("east-1", &machine.ssh, &key).await {
            Ok(remote) => break remote,
            Err(Trouble::Unreachable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(other) => panic!("{other:?}"),
        }
    };
    let first = probe::parse(&remote.look(&probe::script()).await.unwrap());
    assert_eq!(
        (
            first.missing.len(),
            first.root,
            first.systemd,
            &first.binary
        ),
        (0, true, false, &None),
        "{first:?}"
    );
    let hash = String::from_utf8(
        std::process::Command::new("sha256sum")
            .arg("/proc/self/exe")
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    assert_eq!(hash.len(), 64 + 2 + "/proc/self/exe\n".len());
    let own = std::process::Command::new("sha256sum")
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let hash = String::from_utf8_lossy(&own.stdout)[..64].to_owned();
    for _ in 0..2 {
        install::binary(&remote, &hash).await.unwrap();
        install::credential(&remote, "kind: Config\n")
            .await
            .unwrap();
        install::start(&remote, "east-1", false).await.unwrap();
    }
    let second = probe::parse(&remote.look(&probe::script()).await.unwrap());
    assert_eq!(second.binary, Some(hash));
    assert!(second.credential_age.is_some_and(|a| a < 60));
    // The test program is no agent: it ends, is started again, and is not started in a hurry.
    let wait = "for i in $(seq 300); do [ -s /var/log/skysail/skysail-agent.log ] && break; sleep 0.1; done
        stat -c %a /etc/skysail/agent.kubeconfig; a=$(sh -c 'echo $$'); sleep 2; b=$(sh -c 'echo $$'); [ $((b - a)) -lt 40 ]";
    assert_eq!(
        remote
            .work(wait, tokio::io::empty(), Duration::from_secs(60))
            .await
            .unwrap()
            .trim(),
        "600"
    );
    remote.close().await;

    // Another key is refused, and a machine that shows another host key is not trusted.
    let stranger = Folder(folder.path().join("stranger"));
    let wrong = stranger.own_key().await.unwrap();
    assert!(matches!(
        ssh.connect("east-1", &machine.ssh, &wrong).await,
        Err(Trouble::KeyRefused(_))
    ));
    driver.delete(&machine.id).await.unwrap();
    let anew = driver.create(&order).await.unwrap();
    let changed = loop {
        match ssh.connect("east-1", &anew.ssh, &key).await {
            Err(Trouble::Unreachable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            other => break other.err(),
        }
    };
    assert!(
        matches!(changed, Some(Trouble::HostKeyChanged(_))),
        "{changed:?}"
    );
    ssh.forget("east-1").await;
    assert!(ssh.connect("east-1", &anew.ssh, &key).await.is_ok());
    sandbox::Fabric::remove(&settings).await.unwrap();
}
