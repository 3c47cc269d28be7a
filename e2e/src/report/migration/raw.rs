//! Bare CRIU, as a person would script it: dump, send the images, restore, of the same process between the same
//! two hosts, without a container or an address around it. What Skysail adds to this is what it costs.

use super::Case;
use crate::report::{Report, quantile};
use crate::{Cluster, Output, until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::File;
use std::time::Duration;

/// Moves of a case; the median counts.
const TURNS: usize = 5;
const HOSTS: [&str; 2] = ["east-1", "west-1"];
const FOLDER: &str = "/run/bare-criu";
const PORT: u16 = 5801;
/// The libraries that the workload needs, beside it: what is mapped from an overlay, as a host's root is, CRIU finds
/// on no mount that it knows.
const GATHER: &str = "mkdir -p lib && ldd workload | grep -o '/[^ ]*' | while read -r l; do cp -L $l lib/; done && mv lib/ld-* lib/ld";
/// How it is then started.
const PROGRAM: &str =
    "/run/bare-criu/lib/ld --library-path /run/bare-criu/lib /run/bare-criu/workload";

pub fn measure(cluster: &Cluster, case: &Case, report: &mut Report) -> Result<()> {
    for host in HOSTS {
        put(cluster, host)?;
    }
    let result: Result<Vec<f64>> = (0..TURNS).map(|turn| hop(cluster, case, turn)).collect();
    for host in HOSTS {
        let clear = format!("pkill -9 -f '^{FOLDER}/lib/ld'; rm -rf {FOLDER}; true");
        cluster.on_host(host, &clear)?.ok()?;
    }
    let mut gaps = result?;
    let gap = quantile(&mut gaps, 0.5);
    for figure in ["freeze_median", "freeze_p99"] {
        report.baseline(&format!("migration.{}.{figure}", case.name), gap);
    }
    Ok(())
}

fn put(cluster: &Cluster, host: &str) -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("workload");
    let line = format!(
        "mkdir -p {FOLDER} && cd {FOLDER} && cat >workload && chmod 755 workload && {GATHER}"
    );
    let mut ssh = cluster.ssh(host)?;
    let status = ssh.arg(line).stdin(File::open(program)?).status()?;
    ensure!(
        status.success(),
        "the workload could not be copied to {host}"
    );
    Ok(())
}

/// Starts the process on one host, moves it to the other, and asks it how long it stood still.
fn hop(cluster: &Cluster, case: &Case, turn: usize) -> Result<f64> {
    let [from, to] = HOSTS;
    let (size, rate) = case.memory;
    let own = PORT + 2 + turn as u16;
    let start = format!(
        "rm -rf {FOLDER}/images; mkdir {FOLDER}/images; \
         cd {FOLDER}; setsid {PROGRAM} serve {own} {size} {rate} </dev/null >/dev/null 2>&1 & echo $! >{FOLDER}/pid"
    );
    cluster.on_host(from, &start)?.ok()?;
    stats(cluster, from, own)?;
    let address = cluster.get("host", "default", to)?;
    let address = address.pointer("/status/addresses/external");
    let address = address.and_then(Value::as_str).context("no address")?;
    let receive = format!(
        "rm -rf {FOLDER}/images; mkdir {FOLDER}/images; nc -l {PORT} | tar -xf - -C {FOLDER}/images && \
         criu restore -D {FOLDER}/images -o restore.log --restore-detached"
    );
    let mut receiver = cluster.ssh(to)?;
    let mut receiver = receiver.arg(receive).spawn()?;
    let listening = format!("ss -Hltn sport = :{PORT} | grep -q .");
    until("the receiver", Duration::from_secs(10), || {
        cluster.on_host(to, &listening)?.ok()
    })?;
    let send = format!(
        "criu dump -t $(cat {FOLDER}/pid) -D {FOLDER}/images -o dump.log --tcp-established || {{ tail -5 {FOLDER}/images/dump.log; exit 1; }}; \
         tar -cf - -C {FOLDER}/images . | nc -N {address} {PORT}"
    );
    let sent = cluster.on_host(from, &send).and_then(Output::ok);
    if sent.is_err() {
        receiver.kill()?;
    }
    let restored = receiver.wait()?;
    sent?;
    ensure!(restored.success(), "criu restore ended with {restored}");
    let seen = stats(cluster, to, own)?;
    cluster.on_host(to, &format!("pkill -9 -f '^{PROGRAM} serve {own} '"))?;
    seen["gap_ms"].as_f64().context("no gap")
}

fn stats(cluster: &Cluster, host: &str, port: u16) -> Result<Value> {
    let line = format!("{PROGRAM} stats 127.0.0.1 {port}");
    let (text, _) = until("the workload", Duration::from_secs(60), || {
        cluster.on_host(host, &line)?.ok()
    })?;
    Ok(serde_json::from_str(&text)?)
}
