//! What a SecurityPolicy allows passes, and nothing else, on whatever hosts and clouds both ends are.

use crate::Case;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skysail_e2e::{Cluster, until};
use std::time::Duration;

pub const CASES: &[Case] = &[
    ("only_what_a_policy_allows_passes_and_its_answers", allowed),
    (
        "a_connection_that_is_no_longer_allowed_is_cut_and_others_are_not",
        revoked,
    ),
    (
        "a_container_that_comes_later_is_covered_from_its_first_packet_on",
        later,
    ),
];

/// How long a change may take to reach every switch.
const SOON: Duration = Duration::from_secs(10);
const DB: &str = "10.0.0.10";
const LATE: &str = "10.0.0.88";

fn policy(name: &str, spec: Value) -> String {
    json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "SecurityPolicy",
        "metadata": {"name": name, "namespace": "acme"}, "spec": spec})
    .to_string()
}

/// Applies a policy and waits until it selects `containers` and all their hosts have it.
fn apply(cluster: &Cluster, name: &str, spec: Value, containers: u64) -> Result<()> {
    cluster.apply(&policy(name, spec))?.ok()?;
    let what = format!("policy {name} to be programmed for {containers} containers");
    until(&what, SOON, || {
        let object = cluster.get("securitypolicy", "acme", name)?;
        let (status, generation) = (&object["status"], &object["metadata"]["generation"]);
        let ready = status["conditions"].as_array().is_some_and(|all| {
            all.iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
        ensure!(
            ready
                && status["containers"] == containers
                && status["observedGeneration"] == *generation,
            "{status}"
        );
        let hosts = status["hosts"].as_array().context("no hosts")?;
        ensure!(
            hosts.iter().all(|h| h["generation"] == *generation),
            "{status}"
        );
        Ok(())
    })
    .map(drop)
}

fn remove(cluster: &Cluster, what: &[&str]) -> Result<()> {
    let delete = ["delete", "-n", "acme", "--ignore-not-found"];
    let removed = cluster.kubectl(&[&delete[..], what].concat())?.ok();
    let unlabel = ["label", "container", "db", "-n", "acme", "role-"];
    removed.and(cluster.kubectl(&unlabel)?.ok()).map(drop)
}

fn sh(cluster: &Cluster, container: &str, line: &str) -> Result<String> {
    cluster.exec("acme", container, &["sh", "-c", line])?.ok()
}

/// Whether `container` is answered at a port of the database within a second.
fn answered(cluster: &Cluster, container: &str, port: u16) -> Result<bool> {
    let port = port.to_string();
    let met = cluster.exec("acme", container, &["nc", "-w", "1", DB, &port])?;
    Ok(met.stdout.contains("here"))
}

fn pings(cluster: &Cluster, container: &str, target: &str) -> Result<bool> {
    let ping = ["ping", "-c", "2", "-i", "0.3", "-W", "1", target];
    Ok(cluster.exec("acme", container, &ping)?.code == Some(0))
}

fn with_role(cluster: &Cluster, body: impl FnOnce() -> Result<()>, also: &[&str]) -> Result<()> {
    let label = ["label", "container", "db", "-n", "acme", "role=db"];
    cluster.kubectl(&label)?.ok()?;
    let result = body();
    let stopped = sh(cluster, "db", "pkill -x nc; true").map(drop);
    result.and(stopped).and(remove(cluster, also))
}

fn allowed(cluster: &Cluster) -> Result<()> {
    let body = || {
        for port in [7801, 7802] {
            let serve = format!(
                "setsid sh -c 'while echo here | nc -l -p {port} -q 0; do :; done' >/dev/null 2>&1 &"
            );
            sh(cluster, "db", &serve)?;
        }
        let open = || {
            ensure!(answered(cluster, "web-0", 7802)?, "no answer");
            Ok(())
        };
        until("the database to answer where it is open", SOON, open)?;
        let shop = json!({"containerSelector": {"matchLabels": {"app": "shop"}}});
        let only = json!({"containerSelector": {"matchLabels": {"role": "db"}},
            "ingress": [{"from": [shop], "ports": [{"port": 7800, "endPort": 7801}]}]});
        apply(cluster, "db", only, 1)?;
        // On three hosts in two clouds.
        for web in ["web-0", "web-1", "web-2"] {
            ensure!(answered(cluster, web, 7801)?, "{web} is not answered");
            ensure!(!answered(cluster, web, 7802)?, "{web} met a closed port");
        }
        ensure!(!pings(cluster, "web-0", DB)?, "ICMP is not allowed");
        let trace =
            |port| cluster.skysail(&["net", "trace", "-n", "acme", "web-0", "db", "--tcp", port]);
        let (open, shut) = (trace("7801")?, trace("7802")?);
        ensure!(
            open.code == Some(0) && open.stdout.contains("allowed: ingress by db"),
            "{open:?}"
        );
        let named = "in table target: ingress closed by SecurityPolicy db";
        ensure!(
            shut.code == Some(1) && shut.stdout.contains(named),
            "{shut:?}"
        );
        let checked = || {
            let check = cluster.skysail(&["net", "check", "-n", "acme", "--count", "2"])?;
            let closed = check.stdout.matches("closed by SecurityPolicy db").count();
            ensure!(check.code == Some(0) && closed == 3, "{check:?}");
            Ok(())
        };
        until("every pair to be as it should be", SOON, checked)?;
        // What it opens itself is open, and it hears the answers: also of the gateway's DNS.
        ensure!(pings(cluster, "db", "web-1")?, "answers do not reach it");
        let nobody = json!({"containerSelector": {"matchLabels": {"role": "db"}},
            "ingress": [{"from": [{"containerSelector": {"matchLabels": {"app": "none"}}}]}],
            "policyTypes": ["Ingress", "Egress"]});
        apply(cluster, "db", nobody, 1)?;
        ensure!(!answered(cluster, "web-1", 7801)?, "nobody is allowed");
        ensure!(!pings(cluster, "db", "10.0.0.1")?, "egress is closed");
        remove(cluster, &["securitypolicy", "db"])?;
        let open = || {
            ensure!(answered(cluster, "web-2", 7802)?, "no answer");
            Ok(())
        };
        until("everything to be open again", SOON, open).map(drop)
    };
    with_role(cluster, body, &["securitypolicy", "db"])
}

/// Sends a line every tenth of a second over one connection, for as long as it stands.
fn stream(cluster: &Cluster, from: &str, port: u16) -> Result<()> {
    let listen = format!(
        "rm -f /tmp/{port}; setsid sh -c 'nc -l -p {port} >/tmp/{port}' >/dev/null 2>&1 </dev/null &"
    );
    sh(cluster, "db", &listen)?;
    let send = format!(
        "setsid sh -c 'sleep 0.2; while sleep 0.1; do echo line; done | nc {DB} {port}' >/dev/null 2>&1 </dev/null &"
    );
    sh(cluster, from, &send).map(drop)
}

fn heard(cluster: &Cluster, port: u16) -> Result<u64> {
    let count = sh(
        cluster,
        "db",
        &format!("cat /tmp/{port} 2>/dev/null | wc -l"),
    )?;
    Ok(count.trim().parse()?)
}

fn goes_on(cluster: &Cluster, port: u16) -> Result<()> {
    let before = heard(cluster, port)?;
    let more = || {
        ensure!(heard(cluster, port)? > before + 3, "nothing more");
        Ok(())
    };
    until(&format!("more over the connection to {port}"), SOON, more).map(drop)
}

fn revoked(cluster: &Cluster) -> Result<()> {
    let web = "web-1";
    let body = || {
        stream(cluster, web, 7803)?;
        stream(cluster, web, 7804)?;
        goes_on(cluster, 7803)?;
        goes_on(cluster, 7804)?;
        let rule = |ports: Value| json!({"containerSelector": {"matchLabels": {"role": "db"}}, "ingress": [{"ports": ports}]});
        // Both began before there was a policy.
        apply(
            cluster,
            "db",
            rule(json!([{"port": 7803}, {"port": 7804}])),
            1,
        )?;
        goes_on(cluster, 7803)?;
        goes_on(cluster, 7804)?;
        apply(cluster, "db", rule(json!([{"port": 7804}])), 1)?;
        let cut = heard(cluster, 7803)?;
        goes_on(cluster, 7804)?;
        ensure!(
            heard(cluster, 7803)? == cut,
            "the revoked connection goes on"
        );
        apply(cluster, "db", rule(json!([])), 1)?;
        goes_on(cluster, 7804)
    };
    let result = with_role(cluster, body, &["securitypolicy", "db"]);
    let stopped = sh(cluster, web, "pkill -x nc; true").map(drop);
    result.and(stopped)
}

fn later(cluster: &Cluster) -> Result<()> {
    let body = || {
        let closed = json!({"containerSelector": {"matchLabels": {"role": "late"}},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"ports": [{"protocol": "UDP", "port": 53}]}]});
        cluster.apply(&policy("late", closed))?.ok()?;
        let ping = format!(
            "setsid sh -c 'ping -q -i 0.02 {LATE} >/tmp/late 2>&1; touch /tmp/late.done' >/dev/null 2>&1 </dev/null &"
        );
        sh(cluster, "web-0", &format!("rm -f /tmp/late*; {ping}"))?;
        let container = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": "late", "namespace": "acme", "labels": {"role": "late"}},
            "spec": {"image": "debian", "instanceType": "small", "networks": [{"name": "private", "address": LATE}]}});
        cluster.apply(&container.to_string())?.ok()?;
        let wait = [
            "wait",
            "-n",
            "acme",
            "container/late",
            "--for=condition=Ready",
            "--timeout=60s",
        ];
        cluster.kubectl(&wait)?.ok()?;
        // DNS is allowed, the way to what it names is not.
        let names =
            "getent hosts web-0 >/dev/null && ! ping -c 1 -W 1 web-0 >/dev/null && echo closed";
        let found = sh(cluster, "late", names)?;
        ensure!(found.trim() == "closed", "it says {found:?}");
        sh(cluster, "web-0", "pkill -INT -x ping")?;
        let counted = || sh(cluster, "web-0", "test -e /tmp/late.done && cat /tmp/late");
        let (counted, _) = until("the ping to end", SOON, counted)?;
        ensure!(counted.contains(" 0 received"), "it was open: {counted}");
        remove(cluster, &["securitypolicy", "late"])?;
        let open = || {
            ensure!(
                pings(cluster, "web-0", LATE)? && pings(cluster, "late", "web-2")?,
                "closed"
            );
            Ok(())
        };
        until("it to be open without a policy", SOON, open).map(drop)
    };
    let result = body();
    let _ = sh(cluster, "web-0", "pkill -x ping; true");
    result.and(remove(cluster, &["securitypolicy/late", "container/late"]))
}
