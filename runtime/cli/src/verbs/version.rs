//! `skysail version`: of this command and of the server.

use crate::print::Output;
use crate::refusal::explain;
use crate::request::{self, JSON};
use anyhow::Result;
use std::path::Path;

/// Flags of `version`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail version              of this command and of the server\n  skysail version --client     without asking the server"
)]
pub struct Version {
    /// Do not ask the server
    #[arg(long)]
    client: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the server does not answer; what is known is printed before.
pub async fn run(kubeconfig: Option<&Path>, args: &Version) -> Result<()> {
    let out = Output::stdout();
    out.write(&format!("Client: {}\n", env!("CARGO_PKG_VERSION")))?;
    if args.client {
        return Ok(());
    }
    let (client, _) = crate::connect::client(kubeconfig).await?;
    let version = request::get(&client, "/version", JSON)
        .await
        .map_err(|e| explain(e, "the server's version"))?;
    let text = |key: &str| version[key].as_str().unwrap_or("unknown").to_owned();
    Ok(out.write(&format!(
        "Server: {} ({})\n",
        text("gitVersion"),
        text("platform")
    ))?)
}
