//! `skysail delete`: objects away, and by default wait until they are.

use crate::kinds::{Kind, Kinds};
use crate::manifest;
use crate::print::Output;
use crate::refusal::explain;
use crate::request::{self, url};
use crate::verbs::get::{Selector, together};
use crate::verbs::wait::names_of;
use crate::waiting::{self, Wish};
use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Flags of `delete`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail delete container web db -n acme\n  skysail delete ct/web host/h1 -n acme\n  skysail delete -f manifests/quickstart              the last document first\n  skysail delete containers -l app=web -n acme\n  skysail delete containers --all -n acme\n  skysail delete host h1 --wait=false                 only ask for it"
)]
pub struct Delete {
    /// KIND NAME… or KIND/NAME…
    #[arg(
        required_unless_present = "filename",
        conflicts_with = "filename",
        value_name = "KIND"
    )]
    what: Vec<String>,
    /// Delete what these manifests describe: a file, a folder, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "PATH")]
    filename: Vec<PathBuf>,
    /// Namespace, else the kubeconfig's
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// All objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    selector: Selector,
    /// Return when the objects are gone, not when deletion has begun
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    wait: bool,
    /// How long to wait for that; 0s for as long as it takes
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Objects that are not there are no error
    #[arg(long)]
    ignore_not_found: bool,
    /// Let the server check everything and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// For as long as it takes: a hundred years.
const ALWAYS: Duration = Duration::from_secs(100 * 365 * 86_400);

struct Target<'a> {
    kind: &'a Kind,
    namespace: String,
    name: String,
}

/// Runs the verb.
///
/// # Errors
/// For every object that is not there, may not be deleted, or is not gone in time.
pub async fn run(client: &kube::Client, default: &str, args: Delete) -> Result<()> {
    let kinds = Kinds::discover(client).await?;
    let namespace = args.namespace.as_deref().unwrap_or(default);
    let targets = if args.filename.is_empty() {
        named(client, &kinds, namespace, &args).await?
    } else {
        described(&kinds, namespace, &args)?
    };
    let (mut waits, mut errors) = (vec![], vec![]);
    for target in &targets {
        match delete(client, target, &args).await {
            Ok(uid) => waits.extend(uid.map(|uid| (target, Wish::Gone { uid: Some(uid) }))),
            Err(e) => errors.push(e),
        }
    }
    if args.wait && !args.dry_run {
        let deadline = Instant::now()
            + if args.timeout.is_zero() {
                ALWAYS
            } else {
                args.timeout
            };
        let gone = waits
            .iter()
            .map(|(t, wish)| waiting::until(client, t.kind, &t.namespace, &t.name, wish, deadline));
        errors.extend(join_all(gone).await.into_iter().filter_map(Result::err));
    }
    together(errors)
}

async fn named<'a>(
    client: &kube::Client,
    kinds: &'a Kinds,
    namespace: &str,
    args: &Delete,
) -> Result<Vec<Target<'a>>> {
    let mut targets = vec![];
    for (kind, mut names) in kinds.select(&args.what)? {
        let selected = args.all || !args.selector.labels.is_empty();
        ensure!(
            selected || !names.is_empty(),
            "{}: which objects? Give names, --all or -l",
            kind.resource.plural
        );
        ensure!(
            !selected || names.is_empty(),
            "{}: give names or a selection, not both",
            kind.resource.plural
        );
        if selected {
            names = names_of(client, kind, namespace, &args.selector.labels).await?;
            if names.is_empty() {
                eprintln!("{}: nothing is selected", kind.resource.plural);
            }
        }
        targets.extend(names.into_iter().map(|name| Target {
            kind,
            namespace: namespace.to_owned(),
            name,
        }));
    }
    Ok(targets)
}

/// The last document first, and namespaces after what is in them.
fn described<'a>(kinds: &'a Kinds, namespace: &str, args: &Delete) -> Result<Vec<Target<'a>>> {
    let mut targets = vec![];
    for document in manifest::read(&args.filename)?.iter().rev() {
        let kind = kinds
            .of(document.api_version(), document.kind())
            .with_context(|| {
                format!(
                    "{document}: kind: the server has no {} of {}",
                    document.kind(),
                    document.api_version()
                )
            })?;
        let namespace = document.namespace().unwrap_or(namespace).to_owned();
        targets.push(Target {
            kind,
            namespace,
            name: document.name().to_owned(),
        });
    }
    targets.sort_by_key(|t| t.kind.resource.kind == "Namespace");
    Ok(targets)
}

/// The uid of what is to go, or `None` if it is not there and need not be.
async fn delete(
    client: &kube::Client,
    target: &Target<'_>,
    args: &Delete,
) -> Result<Option<String>> {
    let path = target
        .kind
        .path(Some(&target.namespace), Some(&target.name));
    let options =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    let url = url(&path, &[("dryRun", if args.dry_run { "All" } else { "" })]);
    let answer = match request::delete(client, &url, &options).await {
        Err(kube::Error::Api(status)) if status.code == 404 && args.ignore_not_found => {
            return Ok(None);
        }
        answer => answer
            .map_err(|e| explain(e, target.kind.object(Some(&target.namespace), &target.name)))?,
    };
    let done = if args.dry_run {
        "deleted (dry run)"
    } else {
        "deleted"
    };
    Output::stdout().write(&format!(
        "{}/{} {done}\n",
        target.kind.singular, target.name
    ))?;
    let uid = ["/metadata/uid", "/details/uid"]
        .iter()
        .find_map(|p| answer.pointer(p))
        .and_then(Value::as_str);
    Ok(uid.map(str::to_owned))
}
