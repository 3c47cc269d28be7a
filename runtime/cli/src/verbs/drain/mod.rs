//! `skysail drain`: empties a host by moving its containers, within what their sets allow.
//!
//! All it does is kept in objects: the host is cordoned, every move is a Migration. A
//! drain that was interrupted goes on when it is run again.

mod plan;

use super::cordon;
use crate::print::Output;
use crate::refusal::explain;
use crate::verbs::get::Selector;
use anyhow::{Result, anyhow, bail};
use futures::{StreamExt as _, stream::select_all};
use kube::api::PostParams;
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt as _};
use plan::{Next, Wish, World};
use skysail_reconcile::{Cache, CancellationToken, Resource};
use skysail_schemas::migration::MigrationMode;
use skysail_schemas::{Container, ContainerSet, Migration};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Flags of `drain`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail drain east-1                  cordon it, move everything away, wait\n  skysail drain east-1 --mode cold      without trying to move what runs as it runs\n  skysail drain -l rack=r7 --at-once 1\n\nOf a ContainerSet, one container is away at once; its annotation skysail.dev/max-unavailable says otherwise.\nInterrupt it when you like: what is on its way arrives, and the same command goes on. `skysail uncordon` ends it."
)]
pub struct Drain {
    /// Hosts
    #[arg(value_name = "HOST", required_unless_present = "labels")]
    hosts: Vec<String>,
    #[command(flatten)]
    selector: Selector,
    /// Live, cold, or live where that is possible
    #[arg(long, value_enum, default_value_t = Mode::LiveElseCold)]
    mode: Mode,
    /// How many containers of a host move at once
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
    /// How long to wait until a host is empty
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Live,
    Cold,
    LiveElseCold,
}

/// Runs the verb.
///
/// # Errors
/// With all that could not be moved, and why.
pub async fn run(client: &Client, args: &Drain) -> Result<()> {
    let mode = match args.mode {
        Mode::Live => MigrationMode::Live,
        Mode::Cold => MigrationMode::Cold,
        Mode::LiveElseCold => MigrationMode::LiveElseCold,
    };
    let names = cordon::hosts(client, &args.hosts, &args.selector).await?;
    // All of them first: what leaves one must not go to the next.
    for name in &names {
        let already = if cordon::set(client, name, true).await? {
            ""
        } else {
            " already"
        };
        Output::stdout().write(&format!("hosts/{name} cordoned{already}\n"))?;
    }
    let watched = Watched::start(client).await;
    for host in names {
        let wish = Wish {
            host,
            mode,
            at_once: args.at_once.into(),
        };
        let empty = empty(client, &watched, &wish);
        match tokio::time::timeout(args.timeout, empty).await {
            Ok(done) => done?,
            Err(_) => bail!(
                "hosts/{}: not empty after {}: {}",
                wish.host,
                humantime::format_duration(args.timeout),
                remaining(&plan::next(&wish, &watched.world()))
            ),
        }
        Output::stdout().write(&format!("hosts/{} drained\n", wish.host))?;
    }
    Ok(())
}

/// What a drain looks at, kept up to date.
struct Watched {
    containers: Arc<Cache<Container>>,
    migrations: Arc<Cache<Migration>>,
    sets: Arc<Cache<ContainerSet>>,
    /// Ends the watches when it goes.
    _stop: Stop,
}

/// Cancels when it is dropped.
struct Stop(CancellationToken);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Watched {
    async fn start(client: &Client) -> Self {
        let stop = CancellationToken::new();
        let watched = Self {
            containers: Cache::start(client, Config::default(), stop.clone()),
            migrations: Cache::start(client, Config::default(), stop.clone()),
            sets: Cache::start(client, Config::default(), stop.clone()),
            _stop: Stop(stop),
        };
        tokio::join!(
            watched.containers.ready(),
            watched.migrations.ready(),
            watched.sets.ready()
        );
        watched
    }

    fn world(&self) -> World {
        World {
            containers: self.containers.list(),
            migrations: self.migrations.list(),
            sets: self.sets.list(),
        }
    }

    fn changes(&self) -> impl futures::Stream<Item = ()> + Unpin {
        fn of<K: Resource>(cache: &Cache<K>) -> futures::stream::BoxStream<'static, ()> {
            cache.changes().map(drop).boxed()
        }
        select_all([of(&self.containers), of(&self.migrations), of(&self.sets)])
    }
}

/// Makes Migrations until nothing is on the host, and says what happens.
async fn empty(client: &Client, watched: &Watched, wish: &Wish) -> Result<()> {
    let mut changes = watched.changes().ready_chunks(1024);
    let mut said = BTreeSet::new();
    loop {
        let next = plan::next(wish, &watched.world());
        tell(&next, &mut said)?;
        if next.is_empty_host() {
            return Ok(());
        }
        if next.is_stuck() {
            bail!("hosts/{}: {}", wish.host, remaining(&next));
        }
        for migration in &next.make {
            make(client, watched, migration).await?;
        }
        if next.make.is_empty() && changes.next().await.is_none() {
            return Err(anyhow!(
                "the server no longer tells what changes; run it again"
            ));
        }
    }
}

async fn make(client: &Client, watched: &Watched, migration: &Migration) -> Result<()> {
    let namespace = migration.namespace().unwrap_or_default();
    let api = Api::<Migration>::namespaced(client.clone(), &namespace);
    let name = migration.name_any();
    let made = match api.create(&PostParams::default(), migration).await {
        // Made by an earlier drain; the watch has not shown it yet.
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => api.get(&name).await,
        other => other,
    };
    let made = made.map_err(|e| explain(e, format_args!("migrations/{name} -n {namespace}")))?;
    watched.migrations.wrote(made);
    Ok(())
}

/// Everything once.
fn tell(next: &Next, said: &mut BTreeSet<String>) -> Result<()> {
    let made = next.make.iter().map(|m| {
        let namespace = m.namespace().unwrap_or_default();
        format!(
            "{namespace}/{} is moved (migrations/{})",
            m.spec.container,
            m.name_any()
        )
    });
    let moving = next
        .moving
        .iter()
        .map(|(c, phase)| format!("{c} {phase:?}"));
    let waiting = next
        .waiting
        .iter()
        .map(|(c, why)| format!("{c} waits: {why}"));
    let failed = next
        .failed
        .iter()
        .map(|(c, why)| format!("{c} stays: {why}"));
    for line in made.chain(moving).chain(waiting).chain(failed) {
        if said.insert(line.clone()) {
            Output::stdout().write(&format!("  {}\n", crate::print::clean(&line)))?;
        }
    }
    Ok(())
}

fn remaining(next: &Next) -> String {
    let moving = next
        .moving
        .iter()
        .map(|(c, phase)| format!("\n  * {c}: {phase:?}"));
    let waiting = next
        .waiting
        .iter()
        .map(|(c, why)| format!("\n  * {c}: {why}"));
    let failed = next
        .failed
        .iter()
        .map(|(c, why)| format!("\n  * {c}: {why}"));
    let all: Vec<_> = failed.chain(moving).chain(waiting).collect();
    format!("{} containers are still there:{}", all.len(), all.concat())
}
