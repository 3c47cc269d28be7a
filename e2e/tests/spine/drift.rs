//! Whatever is broken behind Skysail's back is repaired; each case measures how long it took.

use crate::Case;
use anyhow::{Context, Result, ensure};
use skysail_e2e::{Cluster, times, until};
use std::time::Duration;

pub const CASES: &[Case] = &[
    (
        "the_init_of_a_container_killed_is_started_again",
        init_killed,
    ),
    (
        "a_container_stopped_behind_our_back_is_started_again",
        stopped,
    ),
    ("a_flow_deleted_comes_back", flow_deleted),
    ("all_flows_deleted_come_back", flows_deleted),
    ("a_port_removed_comes_back", port_removed),
    ("the_bridge_deleted_comes_back", bridge_deleted),
    ("vswitchd_killed_comes_back", vswitchd_killed),
    (
        "a_network_that_breaks_under_a_container_is_said_and_heals",
        network_broken,
    ),
    (
        "the_agent_killed_comes_back_and_touches_no_container",
        agent_killed,
    ),
    (
        "a_host_destroyed_comes_back_with_its_containers",
        host_destroyed,
    ),
];

const LIMIT: Duration = Duration::from_secs(60);

/// The host of acme/web-0, and another container of the tenant that is elsewhere.
fn subject(cluster: &Cluster) -> Result<(String, i64, String)> {
    let object = cluster.get("container", "acme", "web-0")?;
    let host = object["status"]["host"]
        .as_str()
        .context("acme/web-0 has no host")?
        .to_owned();
    let pid = object["status"]["pid"]
        .as_i64()
        .context("acme/web-0 has no pid")?;
    let address = object["status"]["addresses"][0]["address"]
        .as_str()
        .context("acme/web-0 has no address")?
        .to_owned();
    Ok((host, pid, address))
}

fn pingable(cluster: &Cluster, name: &str) -> Result<()> {
    let (_, _, address) = subject(cluster)?;
    let (_, took) = until("acme/db to ping acme/web-0", LIMIT, || {
        cluster
            .exec("acme", "db", &["ping", "-c", "1", "-W", "1", &address])?
            .ok()
    })?;
    times::record(name, took)
}

fn init_killed(cluster: &Cluster) -> Result<()> {
    let (_, pid, _) = subject(cluster)?;
    restarted(cluster, "init_killed", &format!("kill -9 {pid}"))
}

fn stopped(cluster: &Cluster) -> Result<()> {
    let line = "lxc-stop -k -P /var/lib/skysail/containers -n acme.web-0";
    restarted(cluster, "container_stopped", line)
}

fn restarted(cluster: &Cluster, name: &str, line: &str) -> Result<()> {
    let (host, pid, _) = subject(cluster)?;
    cluster.on_host(&host, line)?.ok()?;
    let (_, took) = until("acme/web-0 to have another init", LIMIT, || {
        let (_, now, _) = subject(cluster)?;
        ensure!(now != pid, "it still has {pid}");
        Ok(())
    })?;
    times::record(name, took)?;
    pingable(cluster, &format!("{name}_ping"))
}

fn break_network(cluster: &Cluster, name: &str, line: &str) -> Result<()> {
    let (host, ..) = subject(cluster)?;
    cluster.on_host(&host, line)?.ok()?;
    pingable(cluster, name)
}

fn flow_deleted(cluster: &Cluster) -> Result<()> {
    let (host, _, _) = subject(cluster)?;
    let count = |cluster: &Cluster| -> Result<usize> {
        Ok(cluster
            .on_host(&host, "ovs-ofctl dump-flows br-int --no-stats")?
            .ok()?
            .lines()
            .count())
    };
    let before = count(cluster)?;
    ensure!(before > 10, "only {before} flows on {host}");
    cluster
        .on_host(&host, "ovs-ofctl del-flows br-int icmp")?
        .ok()?;
    let (_, took) = until("the flows to be as many as before", LIMIT, || {
        let now = count(cluster)?;
        ensure!(now >= before, "{now} of {before}");
        Ok(())
    })?;
    times::record("flow_deleted", took)
}

fn flows_deleted(cluster: &Cluster) -> Result<()> {
    break_network(cluster, "flows_deleted", "ovs-ofctl del-flows br-int")
}

fn port_removed(cluster: &Cluster) -> Result<()> {
    break_network(
        cluster,
        "port_removed",
        "for p in $(ovs-vsctl list-ports br-int | grep -v -i vx); do ovs-vsctl del-port br-int $p; done",
    )
}

fn bridge_deleted(cluster: &Cluster) -> Result<()> {
    break_network(cluster, "bridge_deleted", "ovs-vsctl del-br br-int")
}

fn vswitchd_killed(cluster: &Cluster) -> Result<()> {
    break_network(cluster, "vswitchd_killed", "kill -9 $(pidof ovs-vswitchd)")
}

/// Waits until acme/web-0 says of being ready what is expected.
fn ready(cluster: &Cluster, expected: (&str, &str)) -> Result<Duration> {
    let (_, took) = until(&format!("Ready to be {expected:?}"), LIMIT, || {
        let object = cluster.get("container", "acme", "web-0")?;
        let all = object["status"]["conditions"].as_array();
        let found = all.and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
        let found = found.context("nothing is said")?;
        let said = (found["status"].as_str(), found["reason"].as_str());
        ensure!(said == (Some(expected.0), Some(expected.1)), "{found}");
        Ok(())
    })?;
    Ok(took)
}

fn network_broken(cluster: &Cluster) -> Result<()> {
    let (host, pid, _) = subject(cluster)?;
    // The switch's database cannot be started again until its program is back.
    let (program, away) = ("/usr/sbin/ovsdb-server", "/usr/sbin/ovsdb-server.away");
    let line = format!("mv {program} {away} && kill -9 $(pidof ovsdb-server)");
    cluster.on_host(&host, &line)?.ok()?;
    let said = ready(cluster, ("False", "NetworkFailed"));
    cluster
        .on_host(&host, &format!("mv {away} {program}"))?
        .ok()?;
    said?;
    times::record("network_broken", ready(cluster, ("True", "Ready"))?)?;
    pingable(cluster, "network_broken_ping")?;
    ensure!(subject(cluster)?.1 == pid, "the container was restarted");
    Ok(())
}

fn agent_killed(cluster: &Cluster) -> Result<()> {
    let (host, pid, _) = subject(cluster)?;
    let agent = "pgrep -f '^/usr/local/bin/skysail agent' | head -n1";
    let old = cluster.on_host(&host, agent)?.ok()?;
    cluster
        .on_host(&host, &format!("kill -9 {}", old.trim()))?
        .ok()?;
    let (_, took) = until("another agent", LIMIT, || {
        let new = cluster.on_host(&host, agent)?.ok()?;
        ensure!(!new.trim().is_empty() && new != old, "none yet");
        Ok(())
    })?;
    times::record("agent_killed", took)?;
    pingable(cluster, "agent_killed_ping")?;
    ensure!(subject(cluster)?.1 == pid, "the container was restarted");
    Ok(())
}

fn host_destroyed(cluster: &Cluster) -> Result<()> {
    let (host, before, _) = subject(cluster)?;
    cluster.destroy(&host)?;
    let (_, took) = until(
        "acme/web-0 to have another init and to be pinged",
        Duration::from_secs(180),
        || {
            let (_, now, address) = subject(cluster)?;
            let started = cluster.get("container", "acme", "web-0")?["status"]["restarts"].as_u64();
            ensure!(now != before || started > Some(0), "it still has {before}");
            cluster
                .exec("acme", "db", &["ping", "-c", "1", "-W", "1", &address])?
                .ok()
        },
    )?;
    times::record("host_destroyed", took)
}
