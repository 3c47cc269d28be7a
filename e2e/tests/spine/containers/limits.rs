//! What a container may use, and what it must not see.

use super::{LIMIT, Trial};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, until};
use std::collections::BTreeMap;

pub fn hosts_count(cluster: &Cluster) -> Result<()> {
    let list = |kind: &str| -> Result<Vec<Value>> {
        let text = cluster.kubectl(&["get", kind, "-A", "-o", "json"])?.ok()?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    until("every host to tell what it runs", LIMIT, || {
        let mut run = BTreeMap::<String, u64>::new();
        for container in list("containers")? {
            if container["status"]["phase"] == "Running" {
                let host = container["status"]["host"].as_str().unwrap_or_default();
                *run.entry(host.to_owned()).or_default() += 1;
            }
        }
        for host in list("hosts")? {
            let name = host["metadata"]["name"].as_str().unwrap_or_default();
            let (told, runs) = (
                host["status"]["containers"].as_u64(),
                run.get(name).copied().unwrap_or(0),
            );
            ensure!(told == Some(runs), "{name} tells {told:?} and runs {runs}");
        }
        Ok(())
    })
    .map(drop)
}

/// Throttled periods, processor time used and the time of day, both in nanoseconds.
fn cpu_counters(trial: &Trial) -> Result<(u64, u64, u64)> {
    // As its host counts: one group with cgroup v2, one in each tree with v1.
    let line = format!(
        "cd /sys/fs/cgroup; g=lxc.payload.acme.{}; cat $g/cpu.stat cpu/$g/cpu.stat 2>/dev/null; \
         [ ! -e cpuacct ] || echo usage_nsec $(cat cpuacct/$g/cpuacct.usage); echo now $(date +%s%N)",
        trial.name
    );
    let text = trial.cluster.on_host(&trial.host()?, &line)?.ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse::<u64>().ok())
    };
    let used = field("usage_nsec ").or_else(|| Some(field("usage_usec ")? * 1000));
    Ok((
        field("nr_throttled ").context("no nr_throttled")?,
        used.context("no usage")?,
        field("now ").context("no time")?,
    ))
}

pub fn cpu(cluster: &Cluster) -> Result<()> {
    Trial::with(cluster, "busy", &json!({}), |trial| {
        trial.ready()?;
        trial
            .sh("setsid sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &")?
            .ok()?;
        let first = cpu_counters(trial)?;
        let (last, _) = until("it to be throttled for two seconds", LIMIT, || {
            let now = cpu_counters(trial)?;
            ensure!(now.0 >= first.0 + 20, "throttled {} times", now.0 - first.0);
            Ok(now)
        })?;
        // The type's 200m, and one period of 100 ms at either end.
        let (used, passed) = (last.1 - first.1, last.2 - first.2);
        ensure!(
            used as f64 <= 0.2 * 1.1 * (passed as f64 + 2e8),
            "{used} ns of cpu in {passed} ns"
        );
        Ok(())
    })
}

pub fn memory(cluster: &Cluster) -> Result<()> {
    Trial::with(cluster, "hungry", &json!({}), |trial| {
        trial.ready()?;
        let pid = trial.pid()?;
        // Nothing ends before its input does, so `tail` must hold all of it.
        let output = trial.sh("head -c 200M /dev/zero | tail | wc -c")?;
        ensure!(
            output.stdout.trim() != (200_u64 << 20).to_string(),
            "200M could be held in 64Mi"
        );
        ensure!(trial.sh("true")?.code == Some(0), "it does not go on");
        ensure!(trial.pid()? == pid, "its init was killed");
        Ok(())
    })
}

pub fn pids(cluster: &Cluster) -> Result<()> {
    let fork = "my @p; for (1..200) { my $p = fork; if (!defined $p) { print \"refused after $_\"; last } \
                if (!$p) { sleep 60; exit } push @p, $p } kill 9, @p; wait for @p;";
    Trial::with(cluster, "many", &json!({}), |trial| {
        trial.ready()?;
        let output = cluster
            .exec("acme", trial.name, &["perl", "-e", fork])?
            .ok()?;
        let made: u64 = output
            .strip_prefix("refused after ")
            .with_context(|| format!("200 processes could be made: {output}"))?
            .parse()?;
        ensure!((10..=64).contains(&made), "{made} of 64");
        ensure!(trial.sh("true")?.code == Some(0), "it does not go on");
        Ok(())
    })
}

pub fn disk(cluster: &Cluster) -> Result<()> {
    let mut host = String::new();
    let held = "cat /sys/block/loop*/loop/backing_file 2>/dev/null | grep acme.full || true";
    Trial::with(cluster, "full", &json!({}), |trial| {
        trial.ready()?;
        host = trial.host()?;
        let told = trial.condition("DiskLimited")?;
        ensure!(told == ("True".into(), "Enforced".into()), "{told:?}");
        let output = trial.sh("head -c 100M /dev/zero >/big")?;
        ensure!(
            output.code != Some(0) && output.stderr.contains("No space left on device"),
            "100M could be written to a disk of 32Mi: {output:?}"
        );
        let size: u64 = trial.sh("stat -c %s /big")?.ok()?.trim().parse()?;
        ensure!(
            (31 << 20..50 << 20).contains(&size),
            "{size} bytes were written to a disk of 32Mi"
        );
        // Others go on, on the same host too; and so does it, when there is room again.
        trial.beside("beside", |other| {
            other.ready()?;
            other.sh("head -c 20M /dev/zero >/big")?.ok().map(drop)
        })?;
        trial
            .sh("rm /big; head -c 20M /dev/zero >/big; sync")?
            .ok()?;
        let attached = cluster.on_host(&host, held)?.ok()?;
        ensure!(attached.contains("layer.img"), "no loop device: {attached}");
        Ok(())
    })?;
    until("the loop device to be free", LIMIT, || {
        let attached = cluster.on_host(&host, held)?.ok()?;
        ensure!(attached.is_empty(), "{attached}");
        Ok(())
    })
    .map(drop)
}

pub fn files(cluster: &Cluster) -> Result<()> {
    Trial::with(cluster, "one", &json!({}), |one| {
        one.ready()?;
        one.sh("echo secret >/root/secret; echo secret >/tmp/secret; mkdir -p /srv/secret")?
            .ok()?;
        one.beside("two", |two| {
            two.ready()?;
            let seen = two
                .sh("ls -d /root/secret /tmp/secret /srv/secret 2>/dev/null")?
                .stdout;
            ensure!(seen.is_empty(), "it sees {seen}");
            let mounts = two.sh("cat /proc/mounts")?.ok()?;
            ensure!(!mounts.contains("acme.one"), "it sees mounts:\n{mounts}");
            Ok(())
        })
    })
}
