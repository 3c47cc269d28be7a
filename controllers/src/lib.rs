//! What should happen: one folder per controller, each with the same four files.
//!
//! - `mod.rs`: what it owns, its invariants, what wakes it;
//! - `plan.rs`: the pure part (no async, no clock, no reading);
//! - `apply.rs`: the effects, without choices;
//! - `tests.rs`: the laws: converged input plans nothing, applying twice changes
//!   nothing, what is foreign stays, deletion leaves nothing.
//!
//! Controllers meet each other and the agents only through API objects. [`ALL`] is
//! the one list of them.

mod account;
pub mod cloud;
mod condition;
pub mod container;
pub mod container_set;
pub mod context;
pub mod host;
pub mod host_pool;
pub mod image;
pub mod migration;
pub mod migration_group;
pub mod network;
mod owner;
pub mod placement;
pub mod rebalance;
pub mod security_policy;

pub use context::{Context, Settings};

use futures::future::BoxFuture;
use skysail_reconcile::{CancellationToken, lead};
use std::sync::Arc;

/// An amount of money that is counted in millionths, as people write it.
pub fn money(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let short = text.trim_end_matches('0');
    let short = short.strip_suffix('.').unwrap_or(short);
    short.to_owned()
}

/// One controller.
pub struct Controller {
    /// Its name: for `--controllers=…`, logs, its Lease.
    pub name: &'static str,
    /// Runs it until the token is cancelled.
    pub run: fn(Arc<Context>, CancellationToken) -> BoxFuture<'static, ()>,
}

/// Every controller.
pub const ALL: &[Controller] = &[
    Controller {
        name: "cloud",
        run: |c, stop| Box::pin(cloud::run(c, stop)),
    },
    Controller {
        name: "host",
        run: |c, stop| Box::pin(host::run(c, stop)),
    },
    Controller {
        name: "host-pool",
        run: |c, stop| Box::pin(host_pool::run(c, stop)),
    },
    Controller {
        name: "image",
        run: |c, stop| Box::pin(image::run(c, stop)),
    },
    Controller {
        name: "network",
        run: |c, stop| Box::pin(network::run(c, stop)),
    },
    Controller {
        name: "placement",
        run: |c, stop| Box::pin(placement::run(c, stop)),
    },
    Controller {
        name: "container",
        run: |c, stop| Box::pin(container::run(c, stop)),
    },
    Controller {
        name: "container-set",
        run: |c, stop| Box::pin(container_set::run(c, stop)),
    },
    Controller {
        name: "migration",
        run: |c, stop| Box::pin(migration::run(c, stop)),
    },
    Controller {
        name: "migration-group",
        run: |c, stop| Box::pin(migration_group::run(c, stop)),
    },
    Controller {
        name: "security-policy",
        run: |c, stop| Box::pin(security_policy::run(c, stop)),
    },
    Controller {
        name: "rebalance",
        run: |c, stop| Box::pin(rebalance::run(c, stop)),
    },
];

/// A name in `--controllers=…` that no controller has.
#[derive(Debug, thiserror::Error)]
#[error("there is no controller {0:?}; choose from {known}", known = names().join(", "))]
pub struct UnknownController(pub String);

/// The names of all controllers.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|c| c.name).collect()
}

/// Runs the named controllers (all where `wanted` is empty) until `shutdown`. With
/// [`Settings::identity`], each runs only while this process holds its Lease, so
/// several servers over one store are safe.
pub async fn run(
    context: Arc<Context>,
    wanted: &[String],
    shutdown: CancellationToken,
) -> Result<(), UnknownController> {
    if let Some(unknown) = wanted.iter().find(|w| !ALL.iter().any(|c| c.name == **w)) {
        return Err(UnknownController(unknown.clone()));
    }
    let chosen = ALL
        .iter()
        .filter(|c| wanted.is_empty() || wanted.iter().any(|w| w == c.name));
    // Dropping this future stops them all.
    let mut running = tokio::task::JoinSet::new();
    for controller in chosen {
        let (context, shutdown) = (context.clone(), shutdown.clone());
        running.spawn(async move {
            match &context.settings.identity {
                None => (controller.run)(context.clone(), shutdown).await,
                Some(identity) => {
                    let work = |stop| (controller.run)(context.clone(), stop);
                    lead(&context.client, controller.name, identity, shutdown, work).await;
                }
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        if let Err(e) = ended {
            tracing::error!(error = %e, "a controller ended by a mistake in the program");
        }
    }
    Ok(())
}
