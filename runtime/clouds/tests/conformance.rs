//! One suite for all drivers: what the contract says, asked of each.
//!
//! The sandbox is asked for real and needs root and `mmdebstrap`; without root its
//! tests say so and pass. `SKYSAIL_CACHE` names a folder where the hosts' root
//! filesystem is kept between runs. Virtual machines are asked where `SKYSAIL_TEST_VM` is set,
//! as `make test-vm` does, since emulated ones take minutes.
#![allow(clippy::unwrap_used)]

mod double;
#[path = "double/hetzner.rs"]
mod hetzner;

use double::Double;
use ipnet::Ipv4Net;
use skysail_clouds::{
    Driver, Error, Machine, Order, State, open,
    sandbox::{Fabric, Settings},
};
use skysail_schemas::{
    cloud::{CloudSpec, Driver as Kind, QemuSettings, SandboxSettings, SshMachine, SshSettings},
    host::Resources,
    quantity::{Bytes, Cpu},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

fn order(name: &str, public_address: bool, key: &str) -> Order {
    Order {
        name: name.into(),
        // A size of EC2's; the sandbox makes machines to measure, whatever the size is called.
        offer: "t3.medium".into(),
        resources: Resources {
            cpu: Cpu(1000),
            memory: Bytes(1 << 30),
            disk: Bytes(1 << 30),
        },
        public_address,
        authorized_keys: vec![key.into()],
        tags: BTreeMap::from([("skysail.dev/host".into(), name.into())]),
        spot: false,
        instead_of: None,
    }
}

/// The contract of [`Driver`], sentence by sentence. `driver` has no machines and
/// room for two; `again` opens the same cloud as a process after a crash would.
async fn conforms(driver: &dyn Driver, again: &dyn Driver, key: &str) -> Vec<Machine> {
    driver.offers().await.unwrap();
    assert!(driver.list().await.unwrap().is_empty());
    assert!(
        matches!(driver.get("nobody").await, Err(Error::NotFound(_))),
        "an absent machine is NotFound"
    );
    driver.delete("nobody").await.unwrap();

    let (first, second) = (order("conf-a", true, key), order("conf-b", false, key));
    let (a, b) = tokio::join!(driver.create(&first), driver.create(&second));
    let a = running(driver, &a.unwrap().id).await;
    let b = running(driver, &b.unwrap().id).await;
    assert_ne!(a.id, b.id, "two orders are two machines");
    assert_ne!(
        (a.internal, a.ssh.address.clone()),
        (b.internal, b.ssh.address.clone())
    );
    assert_eq!(
        (a.name.as_str(), a.tags.clone()),
        ("conf-a", first.tags.clone())
    );
    assert_eq!(
        again.create(&first).await.unwrap(),
        a,
        "create is idempotent over processes"
    );
    assert_eq!(again.get(&a.id).await.unwrap(), a);
    assert_eq!(driver.list().await.unwrap(), [a.clone(), b.clone()]);
    assert!(
        matches!(driver.retire().await, Err(Error::Refused(_))),
        "a cloud with machines does not go"
    );
    vec![a, b]
}

/// The machine `id` once it runs.
async fn running(driver: &dyn Driver, id: &str) -> Machine {
    for _ in 0..600 {
        let machine = driver.get(id).await.unwrap();
        if machine.state == State::Running {
            return machine;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("machine {id} does not run after a minute");
}

async fn ends(driver: &dyn Driver, machines: &[Machine]) {
    for machine in machines {
        driver.delete(&machine.id).await.unwrap();
        driver.delete(&machine.id).await.unwrap();
        assert!(matches!(
            driver.get(&machine.id).await,
            Err(Error::NotFound(_))
        ));
    }
    assert!(driver.list().await.unwrap().is_empty());
    driver.retire().await.unwrap();
    driver.retire().await.unwrap();
}

fn site(instance: &str, block: &str, folder: &tempfile::TempDir) -> open::Site {
    let cache = std::env::var_os("SKYSAIL_CACHE").map_or_else(
        || std::env::temp_dir().join("skysail-test-cache"),
        PathBuf::from,
    );
    open::Site {
        data_dir: folder.path().into(),
        fabric: Settings {
            instance: instance.into(),
            block: block.parse().unwrap(),
            state_dir: folder.path().join("sandbox"),
            cache_dir: cache,
        },
        ec2: Default::default(),
        hetzner: Default::default(),
    }
}

/// The Cloud `name` of `spec`, without credentials.
fn opened(name: &str, spec: &CloudSpec, site: &open::Site) -> Box<dyn Driver> {
    open::cloud(&open::Account::new(name, "uid-of-the-cloud", spec), site).unwrap()
}

fn sandbox(subnet: &str) -> CloudSpec {
    let subnet: Ipv4Net = subnet.parse().unwrap();
    CloudSpec {
        driver: Kind::Sandbox,
        sandbox: Some(SandboxSettings { subnet }),
        ..CloudSpec::default()
    }
}

fn virtual_machines(subnet: &str) -> CloudSpec {
    let subnet: Ipv4Net = subnet.parse().unwrap();
    CloudSpec {
        driver: Kind::Qemu,
        sandbox: None,
        qemu: Some(QemuSettings { subnet }),
        ..sandbox("10.1.0.0/24")
    }
}

fn inventory(machines: &[&str]) -> CloudSpec {
    let machine = |address: &&str| SshMachine {
        address: address.to_string(),
        port: 22,
        user: "root".into(),
    };
    let ssh = SshSettings {
        machines: machines.iter().map(machine).collect(),
        key_secret: None,
    };
    CloudSpec {
        driver: Kind::Ssh,
        ssh: Some(ssh),
        ..CloudSpec::default()
    }
}

fn output(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).output().unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr),
    )
}

fn keypair(folder: &tempfile::TempDir) -> (String, String) {
    let path = folder.path().join("key").display().to_string();
    assert!(
        output(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-f", &path]
        )
        .0
    );
    let public = std::fs::read_to_string(format!("{path}.pub")).unwrap();
    (path, public.trim().to_owned())
}

/// Runs `command` over SSH, again until sshd answers.
async fn ssh(machine: &Machine, key: &str, command: &str) -> String {
    let proxy = machine
        .ssh
        .proxy_command
        .as_ref()
        .map(|p| format!("ProxyCommand={p}"));
    let destination = format!("{}@{}", machine.ssh.user, machine.ssh.address);
    // An emulated machine boots for a minute, and answers in seconds on a busy machine.
    let (patience, answer) = if std::env::var_os("SKYSAIL_TEST_VM").is_some() {
        (Duration::from_secs(600), "-oConnectTimeout=30")
    } else {
        (Duration::from_secs(20), "-oConnectTimeout=2")
    };
    let mut args = vec![
        "-i",
        key,
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-oBatchMode=yes",
        answer,
        "-oLogLevel=ERROR",
    ];
    if let Some(proxy) = &proxy {
        args.extend(["-o", proxy]);
    }
    args.extend([destination.as_str(), command]);
    let begun = Instant::now();
    while begun.elapsed() < patience {
        let (ok, text) = output("ssh", &args);
        if ok {
            return text.trim().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!(
        "{} never answered: {:?}",
        machine.name,
        output("ssh", &args)
    );
}

fn root() -> bool {
    let root = output("id", &["-u"]).1.trim() == "0";
    if !root {
        eprintln!("skipped: the sandbox needs root");
    }
    root
}

/// Everything in the kernel that carries `instance` in its name.
fn traces(instance: &str) -> Vec<String> {
    let names = [
        ("ip", vec!["netns"]),
        ("ip", vec!["-o", "link"]),
        (
            "find",
            vec!["/sys/fs/cgroup", "-maxdepth", "3", "-name", "skysail-*"],
        ),
    ];
    let lines = names.iter().flat_map(|(program, args)| {
        output(program, args)
            .1
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let marks = [format!("{instance}-"), format!("skysail-{instance}")];
    lines
        .filter(|line| marks.iter().any(|m| line.contains(m.as_str())))
        .collect()
}

#[tokio::test]
async fn ssh_conforms_and_gives_each_machine_to_one_host() {
    let folder = tempfile::tempdir().unwrap();
    let site = site("cfs", "198.18.244.0/24", &folder);
    let spec = inventory(&["192.0.2.10", "192.0.2.11"]);
    let (driver, again) = (opened("desk", &spec, &site), opened("desk", &spec, &site));
    let machines = conforms(&*driver, &*again, "").await;
    assert!(matches!(
        driver.create(&order("conf-c", false, "")).await,
        Err(Error::NoCapacity(_))
    ));
    driver.delete(&machines[0].id).await.unwrap();
    assert_eq!(
        driver.create(&order("conf-c", false, "")).await.unwrap().id,
        machines[0].id,
        "what is released is free"
    );
    let machines = driver.list().await.unwrap();
    ends(&*driver, &machines).await;
}

#[tokio::test]
async fn ec2_conforms_and_its_machines_answer_ssh() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (key, public) = keypair(&folder);
    let site = site("cfe", "198.18.243.0/24", &folder);
    Fabric::remove(&site.fabric).await.unwrap();
    let Some(double) = Double::start(&site.fabric, "10.7.0.0/24") else {
        return;
    };
    let account = double.account("aws");
    let other = open::Site {
        ec2: Default::default(), // a process after a crash remembers nothing
        ..site.clone()
    };
    let (driver, again) = (
        open::cloud(&account, &site).unwrap(),
        open::cloud(&account, &other).unwrap(),
    );
    let machines = conforms(&*driver, &*again, &public).await;
    for machine in &machines {
        assert_eq!(ssh(machine, &key, "id -un").await, "root");
    }
    assert_eq!(double.bought().len(), 2, "nothing is bought twice");
    ends(&*driver, &machines).await;
    assert_eq!(double.living(), [""; 0]);
    drop(double);
    Fabric::remove(&site.fabric).await.unwrap();
    assert_eq!(traces("cfe"), Vec::<String>::new());
}

#[tokio::test]
async fn hetzner_conforms_and_its_machines_answer_ssh() {
    if !root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (key, public) = keypair(&folder);
    let site = site("cfz", "198.18.242.0/24", &folder);
    Fabric::remove(&site.fabric).await.unwrap();
    let double = hetzner::Double::start(Some((&site.fabric, "10.8.0.0/24"))).await;
    let account = double.account("htz");
    let (driver, again) = (
        open::cloud(&account, &site).unwrap(),
        open::cloud(&account, &site).unwrap(),
    );
    let machines = conforms(&*driver, &*again, &public).await;
    for machine in &machines {
        assert_eq!(ssh(machine, &key, "id -un").await, "root");
    }
    assert_eq!(double.bought(), 2, "nothing is bought twice");
    ends(&*driver, &machines).await;
    Fabric::remove(&site.fabric).await.unwrap();
    assert_eq!(traces("cfz"), Vec::<String>::new());
}

#[tokio::test]
async fn sandbox_conforms_answers_ssh_heals_and_leaves_nothing() {
    if !root() {
        return;
    }
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    let folder = tempfile::tempdir().unwrap();
    let (key, public) = keypair(&folder);
    let site = site("cfa", "198.18.245.0/24", &folder);
    let spec = sandbox("10.1.0.0/24");
    // What an earlier run that failed has left.
    Fabric::remove(&site.fabric).await.unwrap();
    let (driver, again) = (opened("east", &spec, &site), opened("east", &spec, &site));
    let machines = conforms(&*driver, &*again, &public).await;
    let (a, b) = (&machines[0], &machines[1]);
    assert!(a.external.is_some() && b.external.is_none());
    assert_eq!(ssh(a, &key, "hostname").await, "conf-a");
    assert_eq!(ssh(b, &key, "hostname").await, "conf-b");
    assert_eq!(ssh(a, &key, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max").await, (1u64 << 30).to_string());
    assert_eq!(
        ssh(
            a,
            &key,
            &format!(
                "ping -c1 -W2 {} >/dev/null && echo yes",
                b.internal.unwrap()
            )
        )
        .await,
        "yes"
    );
    assert_eq!(
        ssh(
            b,
            &key,
            &format!(
                "ping -c1 -W2 {} >/dev/null && echo yes",
                site.fabric.gateway()
            )
        )
        .await,
        "yes"
    );

    // Another cloud with the same subnet: reached by public addresses only.
    let west = opened("west", &spec, &site);
    let w = west.create(&order("conf-w", true, &public)).await.unwrap();
    let both = [a.internal, b.internal];
    assert!(
        both.contains(&w.internal),
        "two clouds do not ask each other"
    );
    let other = both.into_iter().find(|i| *i != w.internal).unwrap();
    assert_eq!(
        ssh(
            &w,
            &key,
            &format!(
                "ping -c1 -W2 {} >/dev/null && echo yes",
                a.external.unwrap()
            )
        )
        .await,
        "yes"
    );
    assert_eq!(
        ssh(
            &w,
            &key,
            &format!("ping -c1 -W1 {} >/dev/null || echo no", other.unwrap())
        )
        .await,
        "no"
    );

    // The namespaces go behind our back; the disk and the addresses stay.
    ssh(
        a,
        &key,
        "echo kept >/var/lib/skysail/mark; echo kept >/root/mark",
    )
    .await;
    let host = ssh(a, &key, "cat /etc/ssh/ssh_host_ed25519_key.pub").await;
    output(
        "sh",
        &[
            "-c",
            "kill -9 $(cat /sys/fs/cgroup/pids/skysail-cfa/conf-a/cgroup.procs); ip netns delete cfa-h-conf-a",
        ],
    );
    assert_eq!(driver.get(&a.id).await.unwrap().state, State::Stopped);
    assert_eq!(
        &driver
            .create(&order("conf-a", true, &public))
            .await
            .unwrap(),
        a
    );
    assert_eq!(
        ssh(a, &key, "cat /root/mark /var/lib/skysail/mark").await,
        "kept\nkept"
    );
    assert_eq!(
        ssh(a, &key, "cat /etc/ssh/ssh_host_ed25519_key.pub").await,
        host
    );

    // The same with only the router gone, which takes the cables along.
    output("ip", &["netns", "delete", "cfa-r-east"]);
    while driver.get(&a.id).await.unwrap().state == State::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    driver
        .create(&order("conf-a", true, &public))
        .await
        .unwrap();
    driver
        .create(&order("conf-b", false, &public))
        .await
        .unwrap();
    assert_eq!(ssh(b, &key, "hostname").await, "conf-b");

    ends(&*west, &[w]).await;
    ends(&*driver, &machines).await;
    Fabric::remove(&site.fabric).await.unwrap();
    Fabric::remove(&site.fabric).await.unwrap();
    assert_eq!(traces("cfa"), Vec::<String>::new());
    assert!(!site.fabric.state_dir.exists());
}

#[tokio::test]
async fn qemu_conforms_answers_ssh_heals_and_leaves_nothing() {
    if std::env::var_os("SKYSAIL_TEST_VM").is_none() || !root() {
        eprintln!("skipped: `make test-vm` asks virtual machines");
        return;
    }
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    let folder = tempfile::tempdir().unwrap();
    let (key, public) = keypair(&folder);
    let site = site("cfq", "198.18.246.0/24", &folder);
    let spec = virtual_machines("10.1.0.0/24");
    Fabric::remove(&site.fabric).await.unwrap();
    let (driver, again) = (opened("box", &spec, &site), opened("box", &spec, &site));
    let machines = conforms(&*driver, &*again, &public).await;
    let (a, b) = (&machines[0], &machines[1]);
    assert!(a.external.is_some() && b.external.is_none());
    assert_eq!(ssh(a, &key, "hostname").await, "conf-a");
    assert_eq!(ssh(b, &key, "hostname").await, "conf-b");
    let ping = |to: String| format!("ping -c3 -W2 {to} >/dev/null && echo yes");
    assert_eq!(
        ssh(a, &key, &ping(b.internal.unwrap().to_string())).await,
        "yes"
    );
    assert_eq!(
        ssh(b, &key, &ping(site.fabric.gateway().to_string())).await,
        "yes"
    );
    let size = ssh(a, &key, "df -B1 --output=size / | tail -n1").await;
    assert!(size.parse::<u64>().unwrap() > 900 << 20, "{size}");
    driver.delete(&b.id).await.unwrap();

    // The power goes; the disk, the addresses and the identity stay.
    let identity = "cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id";
    let before = ssh(a, &key, identity).await;
    ssh(a, &key, "echo kept >/root/mark; sync").await;
    output(
        "sh",
        &[
            "-c",
            "kill -9 $(cat /sys/fs/cgroup/pids/skysail-cfq/conf-a/cgroup.procs /sys/fs/cgroup/skysail-cfq/conf-a/cgroup.procs 2>/dev/null)",
        ],
    );
    while driver.get(&a.id).await.unwrap().state == State::Running {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let order = order("conf-a", true, &public);
    assert_eq!(&driver.create(&order).await.unwrap(), a);
    assert_eq!(ssh(a, &key, "cat /root/mark").await, "kept");
    assert_eq!(ssh(a, &key, identity).await, before);

    ends(&*driver, &machines).await;
    Fabric::remove(&site.fabric).await.unwrap();
    assert_eq!(traces("cfq"), Vec::<String>::new());
    assert!(!site.fabric.state_dir.exists());
}
