//! The on-host daemon: makes what is bound to this host so, and keeps it running
//! while the control plane is away.
//!
//! It owns everything that precedes or outlives a container's processes: the
//! unpacked images, the overlay root, the user and network namespaces, the switch
//! ports. LXC only joins them. That is what lets a container be frozen here and
//! resumed on another host, and what lets the agent itself be killed and replaced
//! without a container noticing.
//!
//! The supervisor that starts the agent must end only the agent with it, not its
//! control group (`KillMode=process` in a systemd unit): the containers' monitors are
//! its children at first.

pub mod checkpoint;
pub mod command;
pub mod container;
pub mod credential;
pub mod heartbeat;
pub mod image;
pub mod migration;
pub mod network;
pub mod ports;
pub mod sessions;
pub mod usage;

use container::keeper::Keeper;
use container::layer::Layers;
use container::paths::Paths;
use container::site::Site;
use container::{Containers, record::Id};
use credential::Credential;
use futures::channel::mpsc::unbounded;
use heartbeat::Heartbeat;
use image::Images;
use kube::runtime::watcher;
use ports::PortPlane;
use skysail_reconcile::{Cache, CancellationToken, Error, Key, Loop};
use skysail_schemas::{Container, Host, Port};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The version that the agent reports.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What an agent needs to know to start.
#[derive(Clone)]
pub struct Settings {
    /// The Host object that this machine is.
    pub host: String,
    /// Speaks to the API server with the host's own identity.
    pub client: kube::Client,
    /// What is renewed before it ends; none where somebody else sees to the client.
    pub credential: Option<Arc<Credential>>,
    /// Where images, layers and records live; must not be on an overlay.
    pub data_dir: PathBuf,
    /// Addresses that containers may never reach: the API server's.
    pub protected: Vec<IpAddr>,
    /// Where the certificate is by which other hosts' agents know this one, renewed in time; without it no container
    /// moves from or to here.
    pub kubeconfig: Option<PathBuf>,
}

impl Settings {
    /// Settings for the host `host` whose credential is the file `kubeconfig`.
    ///
    /// # Errors
    /// The file cannot be read or used.
    pub async fn from_kubeconfig(
        host: &str,
        kubeconfig: &Path,
        data_dir: &Path,
    ) -> Result<Self, Error> {
        let unusable = |e: &dyn std::fmt::Display| {
            Error::refused(
                "Kubeconfig",
                format!("{} cannot be used: {e}", kubeconfig.display()),
            )
        };
        let file = kube::config::Kubeconfig::read_from(kubeconfig).map_err(|e| unusable(&e))?;
        let config = credential::config(file).await.map_err(|e| unusable(&e))?;
        let (name, port) = (
            config.cluster_url.host().unwrap_or_default().to_owned(),
            config.cluster_url.port_u16().unwrap_or(443),
        );
        let name = name.trim_matches(['[', ']']);
        let protected = tokio::net::lookup_host((name, port))
            .await
            .map(|all| all.map(|a| a.ip()).collect())
            .unwrap_or_default();
        let opened = Credential::open(host, kubeconfig, config);
        let (credential, client) = opened.map_err(|e| unusable(&e))?;
        Ok(Self {
            credential: Some(credential),
            host: host.to_owned(),
            client,
            data_dir: data_dir.to_owned(),
            protected,
            kubeconfig: Some(kubeconfig.to_owned()),
        })
    }
}

/// Runs the agent of a host until `shutdown`. What runs then runs on.
///
/// # Errors
/// What it cannot start without: the data directory, the switch.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), Error> {
    command::keep_descriptors();
    if let Some(credential) = settings.credential.clone() {
        let ended = shutdown.clone();
        tokio::spawn(async move { credential.renew(ended).await });
    }
    let host = own_host(&settings, &shutdown).await?;
    let addresses = host.status.unwrap_or_default().addresses;
    let network = network::Settings {
        host: settings.host.clone(),
        cloud: host.spec.cloud,
        internal: addresses.internal,
        external: addresses.external,
        protected: settings.protected.clone(),
        run_dir: "/run/skysail".into(),
        data_dir: settings.data_dir.clone(),
    };
    let plane = network::NetworkPlane::start(network, settings.client.clone()).await;
    let plane = plane.map_err(|e| {
        Error::Transient(format!(
            "the switch of host {} could not be set up: {e}",
            settings.host
        ))
    })?;
    serve(settings, Arc::new(plane), shutdown).await
}

/// Runs the reconcilers of a host over a switch that is ready.
///
/// # Errors
/// The data directory cannot be used.
pub async fn serve(
    settings: Settings,
    plane: Arc<dyn PortPlane>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Settings {
        host,
        client,
        data_dir,
        kubeconfig,
        ..
    } = settings;
    let unusable = |e: std::io::Error| {
        Error::refused(
            "DataDirectory",
            format!("{} cannot be used: {e}", data_dir.display()),
        )
    };
    let images = Images::open(&host, data_dir.join("images"), client.clone()).map_err(unusable)?;
    std::fs::create_dir_all(data_dir.join("containers")).map_err(unusable)?;
    let (alarms, alarmed) = tokio::sync::mpsc::unbounded_channel::<Id>();
    let paths = Paths::new(&data_dir);
    let layers = Layers::open(paths.clone()).await.map_err(unusable)?;
    let site = Arc::new(Site::open(paths, images, layers, plane, alarms));
    let on_their_way = migration::open(&data_dir, &site).map_err(unusable)?;

    let mine = watcher::Config::default().fields(&format!("status.host={host}"));
    let containers: Arc<Cache<Container>> = Cache::start(&client, mine, shutdown.clone());
    let here = watcher::Config::default().fields(&format!("spec.location.host={host}"));
    let ports: Arc<Cache<Port>> = Cache::start(&client, here, shutdown.clone());

    let (wake, wakes) = unbounded_wakes();
    let keeper = Keeper::new(
        site.clone(),
        Containers::new(site.clone(), ports.clone()),
        containers.clone(),
        wake,
    );
    let moves = migration::run(
        migration::Settings {
            host: host.clone(),
            client: client.clone(),
            data: data_dir.clone(),
            kubeconfig,
        },
        on_their_way,
        site.clone(),
        containers.clone(),
        shutdown.clone(),
    );
    let of_port = |p: &Port, _: &Cache<Container>| {
        vec![
            Key::new(&p.spec.container).within(p.metadata.namespace.as_deref().unwrap_or_default()),
        ]
    };
    let turns = Loop::new(
        Containers::new(site.clone(), ports.clone()),
        client.clone(),
        containers,
    )
    .watches(&ports, of_port)
    .wakes(wakes);
    let paths = Paths::new(&data_dir);
    let sessions = sessions::run(
        client.clone(),
        host.clone(),
        move |offer| sessions::line::of(offer, &paths),
        shutdown.clone(),
    );
    let heartbeat = Heartbeat::new(host, client, site.clone(), data_dir);
    let used = || site.images_on_record();

    tracing::info!(version = VERSION, "agent runs");
    tokio::join!(
        turns.run(shutdown.clone()),
        keeper.run(alarmed, shutdown.clone()),
        heartbeat.renew(shutdown.clone()),
        heartbeat.report(shutdown.clone()),
        site.images.keep_tidy(used, shutdown.clone()),
        sessions,
        moves,
    );
    Ok(())
}

fn unbounded_wakes() -> (
    container::keeper::Wake,
    impl futures::Stream<Item = (Key<Container>, String)>,
) {
    let (sender, receiver) = unbounded();
    (sender, receiver)
}

/// The own Host object: from the API server or, while it is away, as last seen.
async fn own_host(settings: &Settings, shutdown: &CancellationToken) -> Result<Host, Error> {
    let file = settings.data_dir.join("host.json");
    let stored = || {
        std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Host>(&bytes).ok())
    };
    loop {
        let asked = skysail_reconcile::get::<Host>(&settings.client, None, &settings.host);
        match tokio::time::timeout(Duration::from_secs(10), asked).await {
            Ok(Ok(Some(host))) => {
                let write = || {
                    std::fs::create_dir_all(&settings.data_dir)
                        .and_then(|()| std::fs::write(&file, serde_json::to_vec(&host)?))
                };
                write().map_err(|e| {
                    Error::refused(
                        "DataDirectory",
                        format!("{} cannot be written: {e}", file.display()),
                    )
                })?;
                return Ok(host);
            }
            Ok(Ok(None)) => tracing::warn!(
                host = settings.host,
                "the control plane knows no Host of this name; waits for it"
            ),
            Ok(Err(error)) => {
                tracing::warn!(host = settings.host, %error, "the control plane does not answer")
            }
            Err(_) => tracing::warn!(
                host = settings.host,
                "the control plane does not answer in time"
            ),
        }
        if let Some(host) = stored() {
            return Ok(host);
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(Error::Transient("ended before it knew its host".into())),
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    }
}
