//! The application of `src/bin/shop.rs` in containers: two web servers and two databases, and a client in a fifth.

use crate::{Cluster, until};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Its containers; databases first.
const PARTS: [&str; 4] = ["shop-db-0", "shop-db-1", "shop-web-0", "shop-web-1"];
const PROGRAM: &str = "/usr/local/bin/shop";
const STOP: &str = "/run/shop-stop";
const LIMIT: Duration = Duration::from_secs(90);
/// The tenant.
const TENANT: &str = "acme";

/// The application, running.
pub struct Shop<'a> {
    cluster: &'a Cluster,
    client: String,
    using: Child,
}

impl<'a> Shop<'a> {
    /// Starts it in a cloud, with the client in a container that is there already and stays; `program` is the built
    /// binary. It is in use when this returns.
    ///
    /// # Errors
    /// When something of it does not come up.
    pub fn open(cluster: &'a Cluster, program: PathBuf, cloud: &str, client: &str) -> Result<Self> {
        let list =
            json!({"apiVersion": "v1", "kind": "List", "items": PARTS.map(|p| part(p, cloud))});
        cluster.apply(&list.to_string())?.ok()?;
        for name in PARTS {
            let free = r#"{"spec":{"placement":null}}"#;
            let ready = format!("containers/{name}");
            let wait = [
                "wait",
                "-n",
                TENANT,
                &ready,
                "--for=condition=Ready",
                "--timeout=90s",
            ];
            cluster.kubectl(&wait)?.ok()?;
            let patch = ["patch", "-n", TENANT, &ready, "--type=merge", "-p", free];
            cluster.kubectl(&patch)?.ok()?;
        }
        for name in PARTS.iter().copied().chain([client]) {
            put(cluster, &program, name)?;
        }
        for name in &PARTS[..2] {
            serve(cluster, name, &["db"])?;
        }
        let databases = [address(cluster, PARTS[0])?, address(cluster, PARTS[1])?];
        for name in &PARTS[2..] {
            serve(cluster, name, &["web", &databases[0], &databases[1]])?;
        }
        let webs = [address(cluster, PARTS[2])?, address(cluster, PARTS[3])?];
        let mut command = cluster.client();
        command.args(["exec", "-n", TENANT, client, "--", PROGRAM, "client", STOP]);
        let using = command
            .args(webs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            cluster,
            client: client.to_owned(),
            using,
        })
    }

    /// Moves all of it to a cloud by one command, databases first; how long that took by the group's own account.
    ///
    /// # Errors
    /// When not all of it was moved, live, in that order.
    pub fn move_to(&self, cloud: &str) -> Result<Duration> {
        let all = "migrate -n acme -l app=two-tier --first tier=db --live --wait --to-cloud";
        let words: Vec<&str> = all.split(' ').chain([cloud]).collect();
        let said = self.cluster.skysail(&words)?.ok()?;
        let group = said.lines().next().and_then(|l| l.split(['/', ' ']).nth(1));
        let group = self
            .cluster
            .get("migrationgroup", TENANT, group.context("no group")?)?;
        let status = &group["status"];
        let name = group["metadata"]["name"].as_str().context("no name")?;
        let labels = format!("skysail.dev/migration-group={name}");
        let select = ["get", "mig", "-n", TENANT, "-o", "json", "-l", &labels];
        let moves: Value = serde_json::from_str(&self.cluster.kubectl(&select)?.ok()?)?;
        let moves = moves["items"].as_array().cloned().unwrap_or_default();
        ensure!(moves.len() == PARTS.len(), "{status}");
        let times = |tier: &str, field: &str| -> Vec<String> {
            let of = |m: &&Value| m["spec"]["container"].to_string().contains(tier);
            let text = |m: &Value| m["status"][field].as_str().map(str::to_owned);
            moves.iter().filter(of).filter_map(text).collect()
        };
        let (databases, webs) = (times("-db-", "finishedAt"), times("-web-", "startedAt"));
        ensure!(
            databases.iter().max() <= webs.iter().min(),
            "a web server went before a database: {status}"
        );
        for m in &moves {
            ensure!(m["status"]["mode"] == "Live", "{m}");
        }
        let total = status["total"].as_str().context("no total")?;
        Ok(total.parse::<skysail_schemas::duration::Span>()?.duration())
    }

    /// Ends its use and removes it; what the client saw.
    ///
    /// # Errors
    /// When the client cannot be asked.
    pub fn close(mut self) -> Result<Value> {
        let stop = ["touch", STOP];
        self.cluster.exec(TENANT, &self.client, &stop)?.ok()?;
        let mut text = String::new();
        let mut output = self.using.stdout.take().context("no output")?;
        output.read_to_string(&mut text)?;
        ensure!(self.using.wait()?.success(), "the client failed: {text}");
        remove(self.cluster)?;
        Ok(serde_json::from_str(&text)?)
    }
}

impl Drop for Shop<'_> {
    fn drop(&mut self) {
        // Nothing happens where it was closed.
        let _ = self.using.kill();
        let _ = self.using.wait();
    }
}

/// Removes what there is of it.
///
/// # Errors
/// When something stays.
pub fn remove(cluster: &Cluster) -> Result<()> {
    let delete = ["delete", "ct", "-n", TENANT, "-l", "app=two-tier"];
    cluster.kubectl(&delete)?.ok()?;
    let groups = ["delete", "mg", "-n", TENANT, "--all"];
    cluster.kubectl(&groups)?.ok()?;
    let gone = || {
        let left = [
            "get",
            "mig",
            "-n",
            TENANT,
            "-o",
            "name",
            "-l",
            "skysail.dev/migration-group",
        ];
        let left = cluster.kubectl(&left)?.ok()?;
        ensure!(left.trim().is_empty(), "there is {left}");
        Ok(())
    };
    until("the group's Migrations to be gone", LIMIT, gone).map(drop)
}

fn part(name: &str, cloud: &str) -> Value {
    let tier = if name.contains("-db-") { "db" } else { "web" };
    json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
        "metadata": {"name": name, "namespace": TENANT, "labels": {"app": "two-tier", "tier": tier}},
        "spec": {"image": "debian", "instanceType": "small", "networks": [{"name": "private"}],
            "placement": {"clouds": [cloud]}},
    })
}

fn put(cluster: &Cluster, program: &std::path::Path, container: &str) -> Result<()> {
    let (from, to) = (
        program.to_string_lossy(),
        format!("{container}:/usr/local/bin"),
    );
    cluster.skysail(&["cp", "-n", TENANT, &from, &to])?.ok()?;
    let ready = format!("chmod 755 {PROGRAM}; rm -f {STOP}");
    cluster
        .exec(TENANT, container, &["sh", "-c", &ready])?
        .ok()
        .map(drop)
}

fn serve(cluster: &Cluster, container: &str, args: &[&str]) -> Result<()> {
    let run = [&["systemd-run", "-q", "--unit=shop", PROGRAM], args].concat();
    // systemd may still be on its way up.
    let started = || cluster.exec(TENANT, container, &run)?.ok();
    until("systemd to take a service", LIMIT, started).map(drop)
}

fn address(cluster: &Cluster, container: &str) -> Result<String> {
    let object = cluster.get("container", TENANT, container)?;
    let address = object.pointer("/status/addresses/0/address");
    Ok(address
        .and_then(Value::as_str)
        .context("no address")?
        .to_owned())
}
