//! `skysail server`: the API server and, in the same process, the controllers.

use super::{Site, certificates::Certificates, etcd::Etcd, name, need_root};
use anyhow::{Context as _, Result};
use skysail_apiserver::{ApiServer, Config, Identity};
use skysail_store::Store;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `server`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail server                                          all on one machine, embedded store\n  skysail server --etcd http://10.0.0.1:2379              state in etcd; several servers may run, over one --data-dir\n  skysail server --controllers none                       the API alone\n  skysail server --controllers network,placement          these controllers only"
)]
pub struct Server {
    #[command(flatten)]
    site: Site,
    /// Addresses to listen on
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// URL under which hosts find this server
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
    #[command(flatten)]
    etcd: Etcd,
    #[command(flatten)]
    certificates: Certificates,
    /// Controllers to run, by name; `none` for the API alone. All where absent
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    controllers: Vec<String>,
}

/// Serves until it is asked to end (SIGTERM, Ctrl-C). The administrator's kubeconfig is
/// written to `kubeconfig`, else to `admin.kubeconfig` in the data directory.
///
/// # Errors
/// When the store, the keys or an address cannot be used.
pub async fn run(args: Server, kubeconfig: Option<PathBuf>) -> Result<()> {
    need_root("server")?;
    let kubeconfig = kubeconfig.unwrap_or_else(|| args.site.data_dir.join("admin.kubeconfig"));
    let data = &args.site.data_dir;
    std::fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
    let store = open_store(&args).await?;
    let local = format!("https://{}", args.listen[0]);
    let mut config = Config::new(
        data,
        args.advertise.clone().unwrap_or_else(|| local.clone()),
    );
    config.server_certificates = args.certificates.server_certificates;
    config.agent_certificates = args.certificates.agent_certificates;
    config.server_names.extend(
        args.listen
            .iter()
            .map(|a: &SocketAddr| a.ip())
            .filter(|ip: &IpAddr| !ip.is_unspecified())
            .map(|ip| ip.to_string()),
    );
    let api = ApiServer::new(store, config)
        .await
        .context("starting the API server")?;
    let mut listeners = vec![];
    for address in &args.listen {
        listeners.push(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("listening on {address}: is another server running?"))?,
        );
    }
    write_kubeconfig(&kubeconfig, &api, &local)?;
    let stop = skysail_reconcile::CancellationToken::new();
    let controllers = start_controllers(&args, &api, stop.clone())?;
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        served = api.serve(listeners) => served.context("serving")?,
        _ = terminate.recv() => tracing::info!("asked to end"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
    }
    stop.cancel();
    if let Some(task) = controllers {
        task.await??;
    }
    api.stop();
    Ok(())
}

async fn open_store(args: &Server) -> Result<Arc<dyn Store>> {
    if args.etcd.is_used() {
        let store = skysail_store::Etcd::connect(args.etcd.options()?).await;
        let place = || format!("reaching etcd at {}", args.etcd.urls.join(", "));
        return Ok(Arc::new(store.with_context(place)?));
    }
    let file = args.site.data_dir.join("store.db");
    let store = skysail_store::Embedded::open(&file);
    let store = store.with_context(|| format!("opening {}", file.display()))?;
    Ok(Arc::new(store))
}

/// The administrator's kubeconfig, written whole or not at all.
fn write_kubeconfig(path: &Path, api: &ApiServer, server: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = path.with_extension("new");
    let text = api.kubeconfig(server, &Identity::admin("admin"))?;
    let _ = std::fs::remove_file(&fresh);
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?
        .write_all(text.as_bytes())?;
    std::fs::rename(&fresh, path).with_context(|| format!("writing {}", path.display()))
}

type Running = tokio::task::JoinHandle<Result<(), skysail_controllers::UnknownController>>;

fn start_controllers(
    args: &Server,
    api: &ApiServer,
    stop: skysail_reconcile::CancellationToken,
) -> Result<Option<Running>> {
    if args.controllers.iter().any(|c| c == "none") {
        return Ok(None);
    }
    // With etcd another server may be there: each controller runs where its Lease is held.
    let name = match args.etcd.is_used() {
        true => Some(name::take(&args.site.data_dir)?),
        false => None,
    };
    let identity = name.as_ref().map(|n| n.text.clone());
    let site = skysail_clouds::open::Site {
        data_dir: args.site.data_dir.clone(),
        fabric: args.site.fabric()?,
        ec2: Default::default(),
        hetzner: Default::default(),
    };
    let settings = skysail_controllers::Settings { identity, site };
    let context = skysail_controllers::Context::new(
        api.in_process(Identity::admin("skysail:controllers")),
        settings,
        &stop,
    );
    let wanted = args.controllers.clone();
    Ok(Some(tokio::spawn(async move {
        let _ours_until_the_end = name;
        skysail_controllers::run(context, &wanted, stop).await
    })))
}
