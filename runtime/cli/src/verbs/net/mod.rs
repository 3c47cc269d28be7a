//! `skysail net`: the way of a packet between two containers, and how well all of a tenant's reach one another.

mod check;
mod tenant;
mod trace;
mod way;

use anyhow::Result;
use kube::Client;

/// Flags of `net`.
#[derive(Debug, clap::Args)]
pub struct Net {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The way of a connection's first packet through switches and tunnels, and where it would be dropped
    Trace(trace::Trace),
    /// Latency, loss and packet size between all containers of a namespace
    Check(check::Check),
}

/// Runs the verb; 1 where something does not get through.
///
/// # Errors
/// When the server or an agent does not answer.
pub async fn run(client: &Client, default: &str, args: Net) -> Result<i32> {
    match args.what {
        What::Trace(args) => trace::run(client, default, args).await,
        What::Check(args) => check::run(client, default, args).await,
    }
}
