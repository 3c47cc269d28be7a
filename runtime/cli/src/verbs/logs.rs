//! `skysail logs`: what a container's console showed, from the first line of its boot.

use crate::session::{self, Session};
use anyhow::Result;

/// Flags of `logs`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail logs -n acme db\n  skysail logs -n acme db --tail 20 -f"
)]
pub struct Logs {
    /// Namespace of the container
    #[arg(short, long)]
    namespace: Option<String>,
    /// Go on with what is added
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// The container
    container: String,
}

/// Runs the verb.
///
/// # Errors
/// When there is no log.
pub async fn run(client: &kube::Client, default: &str, args: Logs) -> Result<i32> {
    let mut query = vec![("follow", args.follow.to_string())];
    query.extend(args.tail.map(|lines| ("tailLines", lines.to_string())));
    let session = Session {
        namespace: args.namespace.unwrap_or_else(|| default.into()),
        container: args.container,
        action: "log",
        query,
    };
    session::stream(
        client,
        &session,
        tokio::io::empty(),
        &mut tokio::io::stdout(),
        &mut tokio::io::stderr(),
        None,
    )
    .await
}
