//! Starting, stopping, starting again; what is allowed, and what is switched.

use super::{LIMIT, Trial};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use skysail_e2e::{Cluster, until};
use std::process::Command;

pub fn user_data(cluster: &Cluster) -> Result<()> {
    // systemd runs it as a unit; any other init behind a wrapper.
    let spec =
        json!({ "image": "debian", "instanceType": "small", "userData": "echo ran >>/root/runs" });
    let runs = |trial: &Trial| -> Result<String> { trial.sh("cat /root/runs")?.ok() };
    let once = |trial: &Trial, sign: &str| -> Result<()> {
        trial.ready()?;
        until("the first boot script to end", LIMIT, || {
            ensure!(runs(trial)?.trim() == "ran", "not once");
            Ok(())
        })?;
        trial.patch(&json!({ "running": false }))?;
        trial.phase("Stopped")?;
        trial.patch(&json!({ "running": true }))?;
        trial.ready()?;
        // What boots after the script's turn.
        until("the second boot to be over", LIMIT, || trial.sh(sign)?.ok())?;
        let runs = runs(trial)?;
        ensure!(runs.trim() == "ran", "it ran again: {runs:?}");
        Ok(())
    };
    Trial::with(cluster, "first-systemd", &spec, |trial| {
        once(trial, "systemctl is-active multi-user.target")
    })?;
    let spec = json!({ "userData": "echo ran >>/root/runs" });
    Trial::with(cluster, "first-plain", &spec, |trial| {
        once(trial, "! pgrep -f '[r]un-first-boot'")
    })
}

pub fn stopped(cluster: &Cluster) -> Result<()> {
    Trial::with(cluster, "pauses", &json!({}), |trial| {
        trial.ready()?;
        let address = trial.object()?["status"]["addresses"].clone();
        trial.sh("echo kept >/root/kept")?.ok()?;
        trial.patch(&json!({ "running": false }))?;
        trial.phase("Stopped")?;
        let (status, reason) = trial.condition("Running")?;
        ensure!(
            (status.as_str(), reason.as_str()) == ("False", "Stopped"),
            "Running is {status} {reason}"
        );
        ensure!(
            trial.sh("true")?.code != Some(0),
            "a stopped one ran a command"
        );
        trial.patch(&json!({ "running": true }))?;
        trial.phase("Running")?;
        trial.ready()?;
        let now = trial.object()?;
        ensure!(
            now["status"]["addresses"] == address,
            "{address} became {}",
            now["status"]["addresses"]
        );
        ensure!(now["status"]["restarts"] == 0, "a start was counted");
        let kept = trial.sh("cat /root/kept; ip -4 address show eth0")?.ok()?;
        let ip = address[0]["address"].as_str().context("no address")?;
        ensure!(kept.starts_with("kept") && kept.contains(ip), "{kept}");
        Ok(())
    })
}

pub fn policies(cluster: &Cluster) -> Result<()> {
    let never = json!({ "restartPolicy": "Never" });
    Trial::with(cluster, "never", &never, |trial| {
        trial.ready()?;
        trial.sh("kill -TERM 1")?;
        trial.phase("Stopped")?;
        let (status, reason) = trial.condition("Running")?;
        ensure!(
            (status.as_str(), reason.as_str()) == ("False", "Exited"),
            "Running is {status} {reason}"
        );
        Ok(())
    })?;
    Trial::with(cluster, "always", &json!({}), |trial| {
        trial.ready()?;
        let pid = trial.pid()?;
        trial.sh("kill -TERM 1")?;
        again(trial, pid)
    })
}

/// Waits for another init than `pid`, which counts as a restart.
fn again(trial: &Trial, pid: i64) -> Result<()> {
    until("another init", LIMIT, || {
        let object = trial.object()?;
        let now = object["status"]["pid"].as_i64();
        ensure!(now.is_some() && now != Some(pid), "init {now:?}");
        let restarts = object["status"]["restarts"].as_u64();
        ensure!(restarts >= Some(1), "restarts {restarts:?}");
        Ok(())
    })
    .map(drop)
}

pub fn privileged(cluster: &Cluster) -> Result<()> {
    let spec = json!({ "privileged": true });
    let label = |text: &str| {
        cluster
            .kubectl(&["label", "--overwrite", "namespace", "acme", text])?
            .ok()
            .map(drop)
    };
    Trial::with(cluster, "mighty", &spec, |trial| {
        until("it to be refused", LIMIT, || {
            let (status, reason) = trial.condition("Scheduled")?;
            ensure!(
                (status.as_str(), reason.as_str()) == ("False", "PrivilegedNotAllowed"),
                "Scheduled is {status} {reason}"
            );
            Ok(())
        })?;
        label("skysail.dev/privileged=allowed")?;
        let result = trial.ready().and_then(|()| {
            let map = trial.sh("cat /proc/self/uid_map")?.ok()?;
            let words: Vec<_> = map.split_whitespace().collect();
            ensure!(words == ["0", "0", "4294967295"], "uid map {map}");
            Ok(())
        });
        label("skysail.dev/privileged-")?;
        result
    })
}

/// An address of documentation, which stands for the world on this machine.
const WORLD: &str = "203.0.113.9";

pub fn egress(cluster: &Cluster) -> Result<()> {
    let link = format!("{}-up", cluster.instance());
    let world = |verb: &str| -> Result<()> {
        let status = Command::new("ip")
            .args(["address", verb, &format!("{WORLD}/32"), "dev", &link])
            .status()?;
        ensure!(status.success(), "ip address {verb}");
        Ok(())
    };
    let network = |egress: bool| {
        cluster
            .apply(&format!(
                "apiVersion: skysail.dev/v1alpha1\nkind: Network\nmetadata: {{name: outward, namespace: acme}}\n\
                 spec: {{cidr: 10.9.0.0/24, egress: {egress}}}\n"
            ))?
            .ok()
            .map(drop)
    };
    world("add")?;
    let result = network(false).and_then(|()| {
        let spec = json!({ "networks": [{ "name": "outward" }] });
        Trial::with(cluster, "outward", &spec, |trial| {
            trial.ready()?;
            let reaches = |yes: bool| {
                until(&format!("the world to be reached: {yes}"), LIMIT, || {
                    let ping = trial.sh(&format!("ping -c 1 -W 1 {WORLD}"))?;
                    ensure!((ping.code == Some(0)) == yes, "{}", ping.stdout);
                    Ok(())
                })
                .map(drop)
            };
            reaches(false)?;
            network(true)?;
            reaches(true)?;
            network(false)?;
            reaches(false)
        })
    });
    let removed = cluster
        .kubectl(&[
            "delete",
            "network",
            "-n",
            "acme",
            "outward",
            "--ignore-not-found",
        ])
        .and_then(skysail_e2e::Output::ok);
    world("delete")?;
    result.and(removed.map(drop))
}
