//! Looking at a machine and making a host of it.

use super::*;
use crate::host::{install, probe, ssh::Folder};
use skysail_clouds::{Driver, sandbox};
use std::time::Duration;

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
