//! The `skysail` command: one binary for the whole system on a machine (`up`), its
//! parts (`server`, `agent`) and the client verbs.

mod connect;
mod kinds;
mod manifest;
mod print;
mod refusal;
mod request;
mod session;
mod system;
mod verbs;
mod waiting;

use clap::{CommandFactory as _, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "skysail",
    version,
    about = "System containers on the VMs of several clouds, from manifests",
    arg_required_else_help = true
)]
struct Arguments {
    /// Kubeconfig of the server to speak to, else what KUBECONFIG names, else ./kubeconfig; `up` and `server` write it
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start a whole system on this machine
    Up(system::up::Up),
    /// Remove every trace of it
    Down(system::down::Down),
    /// Run the API server and the controllers
    Server(system::server::Server),
    /// Run the agent of a host
    Agent(system::agent::Agent),
    /// Print the versions of this command and of the server
    Version(verbs::version::Version),
    /// Print the script with which a shell completes this command
    Completion(verbs::completion::Completion),
    /// Run a fleet that exists only in a file, with the server's own planners
    Simulate(verbs::simulate::Simulate),
    #[command(flatten)]
    Client(verbs::Verb),
}

#[tokio::main]
async fn main() {
    let Arguments { kubeconfig, verb } = Arguments::parse();
    let written = || kubeconfig.clone().unwrap_or_else(|| "kubeconfig".into());
    let result = match verb {
        Verb::Up(args) => system::up::run(args, written()).await.map(|()| 0),
        Verb::Down(args) => system::down::run(args, written()).await.map(|()| 0),
        Verb::Server(args) => {
            log();
            system::server::run(args, kubeconfig.clone())
                .await
                .map(|()| 0)
        }
        Verb::Agent(args) => {
            log();
            system::agent::run(args, &written()).await.map(|()| 0)
        }
        Verb::Version(args) => verbs::version::run(kubeconfig.as_deref(), &args)
            .await
            .map(|()| 0),
        Verb::Simulate(args) => verbs::simulate::run(&args).map(|()| 0),
        Verb::Completion(args) => verbs::completion::run(&args, Arguments::command()).map(|()| 0),
        Verb::Client(verb) => verbs::run(verb, kubeconfig.as_deref()).await,
    };
    // Not by returning: a read of standard input that nobody will answer must not keep the process.
    std::process::exit(match result {
        Ok(code) => code,
        // As `skysail get hosts | head -1` does.
        Err(e)
            if e.downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            0
        }
        Err(e) => {
            eprintln!("error: {e:#}");
            1
        }
    })
}

/// Daemons log to standard error; `RUST_LOG` chooses what.
fn log() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
