//! This host as the containers' reconciler sees it: what is read and changed here.

use super::idmap::{IdRange, lowest_free};
use super::init::ended;
use super::layer::{Layer, Layers, disk_error};
use super::lxc::Lxc;
use super::paths::Paths;
use super::plan::Seen;
use super::record::{self, Desired, Id, Init, Record};
use super::{mount, plan};
use crate::checkpoint::{self, Obstacle};
use crate::command::Held;
use crate::image::{ImageState, Images};
use crate::ports::PortPlane;
use crate::usage::cgroup::{self, Counters, Version};
use skysail_reconcile::Error;
use skysail_schemas::container::ContainerUsage;
use skysail_schemas::quantity::{Bytes, Cpu};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

/// Processor time over less than this tells nothing.
const SHORTEST: std::time::Duration = std::time::Duration::from_secs(2);
/// User namespaces that are kept for mounts: each is an open file.
const MOST_MOUNT_IDS: usize = 256;

/// How long it holds what was found against moving a container live.
const LOOK: std::time::Duration = std::time::Duration::from_secs(60);

/// How long a container is not looked at after its start.
const BOOTS: jiff::SignedDuration = jiff::SignedDuration::from_secs(20);

/// The turn of one container: while it is held, nobody else acts on that container.
pub type Turn = tokio::sync::OwnedMutexGuard<()>;

/// What the agent has and knows on this host.
pub struct Site {
    /// Where things are.
    pub paths: Paths,
    /// LXC.
    pub lxc: Lxc,
    /// The images.
    pub images: Arc<Images>,
    /// The containers' private layers.
    pub layers: Layers,
    /// The switch.
    pub plane: Arc<dyn PortPlane>,
    /// How limits are written.
    pub version: Version,
    /// Containers that need a look: an init ended, a pause is over.
    alarms: UnboundedSender<Id>,
    known: Mutex<HashMap<Id, Known>>,
    ids: Mutex<BTreeSet<u32>>,
    running: watch::Sender<u32>,
    /// Containers that are on their way to or from another host, or have left: by uid, with the last epoch at which
    /// they are left alone.
    holds: Mutex<HashMap<Id, (String, u64)>>,
    /// See [`Site::mount_ids`], by the base of the range.
    mount_ids: Mutex<HashMap<u32, Arc<File>>>,
}

#[derive(Default)]
struct Known {
    turn: Arc<tokio::sync::Mutex<()>>,
    record: Option<Record>,
    connected: bool,
    watched: Option<Init>,
    counted: Option<(Instant, Counters)>,
    looked: Option<(Instant, Init, Vec<Obstacle>)>,
}

impl Site {
    /// Reads what is on record; `alarms` gets the containers that need a look.
    pub fn open(
        paths: Paths,
        images: Arc<Images>,
        layers: Layers,
        plane: Arc<dyn PortPlane>,
        alarms: UnboundedSender<Id>,
    ) -> Self {
        let known: HashMap<Id, Known> = record::all(&paths.containers())
            .into_iter()
            .filter_map(|mut r| {
                let id = r.id.clone()?;
                // Of an agent that knew no limits yet.
                r.layer = r.layer.or_else(|| layers.state(&id).ok().flatten());
                let known = Known {
                    record: Some(r),
                    ..Known::default()
                };
                Some((id, known))
            })
            .collect();
        let ids = known
            .values()
            .filter_map(|k| Some(k.record.as_ref()?.ids?.base))
            .collect();
        let lxc = Lxc::new(paths.clone());
        let running = watch::Sender::new(count_running(&known));
        Self {
            paths,
            lxc,
            images,
            layers,
            plane,
            version: Version::detect(),
            alarms,
            known: Mutex::new(known),
            ids: Mutex::new(ids),
            running,
            holds: Mutex::default(),
            mount_ids: Mutex::default(),
        }
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<Id, (String, u64)>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing is done for a container at `epoch` or an older one; only a migration does. It stays so
    /// when the container has left: what is still known of it here may be old.
    pub fn hold(&self, id: &Id, uid: &str, epoch: u64) {
        self.holds().insert(id.clone(), (uid.to_owned(), epoch));
    }

    /// Ends [`Self::hold`], and has the container looked at.
    pub fn release(&self, id: &Id) {
        if self.holds().remove(id).is_some() {
            // Nobody listens only when the agent ends.
            let _ = self.alarms.send(id.clone());
        }
    }

    /// Whether a migration has the container, as it is described, in its hands.
    pub fn is_held(&self, id: &Id, desired: &Desired) -> bool {
        let holds = self.holds();
        let held = holds.get(id);
        held.is_some_and(|(uid, epoch)| *uid == desired.uid && desired.epoch <= *epoch)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Id, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a container.
    pub async fn turn(&self, id: &Id) -> Turn {
        let turn = self.known().entry(id.clone()).or_default().turn.clone();
        turn.lock_owned().await
    }

    /// Containers on record.
    pub fn recorded(&self) -> Vec<Id> {
        self.known()
            .iter()
            .filter(|(_, k)| k.record.is_some())
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Digests of the images of the containers on record.
    pub fn images_on_record(&self) -> BTreeSet<String> {
        let known = self.known();
        let records = known.values().filter_map(|k| k.record.as_ref());
        records
            .filter_map(|r| Some(r.desired.image.as_ref()?.digest.clone()))
            .collect()
    }

    /// How many containers run here, as far as is known; tells of each change.
    pub fn running(&self) -> watch::Receiver<u32> {
        self.running.subscribe()
    }

    /// What is on record of a container.
    pub fn record(&self, id: &Id) -> Record {
        self.known()
            .get(id)
            .and_then(|k| k.record.clone())
            .unwrap_or_default()
    }

    /// Puts on record.
    pub fn save(&self, id: &Id, record: &Record) -> Result<(), Error> {
        let record = Record {
            id: Some(id.clone()),
            ..record.clone()
        };
        record::write(&self.paths.container(id), &record)
            .map_err(|e| disk_error(id, "its record could not be written", &e))?;
        let mut known = self.known();
        known.entry(id.clone()).or_default().record = Some(record);
        self.recount(&known);
        Ok(())
    }

    /// The user namespace that shows mounts with `ids`. Made once for each range, and the same for every container
    /// that ever has the range: it has no process in it and owns nothing.
    pub async fn mount_ids(&self, ids: IdRange) -> Result<Arc<File>, Error> {
        let known = |all: &HashMap<u32, Arc<File>>| all.get(&ids.base).cloned();
        let lock = || {
            self.mount_ids
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(file) = known(&lock()) {
            return Ok(file);
        }
        let held = Held::unshare(&["--user"]).await;
        let held = held.map_err(|e| Error::Transient(e.to_string()))?;
        let own = format!("/proc/{}", held.pid());
        let opened = super::idmap::map(Path::new(&own), &ids.mount_map())
            .and_then(|()| File::open(format!("{own}/ns/user")));
        held.end().await;
        let file = Arc::new(opened.map_err(|e| {
            Error::Transient(format!(
                "a user namespace for mounts could not be made: {e}"
            ))
        })?);
        let mut all = lock();
        if all.len() >= MOST_MOUNT_IDS {
            all.clear();
        }
        all.insert(ids.base, file.clone());
        Ok(file)
    }

    /// Removes every file of a container and frees its ids.
    pub fn forget(&self, id: &Id) -> Result<(), Error> {
        let directory = self.paths.container(id);
        match std::fs::remove_dir_all(&directory) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(disk_error(id, "its files could not be removed", &e));
            }
            _ => {}
        }
        let mut known = self.known();
        if let Some(known) = known.get_mut(id) {
            if let Some(range) = known.record.take().and_then(|r| r.ids) {
                self.ids
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&range.base);
            }
            (known.connected, known.watched, known.counted) = (false, None, None);
        }
        self.recount(&known);
        Ok(())
    }

    fn recount(&self, known: &HashMap<Id, Known>) {
        let now = count_running(known);
        self.running
            .send_if_modified(|before| std::mem::replace(before, now) != now);
    }

    /// Ids that no other container here has.
    pub fn take_ids(&self) -> Result<IdRange, Error> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let range =
            lowest_free(ids.iter().map(|base| IdRange { base: *base })).ok_or_else(|| {
                Error::Capacity("every range of user ids on this host is taken".into())
            })?;
        ids.insert(range.base);
        Ok(range)
    }

    /// Reads the world for one container.
    pub async fn see(&self, id: &Id, desired: &Desired) -> Result<Seen, Error> {
        let record = self.record(id);
        let unreadable = |what: &str, e: &std::io::Error| {
            Error::Transient(format!("container {id}: {what} cannot be read: {e}"))
        };
        let process = match record.init.filter(Init::lives) {
            Some(init) => Some(init),
            None if record.launched => self
                .lxc
                .init(id)
                .await
                .map_err(|e| Error::Transient(e.to_string()))?,
            None => None,
        };
        if let Some(init) = process {
            self.watch(id, init);
        }
        let mounted = |path: &Path| mount::is_mounted(path).map_err(|e| unreadable("a mount", &e));
        let private = record.ids.is_some() || !desired.spec.privileged;
        let (netns, userns) = (
            mounted(&self.paths.netns(id))?,
            mounted(&self.paths.userns(id))?,
        );
        let root = mounted(&self.paths.rootfs(id))?;
        let image = desired
            .image
            .as_ref()
            .map_or(ImageState::Absent, |i| self.images.state(&i.digest));
        let anything =
            self.paths.container(id).exists() || self.paths.mounts(id).exists() || netns || userns;
        let connected = self.known().get(id).is_some_and(|k| k.connected);
        let trouble = self.plane.trouble(&record.attached);
        Ok(Seen {
            trouble,
            obstacles: self.obstacles(id, process).await,
            record,
            process,
            image,
            namespaces: netns && (userns || !private),
            root,
            connected,
            limits_bandwidth: self.plane.limits_bandwidth(),
            anything,
            held: self.is_held(id, desired),
        })
    }

    /// What stands against moving a container live, looked at now and then.
    async fn obstacles(&self, id: &Id, process: Option<Init>) -> Option<Vec<Obstacle>> {
        let init = process?;
        // A system that boots has namespaces for a moment that it will not have.
        let age = |t| jiff::Timestamp::now().duration_since(t);
        self.record(id).started_at.filter(|t| age(*t) > BOOTS)?;
        let last = self.known().get(id).and_then(|k| k.looked.clone());
        if let Some((_, _, found)) = last.filter(|(at, of, _)| at.elapsed() < LOOK && *of == init) {
            return Some(found);
        }
        let found = checkpoint::preflight(self, id).await;
        self.known().entry(id.clone()).or_default().looked =
            Some((Instant::now(), init, found.clone()));
        Some(found)
    }

    /// Notes whether the switch has the ports of a container.
    pub fn connect(&self, id: &Id, connected: bool) {
        self.known().entry(id.clone()).or_default().connected = connected;
    }

    /// Raises an alarm when `init` ends; once per process.
    pub fn watch(&self, id: &Id, init: Init) {
        let mut known = self.known();
        let known = known.entry(id.clone()).or_default();
        if known.watched.replace(init) == Some(init) {
            return;
        }
        let (alarms, id) = (self.alarms.clone(), id.clone());
        tokio::spawn(async move {
            if let Err(error) = ended(init).await {
                tracing::warn!(container = %id, %error, "its init cannot be watched; the next resync looks at it");
                return;
            }
            // Nobody listens only when the agent ends.
            let _ = alarms.send(id);
        });
    }

    /// Raises an alarm at a time.
    pub fn look_again(&self, id: &Id, after: std::time::Duration) {
        let (alarms, id) = (self.alarms.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = alarms.send(id);
        });
    }

    /// Raises an alarm for every container that runs: what it uses has changed.
    pub fn look_at_all(&self) {
        let known = self.known();
        let runs = |k: &Known| k.record.as_ref().is_some_and(|r| r.init.is_some());
        for (id, _) in known.iter().filter(|(_, k)| runs(k)) {
            // Nobody listens only when the agent ends.
            let _ = self.alarms.send(id.clone());
        }
    }

    /// Use since the last reading, of a container whose init is `init`; none where that was too short ago to tell.
    pub fn usage(&self, id: &Id, init: Init) -> Option<ContainerUsage> {
        let mut known = self.known();
        let Known {
            counted, record, ..
        } = known.entry(id.clone()).or_default();
        let now = Instant::now();
        if counted.is_some_and(|(at, _)| now.duration_since(at) < SHORTEST) {
            return None;
        }
        let counters = cgroup::read(self.version, init.pid)?;
        let before = counted.replace((now, counters));
        // Of a directory, only a walk through it would tell.
        let disk = match record.as_ref().and_then(|r| r.layer.as_ref()) {
            Some(Layer::Image { .. }) => {
                crate::usage::machine::disk_used(&self.paths.private(id)).map(Bytes)
            }
            _ => None,
        };
        let (at, last) = before.filter(|(_, last)| last.cpu_ns <= counters.cpu_ns)?;
        Some(ContainerUsage {
            cpu: Cpu(cgroup::millicores(
                last.cpu_ns,
                counters.cpu_ns,
                now.duration_since(at),
            )),
            memory: Bytes(counters.memory),
            pids: counters.pids,
            disk,
        })
    }
}

fn count_running(known: &HashMap<Id, Known>) -> u32 {
    let runs = |k: &&Known| k.record.as_ref().is_some_and(|r| r.init.is_some());
    u32::try_from(known.values().filter(runs).count()).unwrap_or(u32::MAX)
}

/// How long until `blocked` goes on by itself.
pub fn pause(blocked: Option<&plan::Blocked>, now: jiff::Timestamp) -> Option<std::time::Duration> {
    let left = blocked?.until?.duration_since(now);
    Some(
        std::time::Duration::try_from(left)
            .unwrap_or_default()
            .max(std::time::Duration::from_millis(20)),
    )
}
