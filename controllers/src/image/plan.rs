//! What an Image needs. Pure.

use jiff::Timestamp;
use kube::Resource;
use sha2::{Digest, Sha256};
use skysail_reconcile::{Error, Next, Note, Outcome};
use skysail_schemas::{
    Image, ImageStatus,
    condition::{self, Fact},
    image::{DebianRecipe, ImageSpec, Tarball},
    quantity::Bytes,
};
use std::time::Duration;

/// A complete archive.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Archive {
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// Where a build is.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It runs; what it does now.
    Running(String),
    /// It ended with this.
    Failed(Error),
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Observed {
    /// Whether the archive that the status names is in its place.
    pub placed: bool,
    /// The archive that the cache has for the recipe as it is now.
    pub cached: Option<Archive>,
    /// The build of this recipe, if this process has one.
    pub progress: Option<Progress>,
    /// Whether another Image names the same digest.
    pub shared: bool,
}

/// What is to be done.
#[derive(Debug, Default, Clone, PartialEq)]
pub enum Plan {
    /// Nothing.
    #[default]
    Nothing,
    /// Start building.
    Build,
    /// Put the cached archive in its place.
    Place(Archive),
    /// Forget a failed build, so that the next turn builds again.
    Again,
    /// Remove the archive.
    Remove(String),
}

/// Decides.
pub fn plan(image: &Image, observed: &Observed) -> Plan {
    let status = image.status.clone().unwrap_or_default();
    if image.meta().deletion_timestamp.is_some() {
        return match status.digest {
            Some(digest) if !observed.shared && observed.placed => Plan::Remove(digest),
            _ => Plan::Nothing,
        };
    }
    let current = status.observed_generation == image.metadata.generation
        && condition::is_true(&status.conditions, "Built");
    if observed.placed && current {
        return Plan::Nothing;
    }
    match (&observed.cached, &observed.progress) {
        (Some(archive), _) => Plan::Place(archive.clone()),
        (None, None) => Plan::Build,
        (None, Some(Progress::Failed(_))) => Plan::Again,
        (None, Some(Progress::Running(_))) => Plan::Nothing,
    }
}

/// Says what is known.
pub fn status(
    image: &Image,
    observed: &Observed,
    plan: &Plan,
    report: &Result<(), Error>,
    now: Timestamp,
) -> Outcome<ImageStatus> {
    let mut status = image.status.clone().unwrap_or_default();
    let generation = image.metadata.generation;
    if image.meta().deletion_timestamp.is_some() {
        let next = report
            .as_ref()
            .map_or_else(Error::next, |()| Next::Finished);
        return Outcome::new(status, next);
    }
    let mut notes = vec![];
    let waiting = |stage: &str| {
        (
            Fact::no("Built", "Building", stage.to_owned()),
            Next::After(Duration::from_secs(1)),
        )
    };
    let (fact, next) = match (plan, report, &observed.progress) {
        (_, Err(e), _) => (Fact::no("Built", e.reason(), e.to_string()), patient(e)),
        (Plan::Place(archive), Ok(()), _) => {
            notes.push(Note::normal(
                "Built",
                format!("{} ({})", archive.digest, Bytes(archive.size >> 20 << 20)),
            ));
            status.digest = Some(archive.digest.clone());
            status.size = Some(Bytes(archive.size));
            status.observed_generation = generation;
            (
                Fact::yes("Built", "Built", archive.digest.clone()),
                Next::OnChange,
            )
        }
        (Plan::Build, ..) => {
            notes.push(Note::normal("Building", source(&image.spec)));
            waiting(&source(&image.spec))
        }
        (Plan::Again, _, Some(Progress::Failed(e))) => {
            notes.push(Note::warning(e.reason(), e.to_string()));
            (
                Fact::no(
                    "Built",
                    if e.reason() == "Error" {
                        "BuildFailed"
                    } else {
                        e.reason()
                    },
                    e.to_string(),
                ),
                patient(e),
            )
        }
        (Plan::Nothing, _, Some(Progress::Running(stage))) => waiting(stage),
        _ => return Outcome::new(status, Next::OnChange),
    };
    condition::merge(&mut status.conditions, &[fact], generation, now);
    let ready = condition::ready(&status.conditions, &["Built"]);
    condition::merge(&mut status.conditions, &[ready], generation, now);
    Outcome {
        status,
        next,
        notes,
    }
}

/// What was refused may be mended outside the API (a file, a mirror): asked again, but seldom.
fn patient(e: &Error) -> Next {
    match e.next() {
        Next::OnChange => Next::After(Duration::from_secs(60)),
        other => other,
    }
}

fn source(spec: &ImageSpec) -> String {
    match (&spec.debian, &spec.tarball) {
        (Some(recipe), _) => format!(
            "building from Debian {} with {} packages",
            recipe.suite,
            recipe.packages.len()
        ),
        (None, Some(Tarball { url: Some(url), .. })) => format!("fetching {url}"),
        (None, Some(tarball)) => format!("copying {}", tarball.path.as_deref().unwrap_or_default()),
        (None, None) => "no source".into(),
    }
}

/// Names what a spec gives, among all that were ever built. `stamp` tells versions of a local file apart.
pub fn recipe(spec: &ImageSpec, stamp: &str) -> String {
    let options = spec
        .debian
        .as_ref()
        .map(arguments)
        .unwrap_or_default()
        .join("\n");
    let tarball = spec
        .tarball
        .as_ref()
        .map(|t| format!("{t:?} {stamp}"))
        .unwrap_or_default();
    Sha256::digest(format!("{options}\0{tarball}"))
        .iter()
        .take(12)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The arguments of `mmdebstrap` for a recipe, without the file to write.
pub fn arguments(recipe: &DebianRecipe) -> Vec<String> {
    let mut args: Vec<String> = [
        "--variant=minbase",
        "--mode=root",
        "--format=tar",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--aptopt=APT::Install-Recommends \"false\"",
    ]
    .map(str::to_owned)
    .into();
    if !recipe.packages.is_empty() {
        args.push(format!("--include={}", recipe.packages.join(",")));
    }
    args.extend(
        recipe
            .run
            .iter()
            .map(|command| format!("--customize-hook=chroot \"$1\" sh -euc {}", quoted(command))),
    );
    // An identity is each container's own; lists of packages grow old.
    args.push("--customize-hook=: >\"$1\"/etc/machine-id; rm -f \"$1\"/etc/ssh/ssh_host_* \"$1\"/var/lib/dbus/machine-id \"$1\"/etc/hostname".to_owned());
    args.push(recipe.suite.clone());
    args
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
