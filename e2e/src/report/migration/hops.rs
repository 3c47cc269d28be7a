//! One container that works, moved again and again between two clouds while a client of it watches.

use super::Case;
use crate::report::{Better, Report, quantile};
use crate::{Cluster, until};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The container that talks to the one that is moved.
const CLIENT: &str = "web-0";
const PORT: &str = "5800";
/// Where the workload lies in both.
const FOLDER: &str = "/usr/local/bin";
const PROGRAM: &str = "/usr/local/bin/workload";

/// Names of where the time goes in which a container stands, in this order, as the API and the report have them.
const PARTS: [(&str, &str); 5] = [
    ("dump", "1_dump"),
    ("transfer", "2_transfer"),
    ("restore", "3_restore"),
    ("commit", "4_commit"),
    ("resume", "5_resume"),
];

/// What the hops showed, in milliseconds where it is a time.
#[derive(Default)]
struct Seen {
    parts: [Vec<f64>; PARTS.len()],
    freeze: Vec<f64>,
    said: Vec<f64>,
    stall: Vec<f64>,
    ratio: Vec<f64>,
    total: Vec<f64>,
    bytes: Vec<f64>,
    done: usize,
    lost: f64,
    broken: f64,
}

pub fn measure(cluster: &Cluster, case: &Case, report: &mut Report) -> Result<()> {
    let moved = make(cluster, case)?;
    put(cluster, &moved)?;
    put(cluster, CLIENT)?;
    serve(cluster, case, &moved)?;
    let address = address(cluster, &moved)?;
    until("the workload", Duration::from_secs(60), || {
        stats(cluster, &address).map(drop)
    })?;
    let mut seen = Seen::default();
    let result =
        (0..case.hops).try_for_each(|turn| hop(cluster, case, &moved, turn, &address, &mut seen));
    let remove = ["delete", "-n", "acme", "container", &moved, "--wait=false"];
    cluster.kubectl(&remove)?.ok()?;
    write(case, seen, report);
    result
}

/// A container of its own: those of the quickstart say where they must be. Returns its name.
fn make(cluster: &Cluster, case: &Case) -> Result<String> {
    let name = format!("mover-{}", case.name);
    let mut image = cluster.get("image", "default", "debian")?["spec"].clone();
    if !case.systemd {
        let waits = "trap 'exit 0' PWR TERM; while :; do sleep 60 & wait $!; done";
        image["init"] = json!(["/bin/sh", "-c", waits]);
    }
    let memory = format!("{}Mi", 192 + case.memory.0);
    let objects = [
        json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": image}),
        json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "InstanceType",
            "metadata": {"name": name, "namespace": "acme"},
            "spec": {"cpu": "250m", "memory": memory, "disk": "512Mi"},
        }),
        json!({
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": name, "namespace": "acme"},
            "spec": {"image": name, "instanceType": name, "networks": [{"name": "private"}]},
        }),
    ];
    for object in objects {
        cluster.apply(&object.to_string())?.ok()?;
    }
    let ready = [
        "wait",
        "-n",
        "acme",
        "container",
        &name,
        "--for=condition=Ready",
    ];
    cluster
        .kubectl(&[&ready[..], &["--timeout=120s"]].concat())?
        .ok()?;
    Ok(name)
}

/// Starts what works, as a process of the container's own.
fn serve(cluster: &Cluster, case: &Case, moved: &str) -> Result<()> {
    let (size, rate) = case.memory;
    let line = format!("{PROGRAM} serve {PORT} {size} {rate}");
    let line = match case.systemd {
        true => format!("systemd-run -q --unit=workload {line}"),
        false => format!("setsid {line} </dev/null >/dev/null 2>&1 &"),
    };
    // systemd may still be on its way up.
    until("the workload to start", Duration::from_secs(60), || {
        let started = cluster.exec("acme", moved, &["sh", "-c", &line])?;
        started.ok().map(drop)
    })?;
    Ok(())
}

fn put(cluster: &Cluster, container: &str) -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("workload");
    let to = format!("{container}:{FOLDER}");
    let from = program.to_string_lossy();
    cluster.skysail(&["cp", "-n", "acme", &from, &to])?.ok()?;
    let executable = ["chmod", "755", PROGRAM];
    cluster.exec("acme", container, &executable)?.ok().map(drop)
}

fn address(cluster: &Cluster, moved: &str) -> Result<String> {
    let object = cluster.get("container", "acme", moved)?;
    let address = object.pointer("/status/addresses/0/address");
    let address = address.and_then(Value::as_str).context("no address")?;
    Ok(address.to_owned())
}

fn stats(cluster: &Cluster, address: &str) -> Result<Value> {
    let asked = [PROGRAM, "stats", address, PORT];
    let text = cluster.exec("acme", CLIENT, &asked)?.ok()?;
    Ok(serde_json::from_str(&text)?)
}

/// The host to go to next: of the other cloud, and not where the client is, so that every packet crosses a tunnel.
fn next(cluster: &Cluster, moved: &str) -> Result<String> {
    let host = |container: &str| -> Result<String> {
        let object = cluster.get("container", "acme", container)?;
        let host = object["status"]["host"].as_str().context("not placed")?;
        Ok(host.to_owned())
    };
    let (own, client) = (host(moved)?, host(CLIENT)?);
    let cloud = |host: &str| host.split('-').next().map(str::to_owned);
    let hosts = ["east-1", "east-2", "west-1", "west-2"];
    let other = hosts
        .into_iter()
        .find(|h| cloud(h) != cloud(&own) && *h != client);
    Ok(other.context("no host to go to")?.to_owned())
}

fn hop(
    cluster: &Cluster,
    case: &Case,
    moved: &str,
    turn: usize,
    address: &str,
    seen: &mut Seen,
) -> Result<()> {
    let target = next(cluster, moved)?;
    let name = format!("{}-{turn}", case.name);
    stats(cluster, address)?; // what was before does not count
    let client = watch(cluster, address)?;
    let manifest = format!(
        "apiVersion: skysail.dev/v1alpha1\nkind: Migration\nmetadata: {{name: {name}, namespace: acme}}\n\
         spec: {{container: {moved}, target: {{host: {target}}}, mode: Live}}\n"
    );
    cluster.apply(&manifest)?.ok()?;
    let (migration, _) = until(&name, Duration::from_secs(60), || {
        let object = cluster.get("migration", "acme", &name)?;
        ensure!(
            !object["status"]["finishedAt"].is_null(),
            "{}",
            object["status"]
        );
        Ok(object)
    })?;
    let status = &migration["status"];
    ensure!(status["phase"] == "Succeeded", "{name}: {status}");
    let heard = heard(client)?;
    let own = stats(cluster, address)?;
    let number = |value: &Value| value.as_f64().context("not a number");
    let (gap, stall) = (number(&own["gap_ms"])?, number(&heard["stall_ms"])?);
    seen.freeze.push(gap);
    seen.stall.push(stall);
    seen.ratio.push(stall / gap);
    seen.said.extend(milliseconds(&status["freeze"]));
    for ((part, _), values) in PARTS.iter().zip(&mut seen.parts) {
        values.extend(milliseconds(&status["freezeParts"][part]));
    }
    eprintln!(
        "{name}: freeze {gap:.0} ms, stall {stall:.0} ms, {}",
        status["freezeParts"]
    );
    seen.total.extend(milliseconds(&status["total"]));
    seen.bytes.extend(bytes(&status["progress"]["bytes"]));
    seen.lost += number(&heard["lost"])?;
    seen.broken += number(&heard["broken"])? + number(&own["pages_broken"])?;
    seen.done += 1;
    Ok(())
}

/// A client that sends frames while the container moves.
fn watch(cluster: &Cluster, address: &str) -> Result<Child> {
    let mut command = cluster.client();
    command.args([
        "exec", "-n", "acme", CLIENT, "--", PROGRAM, "client", address, PORT, "6",
    ]);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    // It must have a connection before the move begins.
    until("frames", Duration::from_secs(10), || {
        let frames = stats(cluster, address)?;
        ensure!(frames["frames"].as_u64() > Some(5), "{frames}");
        Ok(())
    })?;
    Ok(child)
}

fn heard(mut client: Child) -> Result<Value> {
    let mut text = String::new();
    let mut output = client.stdout.take().context("no output")?;
    output.read_to_string(&mut text)?;
    ensure!(client.wait()?.success(), "the client failed: {text}");
    Ok(serde_json::from_str(&text)?)
}

/// A length of time as statuses write it: `250ms`, `2s`.
fn milliseconds(value: &Value) -> Option<f64> {
    let text = value.as_str()?;
    let digits = text.trim_end_matches(char::is_alphabetic);
    let factor = match &text[digits.len()..] {
        "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

/// A quantity of bytes: a number, or `12Mi`.
fn bytes(value: &Value) -> Option<f64> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let digits = text.trim_end_matches(char::is_alphabetic);
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

fn write(case: &Case, mut seen: Seen, report: &mut Report) {
    let name = |figure: &str| format!("migration.{}.{figure}", case.name);
    let lower = Better::Lower;
    let hops = seen.done as f64;
    report.add(name("hops"), hops, "moves", Better::Higher).aim = Some(case.hops as f64);
    if seen.done == 0 {
        return;
    }
    let (median, tail) = case.aims;
    let freeze = quantile(&mut seen.freeze, 0.5);
    report.add(name("freeze_median"), freeze, "ms", lower).aim = Some(median);
    let worst = quantile(&mut seen.freeze, 0.99);
    report.add(name("freeze_p99"), worst, "ms", lower).aim = Some(tail);
    for (figure, values) in [
        ("freeze_reported", &mut seen.said),
        ("stall_median", &mut seen.stall),
    ] {
        report.add(name(figure), quantile(values, 0.5), "ms", lower);
    }
    for ((_, part), values) in PARTS.iter().zip(&mut seen.parts) {
        let figure = name(&format!("freeze_by.{part}"));
        report.add(figure, quantile(values, 0.5), "ms", lower);
    }
    let total = quantile(&mut seen.total, 0.5);
    report.add(name("total_median"), total, "ms", lower).aim = Some(case.total);
    let ratio = quantile(&mut seen.ratio, 0.5);
    report.add(name("stall_ratio"), ratio, "×", lower).aim = Some(1.2);
    let mib = quantile(&mut seen.bytes, 0.5) / f64::from(1 << 20);
    report.add(name("sent"), mib, "MiB", lower);
    report
        .add(name("frames_lost"), seen.lost, "frames", lower)
        .aim = Some(0.0);
    report
        .add(name("broken"), seen.broken, "frames or pages", lower)
        .aim = Some(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_and_sizes_are_read_as_the_api_writes_them() {
        assert_eq!(milliseconds(&json!("1250ms")), Some(1250.0));
        assert_eq!(milliseconds(&json!("soon")), None);
        assert_eq!(bytes(&json!("3Mi")), Some(3145728.0));
        assert_eq!(bytes(&json!(12)), Some(12.0));
    }
}
