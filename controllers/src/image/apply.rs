//! Effects of the Image controller.

use super::{
    build::{Cache, trouble},
    plan::{self, Observed, Plan, Progress},
};
use crate::Context;
use jiff::Timestamp;
use kube::ResourceExt;
use skysail_reconcile::{Error, Outcome, Reconciler};
use skysail_schemas::{Image, ImageStatus, image::ImageSpec};
use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

type Builds = Arc<Mutex<HashMap<String, Progress>>>;

/// The Image controller.
pub(super) struct ImageReconciler {
    context: Arc<Context>,
    cache: Cache,
    /// Builds of this process, by recipe. One that succeeded is in the cache instead.
    builds: Builds,
}

fn lock(builds: &Builds) -> MutexGuard<'_, HashMap<String, Progress>> {
    builds.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ImageReconciler {
    pub(super) fn new(context: Arc<Context>) -> Self {
        let cache = Cache(context.settings.site.fabric.cache_dir.join("images"));
        Self {
            context,
            cache,
            builds: Builds::default(),
        }
    }

    fn place(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.context
            .settings
            .site
            .data_dir
            .join("images")
            .join(format!("sha256-{hex}.tar"))
    }

    fn start(&self, recipe: String, spec: ImageSpec, name: String) {
        lock(&self.builds).insert(recipe.clone(), Progress::Running("starting".into()));
        let (builds, cache) = (self.builds.clone(), self.cache.clone());
        tokio::spawn(async move {
            let report = |stage: &str| {
                tracing::info!(image = name, stage, "building");
                lock(&builds).insert(recipe.clone(), Progress::Running(stage.to_owned()));
            };
            let built = cache.build(&recipe, &spec, report).await;
            match built {
                Ok(archive) => {
                    tracing::info!(image = name, digest = archive.digest, "built");
                    lock(&builds).remove(&recipe);
                }
                Err(e) => {
                    lock(&builds).insert(recipe, Progress::Failed(e));
                }
            }
        });
    }

    fn remove(&self, digest: &str) -> Result<(), Error> {
        let path = self.place(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(trouble(&path, &e)),
            _ => Ok(()),
        }
    }
}

/// Tells versions of a local archive apart.
fn stamp(spec: &ImageSpec) -> String {
    let path = spec.tarball.as_ref().and_then(|t| t.path.as_ref());
    let Some(metadata) = path.and_then(|p| fs::metadata(p).ok()) else {
        return String::new();
    };
    let changed = metadata
        .modified()
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    format!("{} {}", metadata.len(), changed.as_nanos())
}

/// Puts `from` at `to`: one file under two names where possible, else a copy, never seen half.
fn put(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::hard_link(from, to) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(_) => {}
    }
    let draft = to.with_extension("draft");
    fs::copy(from, &draft)?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, to)
}

impl Reconciler for ImageReconciler {
    type Kind = Image;
    type Observed = Observed;
    type Plan = Plan;
    type Report = Option<Error>;
    const NAME: &'static str = "image";
    const FINALIZER: Option<&'static str> = Some("skysail.dev/archive");

    async fn observe(&self, image: &Image) -> Result<Observed, Error> {
        let recipe = plan::recipe(&image.spec, &stamp(&image.spec));
        let digest = image.status.as_ref().and_then(|s| s.digest.clone());
        let names = |other: &Arc<Image>| {
            other.uid() != image.uid()
                && other.status.as_ref().and_then(|s| s.digest.as_ref()) == digest.as_ref()
        };
        // Read before the cache: a build that ends in between is found there.
        let progress = lock(&self.builds).get(&recipe).cloned();
        Ok(Observed {
            placed: digest.as_ref().is_some_and(|d| self.place(d).exists()),
            cached: self.cache.find(&recipe),
            progress,
            shared: digest.is_some() && self.context.images.list().iter().any(names),
        })
    }

    fn plan(image: &Image, observed: &Observed, _now: Timestamp) -> Plan {
        plan::plan(image, observed)
    }

    async fn apply(&self, image: &Image, plan: &Plan) -> Option<Error> {
        let recipe = plan::recipe(&image.spec, &stamp(&image.spec));
        let done = match plan {
            Plan::Nothing => Ok(()),
            Plan::Build => {
                self.start(recipe, image.spec.clone(), image.name_any());
                Ok(())
            }
            Plan::Again => {
                lock(&self.builds).remove(&recipe);
                Ok(())
            }
            Plan::Place(archive) => {
                let (from, to) = (self.cache.file(&recipe), self.place(&archive.digest));
                put(&from, &to).map_err(|e| trouble(&to, &e))
            }
            Plan::Remove(digest) => self.remove(digest),
        };
        done.err()
    }

    fn status(
        image: &Image,
        observed: &Observed,
        plan: &Plan,
        report: &Option<Error>,
        now: Timestamp,
    ) -> Outcome<ImageStatus> {
        let result = report.clone().map_or(Ok(()), Err);
        plan::status(image, observed, plan, &result, now)
    }
}
