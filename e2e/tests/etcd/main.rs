//! State in etcd: a system whose etcd and servers are killed, with several servers over
//! one etcd. The cases share the system and run in order.

mod process;

use anyhow::{Context, Result, ensure};
use process::{Carried, Etcd, Server, free_port};
use skysail_e2e::{Cluster, Pinging, census, suite, times, until};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What the cases share; fields are dropped in order, so the hosts go before the store.
struct System {
    cluster: Cluster,
    etcd: Etcd,
}

type Case = (&'static str, fn(&mut System) -> Result<()>);

const CASES: &[Case] = &[
    ("the_quickstart_runs_on_etcd", comes_up),
    (
        "etcd_killed_and_restarted_costs_no_container_and_no_ping",
        etcd_killed,
    ),
    (
        "the_server_killed_and_restarted_leads_at_once",
        server_killed,
    ),
    (
        "another_server_takes_over_when_the_leader_is_killed",
        taken_over,
    ),
    (
        "an_api_without_controllers_and_controllers_in_another_process_work_together",
        apart,
    ),
];

const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    suite::run(System::up, CASES.iter().copied())
}

impl System {
    fn up() -> Result<Self> {
        let etcd = Etcd::start()?;
        let cluster = Cluster::planned("e2e", &["--etcd", &etcd.url()])?;
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/quickstart");
        let told = cluster.start_told(&["-f", &manifests.to_string_lossy(), "--prove"])?;
        ensure!(
            told.iter().any(|line| line.contains("moved live")),
            "the proof shows no move: {told:#?}"
        );
        Ok(Self { cluster, etcd })
    }
}

fn container(name: &str) -> String {
    format!(
        "apiVersion: skysail.dev/v1alpha1\nkind: Container\nmetadata: {{name: {name}, namespace: acme}}\nspec: {{image: debian, instanceType: small, networks: [{{name: private}}]}}\n"
    )
}

/// Makes a container and deletes it again; how long until it was ready.
fn makes(cluster: &Cluster, name: &str) -> Result<Duration> {
    let begun = Instant::now();
    cluster.apply(&container(name))?.ok()?;
    let object = format!("container/{name}");
    let ready = [
        "wait",
        "-n",
        "acme",
        &object,
        "--for=condition=Ready",
        "--timeout=60s",
    ];
    cluster.kubectl(&ready)?.ok()?;
    let took = begun.elapsed();
    until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    let delete = ["delete", "--wait=false", "-n", "acme", &object];
    cluster.kubectl(&delete)?.ok()?;
    Ok(took)
}

fn comes_up(system: &mut System) -> Result<()> {
    until("all containers to run once", LIMIT, || {
        census::take(&system.cluster)
    })?;
    let store = system.cluster.data().join("store.db");
    ensure!(!store.exists(), "{} is there too", store.display());
    Ok(())
}

fn etcd_killed(system: &mut System) -> Result<()> {
    let System { cluster, etcd } = system;
    let (before, _) = until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    let pinging = Pinging::start(cluster, "acme", "db", "web-0")?;
    etcd.kill();
    let write = ["create", "configmap", "away", "--request-timeout=3s"];
    let refused = cluster.kubectl(&write)?;
    ensure!(
        refused.code != Some(0),
        "a write was acknowledged without etcd"
    );
    ensure!(!refused.stderr.is_empty(), "nothing is said");
    etcd.restart()?;
    let begun = Instant::now();
    until("a write to be taken", LIMIT, || {
        cluster
            .kubectl(&["create", "configmap", "back", "--request-timeout=5s"])?
            .ok()
    })?;
    times::record("etcd_killed", begun.elapsed())?;
    times::record("etcd_killed_container", makes(cluster, "after")?)?;
    let (after, _) = until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    pinging.unbroken()
}

fn server_killed(system: &mut System) -> Result<()> {
    let cluster = &system.cluster;
    let (before, _) = until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    cluster.kill_server()?;
    let begun = Instant::now();
    cluster.start(&[])?;
    makes(cluster, "restarted")?;
    let took = begun.elapsed();
    times::record("server_killed_on_etcd_container", took)?;
    ensure!(
        took < Duration::from_secs(15),
        "it took {took:?}: the server waited for the Lease that it had itself"
    );
    let (after, _) = until("all containers to run once", LIMIT, || {
        census::take(cluster)
    })?;
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    Ok(())
}

/// Where the kubeconfig and where the hosts look for the API, as `up` arranged it.
fn known(cluster: &Cluster) -> Result<(String, String)> {
    let text = std::fs::read_to_string(cluster.kubeconfig())?;
    let line = text.lines().find_map(|l| l.split_once("https://"));
    let here = line.map(|(_, l)| l.trim_end_matches(['"', '/']).to_owned());
    let here = here.context("no server in the kubeconfig")?;
    let (_, port) = here.split_once(':').context("no port")?;
    let uplink = format!("{}-up", cluster.instance());
    let shown = std::process::Command::new("ip")
        .args(["-4", "-o", "addr", "show", &uplink])
        .output()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let address = shown.split_whitespace().find_map(|w| w.split_once('/'));
    let (address, _) = address.context("the fabric has no address")?;
    let hosts_know = format!("{address}:{port}");
    Ok((here, hosts_know))
}

fn taken_over(system: &mut System) -> Result<()> {
    let System { cluster, etcd } = system;
    let (_, hosts_know) = known(cluster)?;
    let own = format!("127.0.0.1:{}", free_port()?);
    let advertise = ["--advertise", &format!("https://{hosts_know}")];
    let other = Server::start(cluster, &etcd.url(), std::slice::from_ref(&own), &advertise)?;
    let pinging = Pinging::start(cluster, "acme", "db", "web-0")?;
    cluster.kill_server()?;
    let begun = Instant::now();
    let carried = Carried::start(&hosts_know, own)?;
    let manifest = tempfile::NamedTempFile::new()?;
    std::fs::write(manifest.path(), container("meanwhile"))?;
    let path = manifest.path().to_string_lossy().into_owned();
    let kubectl = |args: &[&str]| cluster.kubectl_with(&other.kubeconfig, args)?.ok();
    kubectl(&["apply", "-f", &path])?;
    let made = ["-n", "acme", "container/meanwhile"];
    let ready = ["wait", "--for=condition=Ready", "--timeout=60s"];
    kubectl(&[&ready[..], &made].concat()).map_err(|e| e.context(other.log()))?;
    let took = begun.elapsed();
    times::record("leader_killed_container", took)?;
    ensure!(
        took < Duration::from_secs(55),
        "it took {took:?}; the Lease ends after 15 s"
    );
    kubectl(&[&["delete", "--wait=false"][..], &made].concat())?;
    pinging.unbroken()?;
    other.end()?;
    drop(carried);
    Ok(())
}

fn apart(system: &mut System) -> Result<()> {
    let System { cluster, etcd } = system;
    let (here, hosts_know) = known(cluster)?;
    let advertise = ["--advertise", &format!("https://{hosts_know}")];
    let none = [&advertise[..], &["--controllers", "none"]].concat();
    let api = Server::start(cluster, &etcd.url(), &[here, hosts_know.clone()], &none)?;
    let own = format!("127.0.0.1:{}", free_port()?);
    let controllers = Server::start(cluster, &etcd.url(), &[own], &advertise)?;
    makes(cluster, "apart").map_err(|e| e.context(controllers.log()))?;
    ensure!(
        controllers.log().contains(" leads "),
        "{}",
        controllers.log()
    );
    ensure!(!api.log().contains(" leads "), "{}", api.log());
    Ok(())
}
