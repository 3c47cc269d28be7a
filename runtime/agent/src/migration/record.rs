//! What an agent needs to go on with a migration after it was killed: one small file each, replaced whole and synced.

use super::machine::{Source, Target};
use crate::container::record::Id;
use serde::{Deserialize, Serialize};
use skysail_schemas::migration::MigrationMode;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A migration as one of its hosts knows it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Record {
    /// The Migration's uid; also the file's name.
    pub uid: String,
    /// The Migration's name; its namespace is the container's.
    pub name: String,
    /// The container.
    pub container: Id,
    /// Tells the container from a later one of the same name.
    pub container_uid: String,
    /// The container's epoch on the source.
    pub epoch: u64,
    /// The host that has it.
    pub source: String,
    /// The host that gets it.
    pub target: String,
    /// Whether its processes come along.
    pub mode: MigrationMode,
    /// When this host took it in hand, by its own clock, in milliseconds since 1970.
    #[serde(default)]
    pub begun_at: Option<i64>,
    /// When it began to stand still, in milliseconds since 1970.
    pub frozen_at: Option<i64>,
    /// Why its processes do not come along, though they should.
    #[serde(default)]
    pub lost: Option<Lost>,
    /// How far it is.
    pub role: Role,
}

/// Why a container begins anew.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// CamelCase word.
    pub reason: String,
    /// What happened, and the way out.
    pub message: String,
}

/// Which half of a migration, and where it is.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Role {
    /// This host has the container.
    Source(Source),
    /// This host gets it.
    Target(Target),
}

impl Record {
    /// Whether the container is to be left alone while this is so.
    pub fn holds(&self) -> bool {
        match &self.role {
            Role::Source(state) => state.holds(),
            Role::Target(state) => *state != Target::Over,
        }
    }

    /// Whether the state before leads here again, by asking: `Freezing` is undone as `Sending` is, and whose the
    /// container is stands in the API. A power cut may forget such a state, which saves the container time.
    fn follows(&self) -> bool {
        let follows = matches!(
            self.role,
            Role::Source(Source::Sending | Source::Leaving) | Role::Target(Target::Starting)
        );
        follows && self.lost.is_none()
    }

    /// Whether the container is everybody's again: it goes on here, or is nothing to this host.
    pub fn gives_back(&self) -> bool {
        matches!(
            self.role,
            Role::Source(Source::Telling(Some(_))) | Role::Target(Target::Over)
        )
    }
}

/// Where the records of a host are.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Records under `data`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(data: &Path) -> io::Result<Self> {
        let folder = data.join("migrations");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.folder.join(format!("{uid}.json"))
    }

    /// Puts on record: when this returns, it survives the end of this process and, where the state must not be
    /// forgotten, a power cut.
    ///
    /// # Errors
    /// The disk is full or broken.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let (file, new) = (
            self.file(&record.uid),
            self.folder.join(format!("{}.new", record.uid)),
        );
        let mut draft = File::create(&new)?;
        draft.write_all(&serde_json::to_vec_pretty(record)?)?;
        if record.follows() {
            return std::fs::rename(new, file);
        }
        draft.sync_data()?;
        std::fs::rename(new, file)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Removes a record.
    ///
    /// # Errors
    /// It is still there.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        match std::fs::remove_file(self.file(uid)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Every record; one that cannot be read is an error: nothing may be concluded from it.
    ///
    /// # Errors
    /// A record cannot be read or understood.
    pub fn all(&self) -> io::Result<Vec<Record>> {
        let mut all = vec![];
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "json") {
                all.push(serde_json::from_slice(&std::fs::read(&path)?)?);
            }
        }
        Ok(all)
    }
}
