//! The client verbs, one file each.

pub mod apply;
pub mod cp;
pub mod exec;
pub mod logs;

use anyhow::Result;
use std::path::Path;

/// A verb that speaks to a server.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// Make the server's objects what manifests say
    Apply(apply::Apply),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Open a root shell in a container
    Console(exec::Console),
    /// Show a container's boot and console log
    Logs(logs::Logs),
    /// Copy files into or out of a container
    Cp(cp::Cp),
}

/// Runs a verb; its exit code.
///
/// # Errors
/// When the verb could not do its work; what, on which object, what to do.
pub async fn run(verb: Verb, kubeconfig: Option<&Path>) -> Result<i32> {
    let (client, namespace) = crate::connect::client(kubeconfig).await?;
    match verb {
        Verb::Apply(args) => apply::run(&client, &namespace, args).await.map(|()| 0),
        Verb::Exec(args) => exec::exec(&client, &namespace, args).await,
        Verb::Console(args) => exec::console(&client, &namespace, args).await,
        Verb::Logs(args) => logs::run(&client, &namespace, args).await,
        Verb::Cp(args) => cp::run(&client, &namespace, args).await,
    }
}
