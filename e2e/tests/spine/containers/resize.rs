//! A container that runs gets another size.

use super::{LIMIT, Trial};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, times, until};

/// Changes the size of the type that the trial is of.
fn becomes(cluster: &Cluster, spec: &Value) -> Result<()> {
    let patch = json!({ "spec": spec }).to_string();
    let what = ["patch", "instancetype", "-n", "acme", "trial"];
    let how = ["--type=merge", "-p", &patch];
    cluster.kubectl(&[&what[..], &how].concat())?.ok().map(drop)
}

/// Memory, cpu quota and processes that its control group allows.
fn limits(trial: &Trial) -> Result<[u64; 3]> {
    // One group with cgroup v2, one in each tree with v1.
    let line = format!(
        "cd /sys/fs/cgroup; g=lxc.payload.acme.{}; f() {{ for p in \"$@\"; do [ ! -e $p ] || {{ cut -d' ' -f1 $p; return; }}; done; }}; \
         f memory/$g/memory.limit_in_bytes $g/memory.max; f cpu/$g/cpu.cfs_quota_us $g/cpu.max; f pids/$g/pids.max $g/pids.max",
        trial.name
    );
    let text = trial.cluster.on_host(&trial.host()?, &line)?.ok()?;
    let numbers: Vec<u64> = text.lines().filter_map(|l| l.parse().ok()).collect();
    numbers
        .try_into()
        .map_err(|n| anyhow::anyhow!("{n:?} of {text}"))
}

/// Waits until the condition `kind` has `status` and `reason`; its message.
fn says(trial: &Trial, kind: &str, expected: (&str, &str)) -> Result<String> {
    let what = format!("{kind} to be {expected:?}");
    let (message, _) = until(&what, LIMIT, || {
        let object = trial.object()?;
        let all = object["status"]["conditions"].as_array();
        let found = all.and_then(|all| all.iter().find(|c| c["type"] == kind));
        let found = found.context("it is not there")?;
        ensure!(
            (found["status"].as_str(), found["reason"].as_str())
                == (Some(expected.0), Some(expected.1)),
            "{found}"
        );
        Ok(found["message"].as_str().unwrap_or_default().to_owned())
    })?;
    Ok(message)
}

fn has(trial: &Trial, expected: [u64; 3]) -> Result<()> {
    let (_, took) = until(&format!("limits of {expected:?}"), LIMIT, || {
        let now = limits(trial)?;
        ensure!(now == expected, "{now:?}");
        Ok(())
    })?;
    times::record("resized", took)
}

pub fn live(cluster: &Cluster) -> Result<()> {
    Trial::with(cluster, "sized", &json!({}), |trial| {
        trial.ready()?;
        let pid = trial.pid()?;
        ensure!(limits(trial)? == [64 << 20, 20_000, 64], "at its start");
        let larger = json!({ "cpu": "300m", "memory": "96Mi", "pids": 96, "disk": "96Mi" });
        becomes(cluster, &larger)?;
        has(trial, [96 << 20, 30_000, 96])?;
        says(trial, "Resized", ("True", "Applied"))?;
        ensure!(trial.pid()? == pid, "it was restarted");
        // Not every kernel lets what is mounted grow: then it grows at the next start.
        until("its disk to be told of", LIMIT, || {
            let told = trial.condition("DiskLimited")?;
            ensure!(told.0 == "True", "{told:?}");
            if told.1 == "GrowsAtNextStart" {
                trial.patch(&json!({ "running": false }))?;
                trial.phase("Stopped")?;
                trial.patch(&json!({ "running": true }))?;
                trial.ready()?;
            }
            let told = trial.condition("DiskLimited")?;
            ensure!(told.1 == "Enforced", "{told:?}");
            Ok(())
        })?;
        trial.sh("head -c 80M /dev/zero >/big; rm /big")?.ok()?;
        // Another type that the spec names, smaller but for its disk.
        let pid = trial.pid()?;
        trial.patch(&json!({ "instanceType": "small" }))?;
        let small = cluster.get("instancetype", "acme", "small")?;
        until("its size to be that of small", LIMIT, || {
            let object = trial.object()?;
            let (cpu, wanted) = (
                &object["status"]["allocation"]["cpu"],
                &small["spec"]["cpu"],
            );
            ensure!(cpu == wanted, "{cpu}, not {wanted}");
            Ok(())
        })?;
        ensure!(trial.pid()? == pid, "it was restarted");
        Ok(())
    })
}

pub fn refused(cluster: &Cluster) -> Result<()> {
    Trial::with(cluster, "unsized", &json!({}), |trial| {
        trial.ready()?;
        let (host, pid) = (trial.host()?, trial.pid()?);
        becomes(cluster, &json!({ "memory": "8Ti" }))?;
        let said = says(trial, "ResizePending", ("True", "Infeasible"))?;
        ensure!(said.contains(&host) && said.contains("memory"), "{said}");
        becomes(cluster, &json!({ "memory": "64Mi", "disk": "16Mi" }))?;
        let said = says(trial, "ResizePending", ("True", "Infeasible"))?;
        ensure!(said.contains("does not shrink"), "{said}");
        becomes(cluster, &json!({ "disk": "32Mi" }))?;
        says(trial, "ResizePending", ("False", "Accepted"))?;

        let hold = "mount -t tmpfs none /mnt && head -c 40M /dev/zero >/mnt/held";
        trial.sh(hold)?.ok()?;
        becomes(cluster, &json!({ "memory": "32Mi" }))?;
        says(trial, "Resized", ("False", "MemoryInUse"))?;
        ensure!(limits(trial)?[0] == 64 << 20, "{:?}", limits(trial)?);
        trial.sh("rm /mnt/held")?.ok()?;
        says(trial, "Resized", ("True", "Applied"))?;
        ensure!(limits(trial)?[0] == 32 << 20, "{:?}", limits(trial)?);
        ensure!(trial.pid()? == pid, "it was restarted");
        let ready = trial.condition("Ready")?;
        ensure!(ready.0 == "True", "{ready:?}");
        Ok(())
    })
}
