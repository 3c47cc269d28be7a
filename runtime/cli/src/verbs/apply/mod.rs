//! `skysail apply`: make the server's objects what the manifests say.
//!
//! Three-way like kubectl: fields that the last apply set and this one does not are
//! removed, fields that others set stay. The last apply is kept in kubectl's own
//! annotation, so the two can take turns on an object.

mod patch;

use crate::kinds::Kinds;
use crate::manifest::{self, Document};
use crate::refusal;
use crate::verbs::get::together;
use crate::waiting::{self, Wish};
use anyhow::{Context, Result, anyhow, bail};
use futures::future::join_all;
use futures::{StreamExt, stream};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Discovery, Scope};
use patch::{annotated, three_way};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Where kubectl keeps what was last applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "skysail";

/// Flags of `apply`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail apply -f manifests/quickstart\n  skysail apply -f db.yaml -n acme\n  generate | skysail apply -f -\n  skysail apply -f db.yaml --dry-run    checked by the server, nothing kept\n  skysail apply -f db.yaml --wait       until it is ready\n  skysail apply --plan plan.json        what a plan says, or nothing"
)]
pub struct Apply {
    /// Manifests: a file, a folder, or - for standard input; may be repeated
    #[arg(
        short,
        long = "filename",
        value_name = "PATH",
        required_unless_present = "plan"
    )]
    filename: Vec<PathBuf>,
    /// Do exactly what a plan says (skysail plan -o json), or nothing where the world has changed since
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filename", "namespace", "dry_run", "wait"])]
    plan: Option<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long)]
    namespace: Option<String>,
    /// Let the server check everything and keep nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until every object is ready
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait for that
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Runs the verb.
///
/// # Errors
/// When a manifest or an object is refused.
pub async fn run(client: &kube::Client, default: &str, args: Apply) -> Result<()> {
    if let Some(file) = &args.plan {
        return super::plan::execute(client, file).await;
    }
    let namespace = args.namespace.as_deref().unwrap_or(default);
    let documents = manifest::read(&args.filename)?;
    let plan = resolve(client, documents, namespace).await?;
    let tried = check(client, &plan).await?;
    if args.dry_run {
        for (target, done) in plan.iter().zip(tried) {
            println!("{target} {} (dry run)", done.word());
        }
        return Ok(());
    }
    make(client, &plan, &tried, |target, done| {
        println!("{target} {}", done.word())
    })
    .await?;
    if args.wait {
        ready(client, &plan, Instant::now() + args.timeout).await
    } else {
        Ok(())
    }
}

/// Waits for all objects that can be ready.
async fn ready(client: &kube::Client, plan: &[Target], deadline: Instant) -> Result<()> {
    let kinds = Kinds::discover(client).await?;
    let wish = Wish::Condition {
        name: skysail_schemas::condition::READY.into(),
        status: "True".into(),
    };
    let waits = plan.iter().filter_map(|target| {
        let kind = kinds.of(target.document.api_version(), target.document.kind())?;
        let ours = kind.has_status && kind.resource.group == "skysail.dev";
        let namespace = target.namespace.as_deref().unwrap_or_default();
        ours.then(|| (kind, namespace, target.document.name()))
    });
    let waits = waits.map(|(kind, namespace, name)| {
        waiting::until(client, kind, namespace, name, &wish, deadline)
    });
    together(
        join_all(waits)
            .await
            .into_iter()
            .filter_map(Result::err)
            .collect(),
    )
}

/// Applies the documents whose objects `versions` names, each at the version given there, or (`None`) as new.
///
/// # Errors
/// When an object is refused or has changed meanwhile.
pub async fn exactly(
    client: &kube::Client,
    documents: Vec<Document>,
    namespace: &str,
    versions: &BTreeMap<String, Option<String>>,
) -> Result<()> {
    let mut plan = resolve(client, documents, namespace).await?;
    plan.retain(|t| versions.contains_key(&t.to_string()));
    for target in &mut plan {
        let version = versions.get(&target.to_string()).cloned().flatten();
        target.exactly = Some(version);
    }
    let done = |target: &Target| match target.exactly {
        Some(Some(_)) => Done::Configured,
        _ => Done::Created,
    };
    let tried: Vec<Done> = plan.iter().map(done).collect();
    make(client, &plan, &tried, |target, done| {
        println!("{target} {}", done.word())
    })
    .await
}

/// What the server has and what it would have after an apply, for every document, under the object's name.
///
/// # Errors
/// When a manifest or an object is refused.
pub async fn preview(
    client: &kube::Client,
    documents: Vec<Document>,
    namespace: &str,
) -> Result<Vec<(String, Value, Value)>> {
    let mut objects = vec![];
    let mut new_namespaces = vec![];
    for target in resolve(client, documents, namespace).await? {
        // The server cannot try what would be in a namespace that is not there yet.
        if target
            .namespace
            .as_ref()
            .is_some_and(|n| new_namespaces.contains(n))
        {
            objects.push((
                target.to_string(),
                Value::Null,
                target.document.object.clone(),
            ));
            continue;
        }
        let live = target
            .api(client)
            .get_opt(target.document.name())
            .await
            .map_err(|e| explain(e, &target))?;
        let live = live
            .map(serde_json::to_value)
            .transpose()?
            .unwrap_or(Value::Null);
        if live.is_null() && target.document.kind() == "Namespace" {
            new_namespaces.push(target.document.name().to_owned());
        }
        let (_, after) = applied(client, &target, true).await?;
        objects.push((target.to_string(), live, after));
    }
    Ok(objects)
}

/// Applies every object of `paths` and says how many there are.
///
/// # Errors
/// When a manifest or an object is refused; then nothing is applied.
pub async fn files(client: &kube::Client, paths: &[PathBuf]) -> Result<usize> {
    let plan = resolve(client, manifest::read(paths)?, "default").await?;
    let tried = check(client, &plan).await?;
    make(client, &plan, &tried, |_, _| {}).await?;
    Ok(plan.len())
}

/// Lets the server try every object and keep none: a mistake in the last refuses the first.
///
/// # Errors
/// With all objects that the server refuses.
async fn check(client: &kube::Client, plan: &[Target]) -> Result<Vec<Done>> {
    let new = new_namespaces(client, plan).await?;
    let tries = plan.iter().map(|target| {
        let elsewhere = target.namespace.as_ref().filter(|n| new.contains(n));
        // The server cannot try what would be in a namespace that is not there yet: it tries it beside.
        let stand_in = elsewhere.map(|_| target.within("default"));
        async move {
            match stand_in {
                Some(stand_in) => try_new(client, &stand_in).await.map(|()| Done::Created),
                None => Ok(applied(client, target, true).await?.0),
            }
        }
    });
    let tried: Vec<Result<Done>> = stream::iter(tries).buffered(8).collect().await;
    let mut refused = vec![];
    let mut words = vec![];
    for one in tried {
        match one {
            Ok(done) => words.push(done),
            Err(e) => refused.push(e),
        }
    }
    if !refused.is_empty() {
        refused.push(anyhow!("nothing was applied"));
    }
    together(refused).map(|()| words)
}

/// The namespaces that `plan` would make.
async fn new_namespaces<'a>(client: &kube::Client, plan: &'a [Target]) -> Result<Vec<&'a String>> {
    let mut new = vec![];
    for target in plan.iter().filter_map(|t| t.namespace.as_ref()) {
        let made = |t: &&Target| t.document.kind() == "Namespace" && t.document.name() == *target;
        let Some(namespace) = plan.iter().find(made).filter(|_| !new.contains(&target)) else {
            continue;
        };
        let live = namespace.api(client).get_opt(target).await;
        if live.map_err(|e| explain(e, namespace))?.is_none() {
            new.push(target);
        }
    }
    Ok(new)
}

/// Objects of one kind that are applied at once: they do not build on one another, and the server makes writes
/// that come together durable together.
const AT_ONCE: usize = 16;

/// Applies all that was checked, kind after kind in the order of `plan`.
async fn make(
    client: &kube::Client,
    plan: &[Target],
    tried: &[Done],
    tell: impl Fn(&Target, &Done),
) -> Result<()> {
    let all: Vec<(&Target, &Done)> = plan.iter().zip(tried).collect();
    let mut made = 0;
    for alike in all.chunk_by(|(a, _), (b, _)| a.document.kind() == b.document.kind()) {
        let work: Vec<_> = alike
            .iter()
            .map(|(target, expected)| make_one(client, target, expected))
            .collect();
        let mut results = stream::iter(work)
            .buffered(AT_ONCE)
            .zip(stream::iter(alike));
        let mut failed = None;
        while let Some((result, (target, _))) = results.next().await {
            match result {
                Ok(done) => {
                    made += 1;
                    tell(target, &done);
                }
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        if let Some(e) = failed {
            return Err(e.context(format!(
                "{made} of {} objects were applied; mend this and apply again",
                all.len()
            )));
        }
    }
    Ok(())
}

async fn make_one(client: &kube::Client, target: &Target, expected: &Done) -> Result<Done> {
    match expected {
        // It was not there a moment ago: no need to ask again.
        Done::Created => create_or_apply(client, target).await,
        _ => applied(client, target, false).await.map(|(done, _)| done),
    }
}

async fn create_or_apply(client: &kube::Client, target: &Target) -> Result<Done> {
    let wanted = annotated(&target.document.object).with_context(|| target.document.to_string())?;
    match create(client, target, wanted, false).await? {
        Some(_) => Ok(Done::Created),
        None if target.exactly.is_some() => {
            bail!("{target}: was created by somebody else meanwhile; make the plan again")
        }
        None => Ok(applied(client, target, false).await?.0),
    }
}

/// What an apply did.
enum Done {
    Created,
    Configured,
    Unchanged,
}

impl Done {
    fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// An object and where it goes.
struct Target {
    document: Document,
    resource: ApiResource,
    namespace: Option<String>,
    /// With a plan: the version that it saw, or that there was none.
    exactly: Option<Option<String>>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.resource.plural, self.document.name())?;
        self.namespace.iter().try_for_each(|n| write!(f, " -n {n}"))
    }
}

impl Target {
    /// The same object in another namespace.
    fn within(&self, namespace: &str) -> Self {
        let mut document = self.document.clone();
        if let Some(own) = document.object.pointer_mut("/metadata/namespace") {
            *own = namespace.into();
        }
        Self {
            document,
            resource: self.resource.clone(),
            namespace: Some(namespace.to_owned()),
            exactly: None,
        }
    }

    fn api(&self, client: &kube::Client) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

/// Finds the resource of every document before anything is sent; namespaces come first.
async fn resolve(
    client: &kube::Client,
    documents: Vec<Document>,
    namespace: &str,
) -> Result<Vec<Target>> {
    let discovery = Discovery::new(client.clone())
        .run()
        .await
        .context("asking the server which kinds it has")?;
    let mut targets = vec![];
    for document in documents {
        let (group, version) = document
            .api_version()
            .rsplit_once('/')
            .unwrap_or(("", document.api_version()));
        let gvk = GroupVersionKind::gvk(group, version, document.kind());
        let (resource, capabilities) = discovery
            .resolve_gvk(&gvk)
            .ok_or_else(|| anyhow!("{document}: kind: the server has no {} of {}; `kubectl api-resources` lists what it has", document.kind(), document.api_version()))?;
        let place = match capabilities.scope {
            Scope::Namespaced => Some(document.namespace().unwrap_or(namespace).to_owned()),
            Scope::Cluster => None,
        };
        targets.push(Target {
            document,
            resource,
            namespace: place,
            exactly: None,
        });
    }
    targets.sort_by_key(|t| t.document.kind() != "Namespace");
    Ok(targets)
}

/// What was done, and the object as it is now (or would be).
async fn applied(client: &kube::Client, target: &Target, dry_run: bool) -> Result<(Done, Value)> {
    let api = target.api(client);
    let wanted = annotated(&target.document.object).with_context(|| target.document.to_string())?;
    let name = target.document.name();
    let refused = |e: kube::Error| explain(e, target);
    let Some(live) = api.get_opt(name).await.map_err(refused)? else {
        return match create(client, target, wanted, dry_run).await? {
            Some(created) => Ok((Done::Created, created)),
            // Somebody made it in the meantime: it is there now, so this ends.
            None => Box::pin(applied(client, target, dry_run)).await,
        };
    };
    let live = serde_json::to_value(live)?;
    let last = live
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(LAST_APPLIED))
        .and_then(Value::as_str);
    let last: Value = last
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    let Some(mut patch) = three_way(&last, &wanted, &live) else {
        return Ok((Done::Unchanged, live));
    };
    if let Some(Some(version)) = &target.exactly {
        patch["metadata"]["resourceVersion"] = version.as_str().into();
    }
    let params = PatchParams {
        dry_run,
        field_manager: Some(MANAGER.into()),
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let configured = api
        .patch(name, &params, &Patch::Merge(patch))
        .await
        .map_err(refused)?;
    Ok((Done::Configured, serde_json::to_value(configured)?))
}

/// Lets the server try an object that is new in its namespace.
async fn try_new(client: &kube::Client, target: &Target) -> Result<()> {
    let wanted = annotated(&target.document.object).with_context(|| target.document.to_string())?;
    create(client, target, wanted, true).await.map(drop)
}

/// Creates the object; `None` if there is one of its name.
async fn create(
    client: &kube::Client,
    target: &Target,
    wanted: Value,
    dry_run: bool,
) -> Result<Option<Value>> {
    let object: DynamicObject =
        serde_json::from_value(wanted).with_context(|| target.document.to_string())?;
    let params = PostParams {
        dry_run,
        field_manager: Some(MANAGER.into()),
    };
    // kube's create cannot ask for strict validation, so the request is made here.
    let url =
        <DynamicObject as kube::Resource>::url_path(&target.resource, target.namespace.as_deref());
    let request = kube::core::Request::new(&url);
    let mut request = request.create(&params, serde_json::to_vec(&object)?)?;
    let uri = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = uri.parse()?;
    match client.request::<Value>(request).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
        other => other.map(Some).map_err(|e| explain(e, target)),
    }
}

fn explain(error: kube::Error, target: &Target) -> anyhow::Error {
    refusal::explain(error, format_args!("{}: {target}", target.document))
}
