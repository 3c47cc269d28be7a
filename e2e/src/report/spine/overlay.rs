//! TCP throughput and round trip over the overlay, next to the underlay of the same two hosts.
//!
//! "Same datapath" is taken at its word: all three ways between two hosts of one cloud go from a namespace with
//! the same offloads through a userspace bridge of Open vSwitch, over the hosts' own uplinks, through such a bridge
//! into a namespace. They differ in what is measured only: `raw` packets are routed as they are, `plain` ones go
//! through a VXLAN device behind a bridge that just switches, `overlay` ones through ours with its pipeline. So
//! plain ÷ raw is the price of encapsulation, overlay ÷ plain that of the pipeline.
//!
//! Turns alternate and medians count, because the machine does other things too.

use crate::report::{Better, Report, quantile};
use crate::{Cluster, Output};
use anyhow::{Context, Result};
use serde_json::Value;

/// Turns of each way.
const TURNS: usize = 7;
/// Makes the raw and the plain way on a host: number (1 or 2) and the other host's address.
const MAKE: &str = include_str!("overlay.sh");
const CLEAR: &str = "for s in /run/iperf-*; do kill $(tr -d '\\0' <$s); done; ovs-vsctl del-br br-raw -- del-br br-plain; \
    ip netns del raw; ip netns del plain; ip link del raw1; ip link del plain1; ip route del 10.201.1.0/24; ip route del 10.201.2.0/24; true";

/// A way from one host to the other: the namespaces' command prefixes, and the far address.
struct Way {
    name: &'static str,
    near: String,
    far: String,
    address: String,
    port: u16,
    rates: Vec<f64>,
    trips: Vec<f64>,
}

struct End {
    host: String,
    internal: String,
    address: String,
    pid: i64,
}

fn end(cluster: &Cluster, container: &str) -> Result<End> {
    let object = cluster.get("container", "acme", container)?;
    let text = |o: &Value, p: &str| {
        o.pointer(p)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("{container} is not placed: {p}"))
    };
    let host = text(&object, "/status/host")?;
    let machine = cluster.get("host", "default", &host)?;
    Ok(End {
        internal: text(&machine, "/status/addresses/internal")?,
        address: text(&object, "/status/addresses/0/address")?,
        pid: object["status"]["pid"].as_i64().context("no pid")?,
        host,
    })
}

fn ways(near: &End, far: &End) -> [Way; 3] {
    let way = |name, near, far, address: &str, port| Way {
        name,
        near,
        far,
        address: address.to_owned(),
        port,
        rates: Vec::new(),
        trips: Vec::new(),
    };
    let netns = |name: &str| format!("ip netns exec {name} ");
    // iperf3 of the host, inside the container's network namespace: the image need not carry it.
    let inside = |end: &End| format!("nsenter -t {} -n ", end.pid);
    [
        way("underlay", netns("raw"), netns("raw"), "10.201.2.2", 5301),
        way("plain", netns("plain"), netns("plain"), "10.202.0.2", 5302),
        way("overlay", inside(near), inside(far), &far.address, 5303),
    ]
}

pub fn measure(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let near = end(cluster, "db")?;
    let cloud = |host: &str| -> Result<Value> {
        Ok(cluster.get("host", "default", host)?["spec"]["cloud"].clone())
    };
    let own = cloud(&near.host)?;
    let mut others = ["web-0", "web-1", "web-2"]
        .map(|c| end(cluster, c))
        .into_iter();
    let far = others.find_map(|o| {
        o.ok()
            .filter(|o| o.host != near.host && cloud(&o.host).is_ok_and(|c| c == own))
    });
    let far = far.context("no web container is on the other host of db's cloud")?;
    let both = [(&near, 1, &far.internal), (&far, 2, &near.internal)];
    let result = both
        .iter()
        .try_for_each(|(end, number, peer)| {
            let script = format!("set -- {number} {peer}\n{MAKE}");
            cluster.on_host(&end.host, &script)?.ok().map(drop)
        })
        .and_then(|()| compare(cluster, report, &near, &far));
    for (end, ..) in both {
        cluster.on_host(&end.host, CLEAR)?;
    }
    result
}

fn compare(cluster: &Cluster, report: &mut Report, near: &End, far: &End) -> Result<()> {
    let mut ways = ways(near, far);
    for way in &ways {
        let (inside, name, port) = (&way.far, way.name, way.port);
        let serve = format!("{inside}iperf3 -s -D -p {port} --pidfile /run/iperf-{name}");
        cluster.on_host(&far.host, &serve)?.ok()?;
    }
    for _ in 0..TURNS {
        for way in &mut ways {
            let (inside, to, port) = (&way.near, &way.address, way.port);
            let line = format!("{inside}iperf3 -J -t 3 -p {port} -c {to}");
            way.rates.push(rate(cluster.on_host(&near.host, &line)?)?);
            let line = format!("{inside}ping -q -i 0.01 -c 100 {to}");
            way.trips.push(trip(cluster.on_host(&near.host, &line)?)?);
        }
    }
    let [raw, plain, overlay] =
        ways.map(|mut w| (quantile(&mut w.rates, 0.5), quantile(&mut w.trips, 0.5)));
    for (name, (rate, trip)) in [("underlay", raw), ("plain", plain)] {
        let name = format!("spine.overlay.{name}");
        report.add(format!("{name}_rate"), rate, "Mbit/s", Better::Higher);
        report.add(format!("{name}_rtt"), trip, "ms", Better::Lower);
    }
    report
        .add("spine.overlay.rate", overlay.0, "Mbit/s", Better::Higher)
        .baseline = Some(raw.0);
    report
        .add("spine.overlay.rtt", overlay.1, "ms", Better::Lower)
        .baseline = Some(raw.1);
    for (name, value) in [
        ("rate_ratio", overlay.0 / raw.0),
        ("rtt_ratio", raw.1 / overlay.1),
    ] {
        let name = format!("spine.overlay.{name}");
        report.add(name, value, "", Better::Higher).aim = Some(0.94);
    }
    let pipeline = overlay.0 / plain.0;
    report.add("spine.overlay.pipeline_ratio", pipeline, "", Better::Higher);
    Ok(())
}

/// Mbit/s that arrived.
fn rate(output: Output) -> Result<f64> {
    let result: Value = serde_json::from_str(&output.ok()?)?;
    let received = result["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(received.context("iperf3 gave no rate")? / 1e6)
}

/// Milliseconds of the average round trip.
fn trip(output: Output) -> Result<f64> {
    let text = output.ok()?;
    let line = text.lines().find(|l| l.starts_with("rtt"));
    let average = line.and_then(|l| l.split('/').nth(4)?.parse().ok());
    average.context("ping gave no average")
}
