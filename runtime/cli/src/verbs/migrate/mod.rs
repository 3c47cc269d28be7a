//! `skysail migrate`: moves a container, or many, to other hosts.

mod follow;
mod foresee;
mod many;
mod one;

use anyhow::Result;
use skysail_schemas::duration::Span;
use skysail_schemas::migration::{MigrationMode, MigrationTarget};
use skysail_schemas::quantity::Bandwidth;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Flags of `migrate`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  skysail migrate container db-0 -n acme --to-cloud west --wait\n  skysail migrate container db-0 -n acme --to-host east-2 --cold --wait\n  skysail migrate -l app=shop -n acme --to-cloud west --first tier=db --wait\n  skysail migrate --all -n acme --to-cloud west --dry-run\n  skysail get mig -n acme -w\n  kubectl patch mg NAME -n acme --type=merge -p '{\"spec\":{\"cancel\":true}}'"
)]
pub struct Migrate {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    many: many::Many,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Move one container
    #[command(visible_aliases = ["containers", "ct"])]
    Container(one::One),
}

/// How something is moved.
#[derive(Debug, clap::Args)]
struct How {
    /// Namespace, else the kubeconfig's
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// To this host; wherever placement says where neither is given
    #[arg(long, value_name = "HOST", conflicts_with = "to_cloud")]
    to_host: Option<String>,
    /// To any host of this cloud
    #[arg(long, value_name = "CLOUD")]
    to_cloud: Option<String>,
    /// Processes end here, and init starts anew there; files and addresses come along
    #[arg(long, conflicts_with = "live")]
    cold: bool,
    /// Processes go on there, or nothing is moved at all (without --cold or --live: live where possible, else cold)
    #[arg(long)]
    live: bool,
    /// A live move that would stop a container for longer is refused, or made cold without --live
    #[arg(long, value_name = "TIME")]
    freeze_budget: Option<Span>,
    /// What a copy may use of the network, for example 200M (bits per second)
    #[arg(long, value_name = "RATE")]
    bandwidth: Option<Bandwidth>,
    /// Only say what would be moved where, how much that is and how long it would take
    #[arg(long)]
    dry_run: bool,
    /// Show how far it is, until it is over
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "10m", value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl How {
    fn mode(&self) -> MigrationMode {
        match (self.cold, self.live) {
            (true, _) => MigrationMode::Cold,
            (false, true) => MigrationMode::Live,
            (false, false) => MigrationMode::LiveElseCold,
        }
    }

    fn target(&self) -> MigrationTarget {
        MigrationTarget {
            host: self.to_host.clone(),
            cloud: self.to_cloud.clone(),
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// When the move is refused; with `--wait` also when it is given up, with the reason.
pub async fn run(client: &kube::Client, default: &str, args: Migrate) -> Result<()> {
    match &args.what {
        Some(What::Container(one)) => one::run(client, default, one).await,
        None => many::run(client, default, &args.many).await,
    }
}

/// A name that tells what is moved, and that another move of it does not have.
fn name(what: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let moment = now.map_or(0, |d| d.as_millis()) & 0xff_ffff_ffff;
    let letters = what.to_ascii_lowercase();
    let fine = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    let short: String = letters.chars().filter(fine).take(45).collect();
    match short.trim_matches('-') {
        "" => format!("move-{moment:x}"),
        short => format!("{short}-{moment:x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_move_is_a_dns_label_however_long_what_it_tells_is() {
        for what in [
            "db",
            "",
            "-",
            "A_b.c",
            &"x".repeat(63),
            &format!("{}-y", "x".repeat(44)),
        ] {
            let name = name(what);
            assert!(name.len() <= 58 && !name.contains("--"), "{name}");
            assert!(name.starts_with(char::is_alphanumeric), "{name}");
        }
    }
}
