//! Does what a plan says. Teardown goes on past a failure; a start needs all before it.

use super::layer::{Layer, disk_error};
use super::plan::{GRACE, Plan, Step};
use super::record::{Desired, Id, Record};
use super::site::Site;
use super::{config, files, idmap, mount, resize};
use crate::command::{Failure, Held};
use jiff::Timestamp;
use skysail_reconcile::{Error, Steps};
use std::path::Path;

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Report {
    /// Each step.
    pub steps: Steps,
    /// What is on record after it; none if nothing was done.
    pub record: Option<Record>,
}

fn transient(e: &dyn std::fmt::Display) -> Error {
    Error::Transient(e.to_string())
}

impl From<Failure> for Wrapped {
    fn from(e: Failure) -> Self {
        Self(transient(&e))
    }
}

/// Lets `?` turn any failure of a step into the loop's error.
struct Wrapped(Error);
impl From<Error> for Wrapped {
    fn from(e: Error) -> Self {
        Self(e)
    }
}

/// Does the steps of `plan` for one container. The caller holds its turn.
pub async fn apply(site: &Site, id: &Id, desired: &Desired, plan: &Plan) -> Report {
    let mut work = Work {
        site,
        id,
        desired,
        record: site.record(id),
        unsaved: false,
        steps: Steps::default(),
    };
    let mut rest = plan.steps.as_slice();
    while let Some(step) = rest.first() {
        let together = rest
            .iter()
            .take_while(|s| matches!(s, Step::Namespaces | Step::Root | Step::Ports))
            .count();
        let (now, later) = rest.split_at(together.max(1));
        if together > 0 {
            work.prepare(now).await;
        } else {
            work.step(step).await;
        }
        rest = later;
    }
    work.save_or_say();
    Report {
        steps: work.steps,
        record: Some(work.record),
    }
}

struct Work<'a> {
    site: &'a Site,
    id: &'a Id,
    desired: &'a Desired,
    record: Record,
    /// Something in `record` is not on disk yet.
    unsaved: bool,
    steps: Steps,
}

impl Work<'_> {
    fn failed(&self) -> bool {
        self.steps.first_failure().is_some()
    }

    /// Puts on record what was noted: before anything is made, started or ended, so that an agent that is killed
    /// then knows it. What undoing has come to is written at the end, for it can be undone twice.
    fn save(&mut self) -> Result<(), Error> {
        if self.unsaved {
            self.site.save(self.id, &self.record)?;
            self.unsaved = false;
        }
        Ok(())
    }

    fn save_or_say(&mut self) {
        if let Err(e) = self.save() {
            self.steps.0.push(("Remember".into(), Err(e)));
        }
    }

    async fn step(&mut self, step: &Step) {
        let name = format!("{step:?}");
        // A start on half of what it needs, or forgetting what could not be undone, would make things worse.
        if matches!(step, Step::Start { .. } | Step::Forget) && self.failed() {
            return;
        }
        let result = self.effect(step).await.map_err(|e| e.0);
        self.steps.0.push((name, result));
    }

    async fn effect(&mut self, step: &Step) -> Result<(), Wrapped> {
        let (site, id, desired) = (self.site, self.id, self.desired);
        match step {
            Step::Remember => {
                (self.record.desired, self.record.left_at) = (self.desired.clone(), None)
            }
            Step::NoteEnd { failures } => {
                tracing::warn!(container = %id, failures, "its init ended");
                (self.record.launched, self.record.init) = (false, None);
                (self.record.ended_at, self.record.failures) = (Some(Timestamp::now()), *failures);
            }
            Step::Adopt(init) => (self.record.init, self.record.launched) = (Some(*init), true),
            Step::FetchImage => {
                if let Some(image) = &self.desired.image {
                    site.images.fetch(&image.name, &image.digest);
                }
                return Ok(());
            }
            Step::TakeIds => self.record.ids = Some(site.take_ids()?),
            Step::Namespaces | Step::Root | Step::Ports => {
                self.prepare(std::slice::from_ref(step)).await;
                return Ok(());
            }
            Step::Resize => resize::resize(site, id, desired, &mut self.record).await,
            Step::Start { again } => return self.start(*again).await,
            Step::Stop | Step::Kill => {
                // What cannot be put on record must end all the same.
                self.save_or_say();
                match step {
                    Step::Stop => site.lxc.stop(id, GRACE).await?,
                    _ => site.lxc.kill(id, self.record.init).await?,
                }
                self.ended();
            }
            Step::DetachPorts => {
                site.plane
                    .detach(&self.record.attached)
                    .await
                    .map_err(|e| transient(&e))?;
                site.connect(id, false);
                self.record.attached.clear();
            }
            Step::Unmount => {
                return Ok(mount::unroot(&site.paths.mounts(id))
                    .map_err(|e| disk_error(id, "its root could not be unmounted", &e))?);
            }
            Step::DropNamespaces => return Ok(self.drop_namespaces()?),
            Step::Forget => {
                // Also what a killed agent left half made.
                mount::unroot(&site.paths.mounts(id))
                    .map_err(|e| disk_error(id, "its root could not be unmounted", &e))?;
                self.drop_namespaces()?;
                site.forget(id)?;
                (self.record, self.unsaved) = (Record::default(), false);
                return Ok(());
            }
        }
        self.unsaved = true;
        Ok(())
    }

    fn ended(&mut self) {
        (self.record.launched, self.record.init) = (false, None);
        (self.record.ended_at, self.record.failures) = (None, 0);
    }

    fn drop_namespaces(&self) -> Result<(), Error> {
        for path in [
            self.site.paths.netns(self.id),
            self.site.paths.userns(self.id),
        ] {
            mount::drop_namespace(&path)
                .map_err(|e| disk_error(self.id, "a namespace could not be let go", &e))?;
        }
        Ok(())
    }

    /// Namespaces and ports beside the root: neither waits for the other.
    async fn prepare(&mut self, steps: &[Step]) {
        if self.failed() {
            return;
        }
        let (namespaces, root, ports) = (
            steps.contains(&Step::Namespaces),
            steps.contains(&Step::Root),
            steps.contains(&Step::Ports),
        );
        if ports && self.record.attached.is_empty() {
            // Before they are: ports that are on record are taken off the switch again, come what may.
            self.record.attached = self.desired.ports.clone();
            self.unsaved = true;
        }
        if let Err(e) = self.save() {
            self.steps.0.push(("Remember".into(), Err(e)));
            return;
        }
        let this = &*self;
        let network = async {
            let mut done = Steps::default();
            if namespaces && done.run("Namespaces", this.namespaces()).await.is_none() {
                return done;
            }
            if ports {
                let attach = async {
                    this.site
                        .plane
                        .attach(
                            &this.site.paths.netns(this.id),
                            &this.desired.ports,
                            this.desired.allocation.bandwidth,
                        )
                        .await
                        .map_err(|e| transient(&e))
                };
                done.run("Ports", attach).await;
            }
            done
        };
        let mounts = async {
            let mut done = Steps::default();
            let layer = match root {
                true => done.run("Root", this.root()).await,
                false => None,
            };
            (done, layer)
        };
        let (network, (mounts, layer)) = tokio::join!(network, mounts);
        if layer.is_some() {
            (self.record.layer, self.unsaved) = (layer, true);
        }
        if ports && network.first_failure().is_none() {
            self.site.connect(self.id, true);
            self.record.attached = self.desired.ports.clone();
            self.record.bandwidth = self.desired.allocation.bandwidth;
            self.unsaved = true;
        }
        self.steps.0.extend(network.0.into_iter().chain(mounts.0));
    }

    async fn namespaces(&self) -> Result<(), Error> {
        let flags: &[&str] = if self.record.ids.is_some() {
            &["--user", "--net"]
        } else {
            &["--net"]
        };
        let held = Held::unshare(flags).await.map_err(|e| transient(&e))?;
        let result = self.keep(&held);
        held.end().await;
        result.map_err(|e| disk_error(self.id, "its namespaces could not be made", &e))
    }

    fn keep(&self, held: &Held) -> std::io::Result<()> {
        let own = format!("/proc/{}", held.pid());
        let own = Path::new(&own);
        if let Some(ids) = self.record.ids {
            idmap::map(own, &ids.container_map())?;
            mount::keep_namespace(&own.join("ns/user"), &self.site.paths.userns(self.id))?;
        }
        mount::keep_namespace(&own.join("ns/net"), &self.site.paths.netns(self.id))
    }

    async fn root(&self) -> Result<Layer, Error> {
        let (site, id) = (self.site, self.id);
        let layer = site.layers.ensure(id, self.desired.allocation.disk).await?;
        let wrong = |e: std::io::Error| disk_error(id, "its root could not be mounted", &e);
        let private = if mount::is_mounted(&site.paths.private(id)).map_err(wrong)? {
            None
        } else {
            Some(site.layers.mount(id, &layer).await?)
        };
        let digest = self
            .desired
            .image
            .as_ref()
            .map(|i| i.digest.clone())
            .unwrap_or_default();
        let (image, mounts) = (site.images.rootfs(&digest), site.paths.mounts(id));
        let ids = match self.record.ids {
            Some(ids) => Some(site.mount_ids(ids).await?),
            None => None,
        };
        mount::root(&image, private.as_ref(), &mounts, ids.as_deref())
            .map(|()| layer)
            .map_err(wrong)
    }

    /// A failure to write into the container's root: of its own disk, where it has one.
    fn inside(&self, e: &std::io::Error) -> Error {
        match (&self.record.layer, e.kind()) {
            (Some(Layer::Image { .. }), std::io::ErrorKind::StorageFull) => Error::Refused {
                reason: "OwnDiskFull".into(),
                message: format!(
                    "container {}: its own disk of {} is full, so it cannot be told its name and addresses: {e}",
                    self.id, self.desired.allocation.disk
                ),
            },
            _ => disk_error(self.id, "its files could not be written", e),
        }
    }

    async fn start(&mut self, again: bool) -> Result<(), Wrapped> {
        let (site, id) = (self.site, self.id);
        let rootfs = site.paths.rootfs(id);
        let own = self
            .desired
            .image
            .as_ref()
            .and_then(|i| i.init.first().cloned())
            .unwrap_or_else(|| "/sbin/init".into());
        let systemd = files::is_systemd(&rootfs, &own);
        let owner = self.record.ids.map_or(0, |r| r.base);
        let init = files::init(self.desired, systemd);
        let config = config::render(
            &site.paths,
            id,
            self.desired,
            self.record.ids,
            &init,
            site.version,
        );
        files::write(&rootfs, &files::files(id, self.desired, systemd), owner)
            .map_err(|e| self.inside(&e))?;
        std::fs::write(site.paths.config(id), config)
            .map_err(|e| disk_error(id, "its configuration could not be written", &e))?;
        (self.record.launched, self.unsaved) = (true, true);
        self.save()?;
        let started = site.lxc.start(id).await;
        self.unsaved = true;
        match started {
            Ok(init) => {
                self.record.init = Some(init);
                self.record.started_at = Some(Timestamp::now());
                self.record.sized = Some((init, self.desired.allocation.clone()));
                self.record.resize = None;
                self.record.ended_at = None;
                self.record.restarts += u32::from(again);
                site.watch(id, init);
                Ok(())
            }
            Err(failure) => {
                // Nothing half started stays.
                let left = site.lxc.kill(id, None).await;
                (self.record.launched, self.record.init) = (left.is_err(), None);
                (self.record.ended_at, self.record.failures) =
                    (Some(Timestamp::now()), self.record.failures + 1);
                Err(failure.into())
            }
        }
    }
}
