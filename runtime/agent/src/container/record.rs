//! What the agent knows of a container without asking anyone: what it should be, and
//! what was done for it. One file per container, replaced whole, so that a killed
//! agent, or one that cannot reach the control plane, goes on from where it was.

pub use super::id::Id;
use super::idmap::IdRange;
pub use super::init::Init;
use super::layer::Layer;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use skysail_schemas::container::{Allocation, Container, ContainerSpec, RestartPolicy, RunImage};
use skysail_schemas::quantity::Bandwidth;
use skysail_schemas::{PortSpec, condition};
use std::path::{Path, PathBuf};

/// What should be, as the control plane last said.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
pub struct Desired {
    /// Tells a container from an earlier one of the same name.
    pub uid: String,
    /// The turn of ownership; an older one is not acted on.
    pub epoch: u64,
    /// It should not exist any more.
    pub removed: bool,
    /// What the user asked for.
    pub spec: ContainerSpec,
    /// Its size.
    pub allocation: Allocation,
    /// Its image, once placement resolved it.
    pub image: Option<RunImage>,
    /// Its ports, eth0 first.
    pub ports: Vec<PortSpec>,
}

impl Desired {
    /// What `container` should be here.
    pub fn of(container: &Container, mut ports: Vec<PortSpec>) -> Self {
        ports.sort_by_key(|p| p.interface);
        let status = container.status.clone().unwrap_or_default();
        Self {
            uid: container.metadata.uid.clone().unwrap_or_default(),
            epoch: status.epoch,
            removed: container.metadata.deletion_timestamp.is_some(),
            spec: container.spec.clone(),
            allocation: status.allocation.unwrap_or_default(),
            image: status.image,
            ports,
        }
    }

    /// Whether its init should run.
    pub fn runs(&self) -> bool {
        self.spec.running && !self.removed
    }

    /// Whether its init is started again when it ends.
    pub fn restarts(&self) -> bool {
        self.spec.restart_policy == RestartPolicy::Always
    }
}

/// What was done.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(default)]
pub struct Record {
    /// Which container this is of.
    pub id: Option<Id>,
    /// What it should be.
    pub desired: Desired,
    /// The uids and gids that are its own; none for a privileged one.
    pub ids: Option<IdRange>,
    /// What its private layer is, once it has one.
    pub layer: Option<Layer>,
    /// A start was begun and no stop by us has ended since: its init may run.
    pub launched: bool,
    /// Its init on this host.
    pub init: Option<Init>,
    /// When its init was last started.
    pub started_at: Option<Timestamp>,
    /// When its init was found ended.
    pub ended_at: Option<Timestamp>,
    /// How often its init was started again.
    pub restarts: u32,
    /// How often in a row its init ended soon or could not be started.
    pub failures: u32,
    /// Ports that were given to the switch.
    pub attached: Vec<PortSpec>,
    /// The bandwidth that was given to the switch with them.
    pub bandwidth: Option<Bandwidth>,
    /// The size that a process has, which is its init as long as it lives.
    pub sized: Option<(Init, Allocation)>,
    /// Why it has not got its new size.
    pub resize: Option<Trouble>,
    /// Since when the control plane does not list it here.
    pub left_at: Option<Timestamp>,
}

/// What stands in the way of something that goes on being tried.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// CamelCase word for the condition.
    pub reason: String,
    /// What happened and the way out.
    pub message: String,
}

/// Reads the record in `directory`; `Ok(None)` if there is none.
///
/// # Errors
/// A file that cannot be read or understood: nothing may be concluded from it.
pub fn read(directory: &Path) -> std::io::Result<Option<Record>> {
    match std::fs::read(file(directory)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Replaces the record in `directory` whole.
pub fn write(directory: &Path, record: &Record) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let new = directory.join("record.json.new");
    std::fs::write(&new, serde_json::to_vec(record)?)?;
    std::fs::rename(new, file(directory))
}

fn file(directory: &Path) -> PathBuf {
    directory.join("record.json")
}

/// Every record under `root`; a directory without one is skipped.
pub fn all(root: &Path) -> Vec<Record> {
    let Ok(entries) = std::fs::read_dir(root) else {
        return vec![];
    };
    entries.flatten().filter_map(|e| read(&e.path()).inspect_err(|error| tracing::error!(path = %e.path().display(), %error, "unreadable record")).ok()?).collect()
}

/// Whether the container controller gave all that is needed to attach the ports.
pub fn is_networked(container: &Container) -> bool {
    container
        .status
        .as_ref()
        .is_some_and(|s| condition::is_true(&s.conditions, "Networked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_broken_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let record = Record {
            launched: true,
            restarts: 3,
            ..Record::default()
        };
        write(dir.path(), &record).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(record));
        std::fs::write(dir.path().join("record.json"), "{").unwrap();
        assert!(read(dir.path()).is_err());
    }
}
