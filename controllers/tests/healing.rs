//! What is wrong outside the API is said with its way out, and heals by itself when it is mended.

#![allow(clippy::unwrap_used)] // A test may.

mod world;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams, WatchParams};
use serde_json::json;
use skysail_clouds::{Driver, Machine, Order, open::Site, sandbox};
use skysail_schemas::host::Resources;
use skysail_schemas::quantity::{Bytes, Cpu};
use skysail_schemas::{Container, Host, Image};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use world::*;

/// A site in a folder of the test, with a fabric of its own.
fn site(folder: &Path, instance: &str, block: &str, cache: &Path) -> Site {
    let fabric = sandbox::Settings {
        instance: instance.into(),
        block: block.parse().unwrap(),
        state_dir: folder.join("sandbox"),
        cache_dir: cache.to_owned(),
    };
    let data_dir = folder.to_owned();
    let ec2 = Default::default();
    Site {
        data_dir,
        fabric,
        ec2,
        hetzner: Default::default(),
    }
}

fn sh(line: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", line])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn says(conditions: &[Condition], kind: &str, reason: &str, way_out: &str) -> bool {
    let mut found = conditions.iter().filter(|c| c.type_ == kind);
    found.any(|c| c.status == "False" && c.reason == reason && c.message.contains(way_out))
}

/// A machine that Skysail did not make.
struct Foreign {
    address: String,
    /// The owner's way in.
    login: String,
    settings: sandbox::Settings,
}

impl Foreign {
    async fn new(folder: &Path, site: &Site) -> Self {
        sandbox::Fabric::remove(&site.fabric).await.unwrap();
        let key = folder.join("owner");
        sh(&format!(
            "ssh-keygen -q -t ed25519 -N '' -f {}",
            key.display()
        ));
        let spec = skysail_schemas::cloud::SandboxSettings {
            subnet: "10.1.0.0/24".parse().unwrap(),
        };
        let driver = sandbox::Sandbox::new("foreign", spec, site.fabric.clone());
        let order = Order {
            name: "own-1".into(),
            public_address: true,
            authorized_keys: vec![sh(&format!("cat {}.pub", key.display()))],
            tags: BTreeMap::new(),
            spot: false,
            instead_of: None,
            offer: "small".into(),
            resources: Resources {
                cpu: Cpu(1000),
                memory: Bytes(1 << 30),
                disk: Bytes(1 << 30),
            },
        };
        let Machine { ssh, .. } = driver.create(&order).await.unwrap();
        let login = format!(
            "ssh -i {} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=5 root@{}",
            key.display(),
            ssh.address
        );
        sh(&format!(
            "timeout 20 sh -c 'until {login} true; do :; done'"
        ));
        Self {
            address: ssh.address,
            login,
            settings: site.fabric.clone(),
        }
    }

    fn run(&self, line: &str) -> String {
        sh(&format!("{} \"{line}\"", self.login))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let remove = sandbox::Fabric::remove(&self.settings);
        let runtime = tokio::runtime::Handle::current();
        if let Err(e) = tokio::task::block_in_place(|| runtime.block_on(remove)) {
            eprintln!("the machine stays: {e}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_be_used_becomes_a_host_when_it_is_mended() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: the sandbox needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = std::env::var_os("SKYSAIL_CACHE").map_or_else(
        || std::env::temp_dir().join("skysail-test-cache"),
        Into::into,
    );
    let site = site(folder.path(), "chl", "198.18.247.0/24", &cache);
    let machine = Foreign::new(folder.path(), &site).await;
    machine.run("sed -i.good -e s/^ID=.*/ID=alpine/ -e s/^PRETTY_NAME=.*/PRETTY_NAME=Alpine/ /etc/os-release");
    let world = World::new().await;
    let controllers = world.controllers_at(&["host"], site);
    let hosts = world.all::<Host>();
    let told = async |kind: &str, reason: &str, way_out: &str| {
        let holds = |h: &Host| {
            let status = h.status.clone().unwrap_or_default();
            says(&status.conditions, kind, reason, way_out)
                && says(&status.conditions, "Ready", reason, way_out)
        };
        wait(&hosts, "own-1", reason, holds).await
    };
    let spec = json!({"ssh": {"address": machine.address, "port": 1}});
    create(&hosts, json!({"metadata": {"name": "own-1"}, "spec": spec})).await;
    told(
        "Reachable",
        "Unreachable",
        "is the machine up and the address right?",
    )
    .await;

    let port = json!({"spec": {"ssh": {"port": 22}}});
    let params = PatchParams::default();
    hosts
        .patch("own-1", &params, &Patch::Merge(port))
        .await
        .unwrap();
    told("Reachable", "KeyRefused", "ssh/id_ed25519.pub").await;

    let own = std::fs::read_to_string(folder.path().join("ssh/id_ed25519.pub")).unwrap();
    machine.run(&format!("echo {} >>/root/.ssh/authorized_keys", own.trim()));
    told(
        "Bootstrapped",
        "WrongOperatingSystem",
        "Alpine; hosts need Debian 12",
    )
    .await;

    machine.run("mv /etc/os-release.good /etc/os-release");
    wait(&hosts, "own-1", "bootstrapped", |h| {
        let status = h.status.as_ref();
        status.is_some_and(|s| skysail_schemas::condition::is_true(&s.conditions, "Bootstrapped"))
    })
    .await;
    for step in ["BinaryCopied", "CredentialIssued", "AgentStarted"] {
        noted(&world.all::<Event>(), step).await;
    }
    controllers.stop().await;
}

/// Waits for an event, which may come after the status that tells the same.
async fn noted(events: &Api<Event>, reason: &str) {
    let params = WatchParams::default().fields(&format!("reason={reason}"));
    let mut seen = events.watch(&params, "0").await.unwrap().boxed();
    let first = tokio::time::timeout(Duration::from_secs(30), seen.next()).await;
    assert!(first.is_ok_and(|e| e.is_some()), "no {reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_digest_starts_nothing_until_it_is_corrected() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("a.tar");
    let digest = sh(&format!(
        "cd {0}; mkdir r; echo hello >r/file; tar -cf a.tar -C r .; sha256sum a.tar | cut -d' ' -f1",
        folder.path().display()
    ));
    let site = site(
        folder.path(),
        "chi",
        "198.18.248.0/24",
        &folder.path().join("cache"),
    );
    let world = World::new().await;
    world.host("h1", "4", "4Gi").await;
    let _controllers = world.controllers_at(&["image", "network", "placement", "container"], site);
    let (images, containers) = (world.all::<Image>(), world.tenant::<Container>());
    let spec =
        |digest: &str| json!({"tarball": {"path": archive, "digest": format!("sha256:{digest}")}});
    let image = json!({"metadata": {"name": "own"}, "spec": spec(&"0".repeat(64))});
    create(&images, image).await;
    let mut wants = container("c1", json!([]));
    wants["spec"]["image"] = json!("own");
    create::<Container>(&containers, wants).await;
    let refused = wait(&images, "own", "refused", |i| {
        let conditions = &i.status.clone().unwrap_or_default().conditions;
        says(conditions, "Ready", "DigestMismatch", &digest)
    })
    .await;
    assert_eq!(refused.status.unwrap().digest, None);
    let waiting = wait(&containers, "c1", "waiting", |c| {
        has_reason(scheduled(c), "ImageNotReady")
    })
    .await;
    assert_eq!(waiting.status.unwrap().host, None);

    let corrected = json!({ "spec": spec(&digest) });
    images
        .patch("own", &PatchParams::default(), &Patch::Merge(corrected))
        .await
        .unwrap();
    let placed = wait(&containers, "c1", "placed", |c| {
        scheduled(c).is_some_and(|s| s.0)
    })
    .await;
    let status = placed.status.unwrap();
    assert_eq!(status.host.as_deref(), Some("h1"));
    assert!(status.image.is_some_and(|i| i.digest.contains(&digest)));
}
