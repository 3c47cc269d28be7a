//! TCP throughput and round trip over the overlay, next to the underlay of the same two hosts.

use crate::Cluster;
use crate::report::{Better, Report};
use anyhow::{Context, Result};
use serde_json::Value;

pub fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let place = |name: &str| -> Result<(String, String, i64)> {
        let object = cluster.get("container", "acme", name)?;
        let text = |p: &str| {
            object
                .pointer(p)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .context("not placed")
        };
        Ok((
            text("/status/host")?,
            text("/status/addresses/0/address")?,
            object["status"]["pid"].as_i64().context("no pid")?,
        ))
    };
    let (near, far) = (place("web-0")?, place("web-1")?);
    let underlay = cluster.get("host", "default", &far.0)?;
    let underlay = underlay["status"]["addresses"]["external"]
        .as_str()
        .context("no address")?;
    // iperf3 of the host, inside the container's network namespace: the image need not carry it.
    let inside = |pid: i64| format!("nsenter -t {pid} -n ");
    let pair = |name: &str, server: &str, client: &str, address: &str| -> Result<(f64, f64)> {
        cluster
            .on_host(
                &far.0,
                &format!("{server}iperf3 -s -D -1 -p 5300 --pidfile /run/iperf-{name}"),
            )?
            .ok()?;
        let text = cluster
            .on_host(
                &near.0,
                &format!("{client}iperf3 -J -t 5 -p 5300 -c {address}"),
            )?
            .ok()?;
        let result: Value = serde_json::from_str(&text)?;
        let rate = result["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .context("no rate")?
            / 1e6;
        let pings = cluster
            .on_host(
                &near.0,
                &format!("{client}ping -q -i 0.01 -c 200 {address}"),
            )?
            .ok()?;
        let line = pings
            .lines()
            .find(|l| l.starts_with("rtt"))
            .context("no rtt")?;
        let average = line
            .split('/')
            .nth(4)
            .and_then(|v| v.parse().ok())
            .context("no average")?;
        Ok((rate, average))
    };
    let (plain_rate, plain_rtt) = pair("underlay", "", "", underlay)?;
    let (rate, rtt) = pair("overlay", &inside(far.2), &inside(near.2), &far.1)?;
    report.add(
        "spine.overlay.underlay_rate",
        plain_rate,
        "Mbit/s",
        Better::Higher,
    );
    report
        .add("spine.overlay.rate", rate, "Mbit/s", Better::Higher)
        .baseline = Some(plain_rate);
    report
        .add(
            "spine.overlay.rate_ratio",
            rate / plain_rate,
            "",
            Better::Higher,
        )
        .aim = Some(0.94);
    report
        .add("spine.overlay.rtt", rtt, "ms", Better::Lower)
        .baseline = Some(plain_rtt);
    report
        .add(
            "spine.overlay.rtt_ratio",
            plain_rtt / rtt,
            "",
            Better::Higher,
        )
        .aim = Some(0.94);
    Ok(())
}
