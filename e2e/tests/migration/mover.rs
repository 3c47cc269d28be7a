//! A container that is moved about, with something in it that must not be lost.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, until};
use std::time::Duration;

/// How long anything here may take.
pub const LIMIT: Duration = Duration::from_secs(60);
/// The hosts of [`MANIFESTS`].
pub const HOSTS: [&str; 3] = ["east-1", "east-2", "west-1"];

/// Hosts, and a tenant with a container that stays where it is.
pub const MANIFESTS: &str = "
apiVersion: skysail.dev/v1alpha1
kind: Host
metadata: {name: east-1}
spec: {cloud: east, machineType: east-small, publicAddress: true}
---
apiVersion: skysail.dev/v1alpha1
kind: Host
metadata: {name: east-2}
spec: {cloud: east, machineType: east-small, publicAddress: true}
---
apiVersion: skysail.dev/v1alpha1
kind: Host
metadata: {name: west-1}
spec: {cloud: west, machineType: west-small, publicAddress: true}
---
apiVersion: v1
kind: Namespace
metadata: {name: acme}
---
apiVersion: skysail.dev/v1alpha1
kind: InstanceType
metadata: {name: small, namespace: acme}
spec: {cpu: 200m, memory: 96Mi, disk: 128Mi}
---
apiVersion: skysail.dev/v1alpha1
kind: Network
metadata: {name: private, namespace: acme}
spec: {cidr: 10.0.0.0/24, dnsDomain: acme.internal}
---
apiVersion: skysail.dev/v1alpha1
kind: Container
metadata: {name: still, namespace: acme}
spec:
  image: waits
  instanceType: small
  networks: [{name: private}]
  placement: {host: east-1}
---
apiVersion: skysail.dev/v1alpha1
kind: Image
metadata: {name: waits}
spec:
  debian:
    suite: trixie
    packages: [systemd, systemd-sysv, iproute2, iputils-ping, netcat-openbsd, procps]
  init: [/bin/sh, -c, \"trap 'exit 0' PWR TERM; while :; do sleep 60 & wait $!; done\"]
";

/// Counts, and says each number over one connection to the container that stays.
const TELL: &str = "systemd-run -q --unit=tell bash -c 'exec 3<>/dev/tcp/still/7000; i=0; while sleep 0.05; do i=$((i+1)); echo line $i >&3 || exit 1; done'";

/// Whether all hosts can move containers live; those that cannot say why.
pub fn can_live(cluster: &Cluster) -> Result<bool> {
    for host in HOSTS {
        let object = cluster.get("host", "default", host)?;
        let all = object["status"]["conditions"].as_array().cloned();
        let all = all.unwrap_or_default();
        let live = all.iter().find(|c| c["type"] == "LiveMigration");
        if let Some(no) = live.filter(|c| c["status"] != "True") {
            eprintln!("not tried: {host} cannot: {}", no["message"]);
            return Ok(false);
        }
    }
    Ok(true)
}

/// The container, for one case.
pub struct Mover<'a> {
    pub cluster: &'a Cluster,
    pub name: &'static str,
}

impl<'a> Mover<'a> {
    /// Runs `body` with the container on `host`, then removes it.
    pub fn with(
        cluster: &'a Cluster,
        name: &'static str,
        host: &str,
        body: impl FnOnce(&Mover) -> Result<()>,
    ) -> Result<()> {
        Self::of("waits", cluster, name, host, body)
    }

    /// The same with systemd, and something that counts in memory and tells another container of it, line by line
    /// over one connection. Where hosts cannot move containers live, they say why, and so is said here.
    pub fn alive(
        cluster: &'a Cluster,
        name: &'static str,
        host: &str,
        body: impl FnOnce(&Mover) -> Result<()>,
    ) -> Result<()> {
        if !can_live(cluster)? {
            return Ok(());
        }
        Self::of("debian", cluster, name, host, |mover| {
            let listen = "pkill nc; rm -f /root/told; setsid nc -l 7000 >/root/told 2>/dev/null </dev/null &";
            let still = ["sh", "-c", listen];
            cluster.exec("acme", "still", &still)?.ok()?;
            // systemd may still be on its way up.
            until("systemd to take a service", LIMIT, || mover.sh(TELL))?;
            mover.tells()?;
            body(mover)
        })
    }

    /// A small one that moves live, with nothing in it that talks.
    pub fn lively(
        cluster: &'a Cluster,
        name: &'static str,
        host: &str,
        body: impl FnOnce(&Mover) -> Result<()>,
    ) -> Result<()> {
        if !can_live(cluster)? {
            return Ok(());
        }
        Self::of("waits", cluster, name, host, body)
    }

    fn of(
        image: &str,
        cluster: &'a Cluster,
        name: &'static str,
        host: &str,
        body: impl FnOnce(&Mover) -> Result<()>,
    ) -> Result<()> {
        let mover = Mover { cluster, name };
        let result = mover.make(image, host).and_then(|()| body(&mover));
        for host in HOSTS {
            let _ = cluster.on_host(host, "rm -f /var/lib/skysail/failpoints");
        }
        let ns = ["-n", "acme"];
        let removed = cluster
            .kubectl(&[&["delete", "ct", name, "--ignore-not-found"], &ns[..]].concat())?
            .ok();
        let removed = removed.and_then(|_| {
            cluster
                .kubectl(&[&["delete", "mig", "--all"], &ns[..]].concat())?
                .ok()
        });
        let removed = removed.and_then(|_| mover.is_nowhere());
        result.and(removed)
    }

    /// What it counts goes on, and the other container has heard every number once and in order.
    pub fn tells(&self) -> Result<()> {
        let heard = || -> Result<u64> {
            let check = ["awk", "$2 != NR {exit 1} END {print NR}", "/root/told"];
            let told = self.cluster.exec("acme", "still", &check)?.ok();
            Ok(told
                .context("a line is missing, or came twice")?
                .trim()
                .parse()?)
        };
        let before = heard()?;
        let more = || {
            let now = heard()?;
            ensure!(now > before, "nothing was heard after {before}");
            Ok(())
        };
        until("the connection to go on", LIMIT, more).map(drop)
    }

    fn make(&self, image: &str, host: &str) -> Result<()> {
        let manifest = json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": self.name, "namespace": "acme"},
            "spec": {"image": image, "instanceType": "small", "networks": [{"name": "private"}],
                "placement": {"host": host}},
        });
        self.cluster.apply(&manifest.to_string())?.ok()?;
        self.ready()?;
        let free = r#"{"spec":{"placement":null}}"#;
        let patch = [
            "patch",
            "ct",
            self.name,
            "-n",
            "acme",
            "--type=merge",
            "-p",
            free,
        ];
        self.cluster.kubectl(&patch)?.ok()?;
        self.sh("echo precious >/root/state; ln /root/state /root/state2; rm /bin/kill; dd if=/dev/urandom of=/srv/blob bs=1M count=3 2>/dev/null; md5sum /srv/blob >/srv/sum")?;
        Ok(())
    }

    pub fn ready(&self) -> Result<()> {
        let wait = [
            "wait",
            "ct",
            self.name,
            "-n",
            "acme",
            "--for=condition=Ready",
            "--timeout=60s",
        ];
        self.cluster.kubectl(&wait)?.ok().map(drop)
    }

    pub fn sh(&self, line: &str) -> Result<String> {
        self.cluster
            .exec("acme", self.name, &["sh", "-c", line])?
            .ok()
    }

    pub fn object(&self) -> Result<Value> {
        self.cluster.get("ct", "acme", self.name)
    }

    pub fn host(&self) -> Result<String> {
        let host = self.object()?["status"]["host"].as_str().map(str::to_owned);
        host.context("it has no host")
    }

    /// Asks for a move; `spec` is the rest of it.
    pub fn ask(&self, migration: &str, mut spec: Value) -> Result<()> {
        spec["container"] = json!(self.name);
        let manifest = json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Migration",
            "metadata": {"name": migration, "namespace": "acme"}, "spec": spec,
        });
        self.cluster.apply(&manifest.to_string())?.ok().map(drop)
    }

    pub fn migration(&self, name: &str) -> Result<Value> {
        self.cluster.get("mig", "acme", name)
    }

    /// Waits until the Migration is finished; its status.
    pub fn finished(&self, migration: &str) -> Result<Value> {
        let look = || {
            let status = self.migration(migration)?["status"].clone();
            ensure!(status["finishedAt"].is_string(), "it is {status}");
            Ok(status)
        };
        until("the migration to be finished", LIMIT, look).map(|(status, _)| status)
    }

    /// Asks for a move and waits for its end, which must be good.
    pub fn moves(&self, migration: &str, spec: Value) -> Result<Value> {
        self.ask(migration, spec)?;
        let status = self.finished(migration)?;
        ensure!(status["phase"] == "Succeeded", "{status}");
        Ok(status)
    }

    /// It runs on the host that the API names and is on no other, and has what it had.
    pub fn is_whole(&self) -> Result<()> {
        self.ready()?;
        let said = self
            .sh("cat /root/state2; cd /; md5sum -c /srv/sum; test ! -e /bin/kill && echo gone")?;
        ensure!(said == "precious\n/srv/blob: OK\ngone\n", "it has {said:?}");
        let host = self.host()?;
        let others = || {
            for other in HOSTS.iter().filter(|h| **h != host) {
                ensure!(!self.is_on(other)?, "something of it is on {other}");
            }
            Ok(())
        };
        until("the others to have nothing of it", LIMIT, others)?;
        ensure!(self.is_on(&host)?, "it is not on {host}");
        let ping = ["ping", "-c", "1", "-W", "1", self.name];
        let answered = || self.cluster.exec("acme", "still", &ping)?.ok();
        until("it to be reached", Duration::from_secs(10), answered).map(drop)
    }

    fn is_on(&self, host: &str) -> Result<bool> {
        let line = format!(
            "ls -d /var/lib/skysail/containers/acme.{n} /run/skysail/containers/acme.{n} /run/skysail/netns/acme.{n} 2>/dev/null; ls /var/lib/skysail/migrations /run/skysail/images 2>/dev/null | grep -v : ; true",
            n = self.name
        );
        Ok(!self.cluster.on_host(host, &line)?.ok()?.trim().is_empty())
    }

    fn is_nowhere(&self) -> Result<()> {
        let nowhere = || {
            for host in HOSTS {
                ensure!(!self.is_on(host)?, "something of it is on {host}");
            }
            Ok(())
        };
        until("nothing of it to be left", LIMIT, nowhere).map(drop)
    }
}
