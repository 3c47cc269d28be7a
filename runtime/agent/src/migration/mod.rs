//! Moves of containers between hosts: the agents' part. Owner of: `<data>/migrations`, the port on which agents take
//! containers from each other, and, while a container is on its way, that container: [`Site::hold`] keeps the
//! reconcile loop and the keeper from it.
//!
//! Invariants:
//! - Each half is a machine ([`machine`]) whose states are on disk before they are acted on, and that goes on from
//!   there after the agent was killed. [`laws`] tries every order of things.
//! - The container's owner changes by one write of the source ([`api::Api::commit`]). Before it the target lets
//!   nothing run; after it the source lets nothing run.
//! - A container that has left stays held at its old epoch: a turn that began before, or that knows only what was, must
//!   not begin it again.
//! - What the container wrote is removed at the source only after the target has said that it runs there, and at
//!   the target only after the Migration is finished without it.
//! - A peer is who its certificate says, and must be the one that the Migration names.
//!
//! [`laws`]: self#laws

pub mod api;
pub mod failpoint;
#[cfg(test)]
mod laws;
mod layer;
pub mod machine;
pub mod record;
mod source;
pub mod stream;
mod target;
pub mod tls;
pub mod tree;

use crate::container::record::Id;
use crate::container::site::Site;
use api::Api;
use failpoint::Failpoints;
use futures::StreamExt;
use kube::ResourceExt;
use kube::runtime::watcher;
use machine::{Source, Target};
use record::{Record, Records, Role};
use skysail_reconcile::{Cache, CancellationToken, Error};
use skysail_schemas::migration::{MigrationMode, MigrationPhase};
use skysail_schemas::{Container, Migration};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tls::Identity;

/// How often a state looks whether what it waits for has come about in what is watched.
const LOOK: Duration = Duration::from_millis(20);

/// What both halves need.
pub struct Migrations {
    host: String,
    site: Arc<Site>,
    api: Api,
    records: Records,
    points: Failpoints,
    kubeconfig: Option<PathBuf>,
    /// Containers of this host.
    containers: Arc<Cache<Container>>,
    /// Migrations from here.
    leaving: Arc<Cache<Migration>>,
    /// Migrations to here.
    arriving: Arc<Cache<Migration>>,
    /// Migrations that this process has in hand or is done with, by uid; and the containers in hand.
    taken: Mutex<Taken>,
    /// Nothing is carried on once this is over; an agent that is started anew does that.
    shutdown: CancellationToken,
}

#[derive(Default)]
struct Taken {
    migrations: BTreeSet<String>,
    containers: BTreeSet<Id>,
}

/// What an agent needs for migrations, read before anything else looks at containers.
pub struct Opened {
    records: Records,
    found: Vec<Record>,
}

/// Reads what is on record, and keeps everybody else from the containers that are on their way.
///
/// # Errors
/// The records cannot be read: then nothing may be started here.
pub fn open(data: &Path, site: &Site) -> std::io::Result<Opened> {
    let records = Records::open(data)?;
    let found = records.all()?;
    for record in found.iter().filter(|r| r.holds()) {
        site.hold(&record.container, &record.container_uid, record.epoch);
    }
    Ok(Opened { records, found })
}

/// What an agent gives.
pub struct Settings {
    /// The Host that this machine is.
    pub host: String,
    /// Speaks to the API server.
    pub client: kube::Client,
    /// Where the failpoints are.
    pub data: std::path::PathBuf,
    /// Where the certificate is by which others know this host; without it nothing moves.
    pub kubeconfig: Option<PathBuf>,
}

/// Runs both halves until `shutdown`.
pub async fn run(
    settings: Settings,
    opened: Opened,
    site: Arc<Site>,
    containers: Arc<Cache<Container>>,
    shutdown: CancellationToken,
) {
    let Settings {
        host,
        client,
        data,
        kubeconfig,
    } = settings;
    let watch = |field: &str| {
        let config = watcher::Config::default().fields(&format!("{field}={host}"));
        Cache::start(&client, config, shutdown.clone())
    };
    let this = Arc::new(Migrations {
        leaving: watch("status.source"),
        arriving: watch("status.target"),
        api: Api::new(client.clone()),
        points: Failpoints::new(&data),
        records: opened.records,
        taken: Mutex::default(),
        shutdown: shutdown.clone(),
        host,
        site,
        kubeconfig,
        containers,
    });
    for record in opened.found {
        this.take(&record.uid, &record.container);
        match record.role.clone() {
            Role::Source(_) => this.spawn(source::go_on(this.clone(), record)),
            Role::Target(_) => this.spawn(target::go_on(this.clone(), record)),
        }
    }
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = this.clone().depart() => {}
        () = target::listen(this) => {}
    }
}

impl Migrations {
    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` until the agent is asked to end. It then stops wherever it is, which is as safe as a kill: what waits
    /// for another host could keep the agent from ending for ever, and with it the container's turn.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Who this host is to others now: certificates are renewed.
    fn identity(&self) -> std::io::Result<Identity> {
        let none = || std::io::Error::other("this agent has no certificate");
        Identity::from_kubeconfig(self.kubeconfig.as_deref().ok_or_else(none)?)
    }

    /// Whether this Migration, and its container, were nobody's until now.
    fn take(&self, uid: &str, container: &Id) -> bool {
        let mut taken = self.taken();
        if taken.migrations.contains(uid) || taken.containers.contains(container) {
            return false;
        }
        taken.migrations.insert(uid.to_owned());
        taken.containers.insert(container.clone())
    }

    /// Another Migration may have the container. This one is done with, unless it may be begun `again`.
    fn give_back(&self, uid: &str, container: &Id, again: bool) {
        let mut taken = self.taken();
        taken.containers.remove(container);
        if again {
            taken.migrations.remove(uid);
        }
    }

    /// Begins the Migrations from here.
    async fn depart(self: Arc<Self>) {
        self.leaving.ready().await;
        let mut changes = self.leaving.changes().boxed();
        let mut again = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                migration = changes.next() => match migration {
                    Some(migration) => self.begin(&migration),
                    None => return,
                },
                _ = again.tick() => self.leaving.list().iter().for_each(|m| self.begin(m)),
            }
        }
    }

    fn begin(self: &Arc<Self>, migration: &Migration) {
        let phase = migration.status.as_ref().map(|s| s.phase);
        if !matches!(
            phase,
            Some(MigrationPhase::Preparing | MigrationPhase::Copying)
        ) {
            return;
        }
        // What a watch told late may be of one that is over.
        let namespace = migration.namespace();
        let current = self
            .leaving
            .get(namespace.as_deref(), &migration.name_any());
        if current.is_none_or(|c| c.uid() != migration.uid()) {
            return;
        }
        let Some(record) = self.record(migration, Role::Source(Source::Copying)) else {
            return;
        };
        if self.take(&record.uid, &record.container) {
            self.spawn(source::begin(self.clone(), record));
        }
    }

    fn record(&self, migration: &Migration, role: Role) -> Option<Record> {
        let status = migration.status.clone()?;
        Some(Record {
            uid: migration.uid()?,
            name: migration.name_any(),
            container: Id {
                namespace: migration.namespace()?,
                name: migration.spec.container.clone(),
            },
            container_uid: status.container_uid?,
            epoch: status.epoch?,
            source: status.source?,
            target: status.target?,
            mode: status.mode.unwrap_or(MigrationMode::Cold),
            begun_at: Some(jiff::Timestamp::now().as_millisecond()),
            frozen_at: None,
            lost: None,
            role,
        })
    }

    fn find(cache: &Cache<Migration>, record: &Record) -> Option<Arc<Migration>> {
        let found = cache.get(Some(&record.container.namespace), &record.name);
        found.filter(|m| m.uid().as_ref() == Some(&record.uid))
    }

    /// Whether the API has said that this host owns the container now.
    fn is_owner(&self, record: &Record) -> bool {
        let id = &record.container;
        let listed = self.containers.get(Some(&id.namespace), &id.name);
        listed.is_some_and(|c| {
            let status = c.status.as_ref();
            c.uid().as_ref() == Some(&record.container_uid)
                && status
                    .is_some_and(|s| s.host.as_ref() == Some(&self.host) && s.epoch > record.epoch)
        })
    }

    /// Puts the next state on disk, between two failpoints; holds the container from before it is there.
    async fn settle(&self, record: &mut Record, role: Role) {
        let name = point(&role);
        self.points.pass(&format!("{name}.before")).await;
        record.role = role;
        if record.holds() {
            self.site
                .hold(&record.container, &record.container_uid, record.epoch);
        }
        while let Err(error) = self.records.save(record) {
            tracing::error!(migration = record.name, %error, "the record of a migration could not be written; tried again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if record.gives_back() {
            self.site.release(&record.container);
        }
        tracing::info!(migration = record.name, container = %record.container, state = name, "migration");
        self.points.pass(&name).await;
    }

    /// Nothing is left to be done here.
    fn over(&self, record: &Record) {
        if let Err(error) = self.records.remove(&record.uid) {
            tracing::error!(migration = record.name, %error, "the record of a migration could not be removed");
        }
        self.give_back(&record.uid, &record.container, false);
    }
}

/// Where the images of a live move are, on both hosts: in memory.
fn images(record: &Record) -> PathBuf {
    Path::new("/run/skysail/images").join(&record.uid)
}

/// An empty directory that only root gets to. CRIU reads in it without root's rights, from inside of the container's
/// user namespace, by a descriptor: so it may be read, but nobody else may pass what it is in.
fn empty(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut builder = std::fs::DirBuilder::new();
    let parent = dir.parent().unwrap_or(dir);
    builder.recursive(true).mode(0o700).create(parent)?;
    std::fs::DirBuilder::new().mode(0o755).create(dir)
}

/// `source.copying`, `target.prepared`, …
fn point(role: &Role) -> String {
    let (half, state) = match role {
        Role::Source(state) => ("source", format!("{state:?}")),
        Role::Target(state) => ("target", format!("{state:?}")),
    };
    let word: String = state
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect();
    format!("{half}.{}", word.to_lowercase())
}

/// A failure as the reason for giving up.
fn why(e: &Error) -> machine::Why {
    machine::Why::failed(e.reason(), e.to_string())
}

/// The state of a half that is on record.
fn source_state(record: &Record) -> Source {
    match &record.role {
        Role::Source(state) => state.clone(),
        Role::Target(_) => Source::Over,
    }
}

fn target_state(record: &Record) -> Target {
    match &record.role {
        Role::Target(state) => *state,
        Role::Source(_) => Target::Over,
    }
}
