//! `skysail up`: a whole system on this machine, in one command.

use super::watch::{Journal, until_ready};
use super::{Site, certificates::Certificates, etcd::Etcd, need_root, process, prove};
use anyhow::{Context, Result, bail};
use skysail_clouds::sandbox;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `up`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail up                                   an empty system\n  skysail up -f manifests/quickstart --prove   two clouds, four hosts, two tenants, and the proof that it works\n  skysail down                                 removes every trace"
)]
pub struct Up {
    #[command(flatten)]
    site: Site,
    /// Manifests to apply: a file or a folder; may be repeated
    #[arg(short, long = "filename", value_name = "PATH")]
    filename: Vec<PathBuf>,
    /// TCP port of the API server
    #[arg(long, default_value_t = 6443)]
    port: u16,
    #[command(flatten)]
    etcd: Etcd,
    #[command(flatten)]
    certificates: Certificates,
    /// When all runs, show that tenants are connected inside and isolated outside
    #[arg(long)]
    prove: bool,
    /// Give up when not everything is ready after this long
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Starts what does not run yet, applies the manifests, waits, shows, proves.
///
/// # Errors
/// When a step fails; the system stays as it is, so that it can be looked at or tried again.
pub async fn run(args: Up, kubeconfig: PathBuf) -> Result<()> {
    need_root("up")?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Ends between two steps, never within one: a server that was started is always recorded.
    tokio::select! {
        done = bring_up(args, kubeconfig) => done,
        _ = interrupt.recv() => bail!(
            "interrupted; what was begun stays and goes on: the same `skysail up` waits for it again, `skysail down` removes it"
        ),
    }
}

async fn bring_up(mut args: Up, kubeconfig: PathBuf) -> Result<()> {
    let journal = Journal::start();
    args.site = args.site.absolute()?;
    std::fs::create_dir_all(&args.site.data_dir)
        .with_context(|| format!("making {}", args.site.data_dir.display()))?;
    let fabric = args.site.fabric()?;
    sandbox::Fabric::ensure(&fabric)
        .await
        .context("making the sandbox's network")?;
    let advertised: IpAddr = fabric.gateway().into();
    // The hosts' root filesystem takes longest: begin it before anything asks for it.
    let cache = args.site.cache_dir.clone();
    let root = tokio::spawn(async move {
        sandbox::root::ensure(&cache, |line| eprintln!("          {line}")).await
    });
    start_server(&args, &kubeconfig, advertised, &journal).await?;
    let client = client(&kubeconfig).await?;
    if !args.filename.is_empty() {
        let applied = crate::verbs::apply::files(&client, &args.filename).await?;
        journal.say(format!("{applied} objects applied"));
        root.await?.context("building the hosts' root filesystem")?;
        journal.mark("root filesystem");
        until_ready(&client, &journal, args.timeout).await?;
        show(&client).await?;
    } else {
        // Nothing was asked for, so there is nothing to wait for but what hosts will be made from.
        root.await?.context("building the hosts' root filesystem")?;
    }
    if args.prove {
        prove::run(&client, &journal).await?;
    }
    match journal.marks() {
        none if none.is_empty() => journal.say("up"),
        marks => journal.say(format!("up; ready after: {marks}")),
    }
    let shown = kubeconfig.display();
    println!(
        "\nIt stays up. Next:\n  export KUBECONFIG={shown}\n  kubectl get containers -A -o wide\n  skysail exec -n acme web-0 -- ping -c 1 db"
    );
    Ok(())
}

/// Starts the server as a process of its own, unless it runs, and waits until it answers.
async fn start_server(
    args: &Up,
    kubeconfig: &Path,
    advertised: IpAddr,
    journal: &Journal,
) -> Result<()> {
    let mut started = None;
    if let Some(pid) = args.site.running()
        && !process::is_this_program(pid)
    {
        journal.say(format!("server {pid} is of another build; it is replaced"));
        process::end(pid).await?;
    }
    if let Some(pid) = args.site.running() {
        journal.say(format!("server {pid} is up already"));
    } else {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(args.site.log_file())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("server").args(site_flags(&args.site));
        for address in [IpAddr::from([127, 0, 0, 1]), advertised] {
            command
                .arg("--listen")
                .arg(SocketAddr::new(address, args.port).to_string());
        }
        command.arg("--advertise").arg(format!(
            "https://{}",
            SocketAddr::new(advertised, args.port)
        ));
        command.args(args.etcd.flags());
        command.args(args.certificates.flags());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().context("starting the server")?;
        std::fs::write(args.site.pid_file(), process::record(child.id()))?;
        journal.say(format!(
            "server {} started; its log is {}",
            child.id(),
            args.site.log_file().display()
        ));
        started = Some(child);
    }
    wait_for_server(args, kubeconfig, started, journal).await
}

fn site_flags(site: &Site) -> Vec<std::ffi::OsString> {
    let flags: [(&str, &Path); 2] = [
        ("--data-dir", &site.data_dir),
        ("--cache-dir", &site.cache_dir),
    ];
    let mut all: Vec<std::ffi::OsString> = flags
        .into_iter()
        .flat_map(|(f, v)| [f.into(), v.into()])
        .collect();
    all.extend(["--instance".into(), site.instance.clone().into()]);
    all
}

async fn wait_for_server(
    args: &Up,
    kubeconfig: &Path,
    mut started: Option<Child>,
    journal: &Journal,
) -> Result<()> {
    let (begun, written) = (Instant::now(), args.site.data_dir.join("admin.kubeconfig"));
    loop {
        // A process that was just started may not have its command line yet: ask the child itself.
        let ended = match &mut started {
            Some(child) => child.try_wait()?.is_some(),
            None => args.site.running().is_none(),
        };
        if ended {
            let log = std::fs::read_to_string(args.site.log_file()).unwrap_or_default();
            let end: Vec<_> = log.lines().rev().take(10).collect();
            bail!(
                "the server ended; the end of its log:\n  {}",
                end.into_iter().rev().collect::<Vec<_>>().join("\n  ")
            );
        }
        if written.exists() && ready(&written).await {
            std::fs::copy(&written, kubeconfig)
                .with_context(|| format!("writing {}", kubeconfig.display()))?;
            journal.say(format!(
                "API server answers on port {}; kubeconfig is {}",
                args.port,
                kubeconfig.display()
            ));
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(30) {
            bail!(
                "the server does not answer after 30 s; see {}",
                args.site.log_file().display()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ready(kubeconfig: &Path) -> bool {
    match client(kubeconfig).await {
        Ok(client) => client.apiserver_version().await.is_ok(),
        Err(_) => false,
    }
}

/// A client of the server that wrote `kubeconfig`.
///
/// # Errors
/// When the file cannot be read or is not a kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let config = kube::config::Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("reading {}", kubeconfig.display()))?;
    let config =
        kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default())
            .await?;
    Ok(kube::Client::try_from(config)?)
}

/// What runs where.
async fn show(client: &kube::Client) -> Result<()> {
    use skysail_schemas::{Container, Host};
    let hosts = kube::Api::<Host>::all(client.clone())
        .list(&kube::api::ListParams::default())
        .await?;
    let containers = kube::Api::<Container>::all(client.clone())
        .list(&kube::api::ListParams::default())
        .await?;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING); // columns divided by space only, as kubectl prints them
    table.set_header([
        "CLOUD",
        "HOST",
        "ADDRESS",
        "TENANT",
        "CONTAINER",
        "ADDRESS",
        "STATE",
    ]);
    for host in &hosts.items {
        let name = host.metadata.name.clone().unwrap_or_default();
        let status = host.status.clone().unwrap_or_default();
        let address = status
            .addresses
            .external
            .or(status.addresses.internal)
            .map(|a| a.to_string())
            .unwrap_or_default();
        let mut here = containers
            .items
            .iter()
            .filter(|c| {
                c.status
                    .as_ref()
                    .is_some_and(|s| s.host.as_deref() == Some(&name))
            })
            .peekable();
        let cloud = host.spec.cloud.clone().unwrap_or_default();
        if here.peek().is_none() {
            table.add_row([
                cloud.clone(),
                name.clone(),
                address.clone(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ]);
        }
        for container in here {
            let status = container.status.clone().unwrap_or_default();
            table.add_row([
                cloud.clone(),
                name.clone(),
                address.clone(),
                container.metadata.namespace.clone().unwrap_or_default(),
                container.metadata.name.clone().unwrap_or_default(),
                status
                    .addresses
                    .first()
                    .map(|a| a.address.to_string())
                    .unwrap_or_default(),
                format!("{:?}", status.phase),
            ]);
        }
    }
    println!("\n{table}\n");
    Ok(())
}
