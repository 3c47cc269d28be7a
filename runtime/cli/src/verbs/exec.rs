//! `skysail exec` and `skysail console`: a command, or a shell, in a container.

use crate::session::{self, Session, terminal};
use anyhow::Result;

/// Flags of `exec`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail exec -n acme web-0 -- ping -c 1 db\n  skysail exec -n acme -it web-0 -- bash\n  tar c . | skysail exec -n acme -i web-0 -- tar x -C /srv"
)]
pub struct Exec {
    /// Namespace of the container
    #[arg(short, long)]
    namespace: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The container
    container: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Flags of `console`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  skysail console -n acme web-0     a root shell; end it with exit or Ctrl-D"
)]
pub struct Console {
    /// Namespace of the container
    #[arg(short, long)]
    namespace: Option<String>,
    /// The container
    container: String,
}

/// Runs `exec`; the command's exit code.
///
/// # Errors
/// When the command could not be run.
pub async fn exec(client: &kube::Client, default: &str, args: Exec) -> Result<i32> {
    let mut query: Vec<(&'static str, String)> = args
        .command
        .into_iter()
        .map(|word| ("command", word))
        .collect();
    query.push(("tty", args.tty.to_string()));
    let session = Session {
        namespace: args.namespace.unwrap_or_else(|| default.into()),
        container: args.container,
        action: "exec",
        query,
    };
    attach(client, &session, args.stdin || args.tty, args.tty).await
}

/// Runs `console`; the shell's exit code.
///
/// # Errors
/// When there is no shell.
pub async fn console(client: &kube::Client, default: &str, args: Console) -> Result<i32> {
    let session = Session {
        namespace: args.namespace.unwrap_or_else(|| default.into()),
        container: args.container,
        action: "console",
        query: vec![],
    };
    attach(client, &session, true, true).await
}

async fn attach(client: &kube::Client, session: &Session, stdin: bool, tty: bool) -> Result<i32> {
    let raw = if tty { terminal::Raw::take()? } else { None };
    let sizes = if raw.is_some() {
        Some(terminal::sizes()?)
    } else {
        None
    };
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let code = if stdin {
        session::stream(
            client,
            session,
            tokio::io::stdin(),
            &mut out,
            &mut err,
            sizes,
        )
        .await
    } else {
        session::stream(
            client,
            session,
            tokio::io::empty(),
            &mut out,
            &mut err,
            sizes,
        )
        .await
    };
    drop(raw);
    code
}
