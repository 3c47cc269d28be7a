//! The client verbs, one file each.

pub mod apply;
pub mod completion;
pub mod cordon;
pub mod cp;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod drain;
pub mod exec;
pub mod get;
pub mod logs;
pub mod migrate;
pub mod net;
pub mod plan;
pub mod simulate;
pub mod top;
pub mod version;
pub mod wait;

use anyhow::Result;
use std::path::Path;

/// A verb that speaks to a server.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// Make the server's objects what manifests say
    Apply(apply::Apply),
    /// Show objects as rows, YAML or JSON
    Get(get::Get),
    /// Show one object, its conditions and its events
    Describe(describe::Describe),
    /// Delete objects and wait until they are gone
    Delete(delete::Delete),
    /// Show what an apply would change
    Diff(diff::Diff),
    /// Show what an apply would do: objects, placements, cost
    Plan(plan::Plan),
    /// Wait until objects are as wished
    Wait(wait::Wait),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Open a root shell in a container
    Console(exec::Console),
    /// Show a container's boot and console log
    Logs(logs::Logs),
    /// Copy files into or out of a container
    Cp(cp::Cp),
    /// Show what hosts and containers use
    Top(top::Top),
    /// Keep new containers away from hosts
    Cordon(cordon::Cordon),
    /// Let new containers come to hosts again
    Uncordon(cordon::Cordon),
    /// Move everything away from hosts
    Drain(drain::Drain),
    /// Move a container to another host
    Migrate(migrate::Migrate),
    /// See the way of packets between containers, and how well they get there
    Net(net::Net),
}

/// Runs a verb; its exit code.
///
/// # Errors
/// When the verb could not do its work; what, on which object, what to do.
pub async fn run(verb: Verb, kubeconfig: Option<&Path>) -> Result<i32> {
    let (client, namespace) = crate::connect::client(kubeconfig).await?;
    match verb {
        Verb::Apply(args) => apply::run(&client, &namespace, args).await.map(|()| 0),
        Verb::Get(args) => get::run(&client, &namespace, args).await.map(|()| 0),
        Verb::Describe(args) => describe::run(&client, &namespace, args).await.map(|()| 0),
        Verb::Delete(args) => delete::run(&client, &namespace, args).await.map(|()| 0),
        Verb::Diff(args) => diff::run(&client, &namespace, &args).await,
        Verb::Wait(args) => wait::run(&client, &namespace, args).await.map(|()| 0),
        Verb::Exec(args) => exec::exec(&client, &namespace, args).await,
        Verb::Console(args) => exec::console(&client, &namespace, args).await,
        Verb::Logs(args) => logs::run(&client, &namespace, args).await,
        Verb::Cp(args) => cp::run(&client, &namespace, args).await,
        Verb::Plan(args) => plan::run(&client, &namespace, args).await,
        Verb::Top(args) => top::run(&client, &namespace, args).await.map(|()| 0),
        Verb::Cordon(args) => cordon::run(&client, &args, true).await.map(|()| 0),
        Verb::Uncordon(args) => cordon::run(&client, &args, false).await.map(|()| 0),
        Verb::Drain(args) => drain::run(&client, &args).await.map(|()| 0),
        Verb::Net(args) => net::run(&client, &namespace, args).await,
        Verb::Migrate(args) => migrate::run(&client, &namespace, args).await.map(|()| 0),
    }
}
