//! The life of hosts that are bought: joined with those of another cloud, lost, replaced, refused, given back.

use crate::{Case, Clouds, LIMIT, credentials};
use anyhow::{Result, ensure};
use serde_json::json;
use skysail_e2e::until;
use std::time::Instant;

pub const CASES: &[Case] = &[
    (
        "hosts_of_two_clouds_become_ready_and_their_containers_reach_each_other",
        joined,
    ),
    (
        "a_server_killed_after_a_launch_whose_answer_was_lost_buys_one_machine",
        once,
    ),
    (
        "a_cloud_whose_api_is_down_loses_no_host_and_is_not_bought_from_twice",
        api_down,
    ),
    (
        "a_system_whose_machines_cost_money_is_not_removed_with_them",
        kept,
    ),
    (
        "a_machine_ended_behind_our_back_is_replaced_and_its_containers_run_again",
        replaced,
    ),
    (
        "quota_and_capacity_are_said_on_the_host_that_lacks_them",
        refused,
    ),
    (
        "no_secret_is_in_logs_events_status_or_arguments",
        credentials::nowhere,
    ),
    (
        "what_is_deleted_is_given_back_with_its_addresses_and_its_cloud_leaves_nothing",
        given_back,
    ),
];

const SYSTEM: &str = "apiVersion: v1
kind: Namespace
metadata: {name: acme}
---
apiVersion: skysail.dev/v1alpha1
kind: Cloud
metadata: {name: east}
spec: {driver: sandbox, region: east, sandbox: {subnet: 10.1.0.0/24}}
---
apiVersion: skysail.dev/v1alpha1
kind: Host
metadata: {name: east-1}
spec: {cloud: east, machineType: east-small, publicAddress: true}
---
apiVersion: skysail.dev/v1alpha1
kind: Host
metadata: {name: aws-1}
spec: {cloud: aws, machineType: aws-t3-medium, publicAddress: true}
---
apiVersion: skysail.dev/v1alpha1
kind: Image
metadata: {name: debian}
spec: {debian: {suite: trixie, packages: [systemd, systemd-sysv, iproute2, iputils-ping, netcat-openbsd, procps]}}
---
apiVersion: skysail.dev/v1alpha1
kind: InstanceType
metadata: {name: small, namespace: acme}
spec: {cpu: 250m, memory: 192Mi, disk: 512Mi}
---
apiVersion: skysail.dev/v1alpha1
kind: Network
metadata: {name: private, namespace: acme}
spec: {cidr: 10.0.0.0/24}
---
apiVersion: skysail.dev/v1alpha1
kind: Container
metadata: {name: a, namespace: acme}
spec: {image: debian, instanceType: small, networks: [{name: private, address: 10.0.0.10}], placement: {clouds: [east]}}
---
apiVersion: skysail.dev/v1alpha1
kind: Container
metadata: {name: b, namespace: acme}
spec: {image: debian, instanceType: small, networks: [{name: private, address: 10.0.0.11}], placement: {clouds: [aws]}}
";

fn joined(clouds: &Clouds) -> Result<()> {
    let begun = Instant::now();
    clouds.apply(SYSTEM)?;
    for host in ["east-1", "aws-1"] {
        clouds.ready("host", host)?;
        eprintln!("{host} ready after {:.1} s", begun.elapsed().as_secs_f64());
    }
    for container in ["a", "b"] {
        clouds.ready("container", container)?;
    }
    clouds.reaches("a", "10.0.0.11")?;
    clouds.reaches("b", "10.0.0.10")?;
    eprintln!("connected after {:.1} s", begun.elapsed().as_secs_f64());
    let (_, _) = until("the price of what runs", LIMIT, || {
        let cloud = clouds.cluster.get("cloud", "acme", "aws")?;
        ensure!(
            cloud["status"]["spendPerHour"] == "0.042",
            "{}",
            cloud["status"]
        );
        Ok(())
    })?;
    ensure!(clouds.double.bought().len() == 1);
    Ok(())
}

fn once(clouds: &Clouds) -> Result<()> {
    let before = clouds.double.bought().len();
    let hide = json!({"action": "DescribeInstances", "hide": true, "count": 4});
    clouds
        .double
        .fault(json!({"action": "RunInstances", "dryRun": false, "lost": true}));
    clouds.apply("apiVersion: skysail.dev/v1alpha1\nkind: Host\nmetadata: {name: aws-2}\nspec: {cloud: aws, machineType: aws-t3-medium}\n")?;
    until("the launch", LIMIT, || {
        ensure!(clouds.double.bought().len() > before);
        Ok(())
    })?;
    clouds.cluster.kill_server()?;
    clouds.double.fault(hide);
    clouds.cluster.start(&[])?;
    clouds.ready("host", "aws-2")?;
    let bought = clouds.double.bought();
    ensure!(bought.len() == before + 1, "{bought:?}");
    ensure!(bought.last() == Some(&clouds.machine("aws-2")?));
    clouds.cluster.kubectl(&["delete", "host", "aws-2"])?.ok()?;
    ensure!(clouds.double.living() == [clouds.machine("aws-1")?]);
    Ok(())
}

fn api_down(clouds: &Clouds) -> Result<()> {
    let (bought, machine) = (clouds.double.bought(), clouds.machine("aws-1")?);
    let page = "<html><body>503 Service Unavailable</body></html>";
    let down = json!({"action": "*", "html": page, "status": 503, "count": 1_000_000});
    clouds.double.fault(down);
    let reachable = ["cloud", "aws", "Reachable"];
    let touch = ["annotate", "cloud", "aws", "down=now"];
    clouds.cluster.kubectl(&touch)?.ok()?;
    clouds.says(reachable, ["False", "", "web page"])?;
    let provisioned = ["host", "aws-1", "Provisioned"];
    clouds.says(provisioned, ["True", "AgentAlive", "cannot be asked"])?;
    clouds.ready("host", "aws-1")?;
    clouds.reaches("a", "10.0.0.11")?;
    clouds.double.heal();
    clouds.ready("cloud", "aws")?;
    clouds.says(provisioned, ["True", "Running", ""])?;
    ensure!(clouds.double.bought() == bought);
    ensure!(clouds.machine("aws-1")? == machine);
    Ok(())
}

fn kept(clouds: &Clouds) -> Result<()> {
    let output = clouds.cluster.command("down").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && said.contains("kubectl delete host aws-1"),
        "{output:?}"
    );
    clouds.ready("host", "aws-1").map(drop)
}

fn replaced(clouds: &Clouds) -> Result<()> {
    let machine = clouds.machine("aws-1")?;
    let begun = Instant::now();
    clouds.double.kill(&machine);
    until("another machine", LIMIT, || {
        ensure!(clouds.machine("aws-1")? != machine);
        Ok(())
    })?;
    eprintln!(
        "another machine after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    clouds.ready("host", "aws-1")?;
    clouds.ready("container", "b")?;
    clouds.reaches("a", "10.0.0.11")?;
    eprintln!(
        "connected again after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    ensure!(clouds.double.living() == [clouds.machine("aws-1")?]);
    Ok(())
}

fn refused(clouds: &Clouds) -> Result<()> {
    let before = clouds.double.bought();
    for (code, reason) in [
        ("VcpuLimitExceeded", "QuotaExceeded"),
        ("InsufficientInstanceCapacity", "NoCapacity"),
    ] {
        let fault =
            json!({"action": "RunInstances", "dryRun": false, "code": code, "count": 1_000_000});
        clouds.double.fault(fault);
        clouds.apply("apiVersion: skysail.dev/v1alpha1\nkind: Host\nmetadata: {name: aws-3}\nspec: {cloud: aws, machineType: aws-t3-medium, spot: true}\n")?;
        clouds.says(["host", "aws-3", "Provisioned"], ["False", reason, code])?;
        clouds.cluster.kubectl(&["delete", "host", "aws-3"])?.ok()?;
        clouds.double.heal();
    }
    ensure!(clouds.double.bought() == before);
    Ok(())
}

fn given_back(clouds: &Clouds) -> Result<()> {
    let delete = |args: &[&str]| -> Result<()> {
        let all = [&["delete", "--timeout=120s"], args].concat();
        clouds.cluster.kubectl(&all)?.ok().map(drop)
    };
    delete(&["container", "-n", "acme", "b"])?;
    // A machine of this Cloud that no Host stands for: what a control plane restored from an
    // older state would find.
    let uid = crate::text(&clouds.cluster.get("cloud", "acme", "aws")?["metadata"]["uid"]);
    let orphan = orphan(clouds, &uid)?;
    ensure!(clouds.double.living().contains(&orphan));
    let touch = ["annotate", "cloud", "aws", "orphan=there"];
    clouds.cluster.kubectl(&touch)?.ok()?;
    until("the orphan to be given back", LIMIT, || {
        ensure!(!clouds.double.living().contains(&orphan));
        Ok(())
    })?;
    delete(&["host", "aws-1"])?;
    ensure!(clouds.double.living().is_empty());
    delete(&["cloud", "aws"])?;
    ensure!(clouds.double.calls("ReleaseAddress") == clouds.double.calls("AllocateAddress"));
    ensure!(clouds.double.calls("DeleteSecurityGroup") == 1);
    ensure!(clouds.double.calls("DeleteKeyPair") >= 1);
    let left = clouds.cluster.kubectl(&["get", "machinetypes"])?.ok()?;
    ensure!(!left.contains("aws-"), "{left}");
    Ok(())
}

fn orphan(clouds: &Clouds, uid: &str) -> Result<String> {
    let mut account = clouds.double.account("aws");
    account.uid = uid.to_owned();
    if let Some(secret) = &mut account.secret {
        let keys = [
            ("accessKeyId", "AKIDNEXT"),
            ("secretAccessKey", "the-next-secret"),
        ];
        secret.data = keys.map(|(k, v)| (k.to_owned(), v.into())).into();
    }
    let driver = skysail_clouds::open::cloud(&account, &Default::default())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let order = skysail_clouds::Order {
        name: "left-behind".into(),
        offer: "t3.medium".into(),
        resources: Default::default(),
        public_address: false,
        authorized_keys: vec![],
        tags: Default::default(),
        spot: false,
        instead_of: None,
    };
    Ok(runtime.block_on(driver.create(&order))?.id)
}
