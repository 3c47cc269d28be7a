//! The file: one SQLite table, to which committed changes are appended.
//!
//! `history(revision, key, value, created, previous)` holds one row per change; a
//! NULL value is a deletion, `previous` the revision of the row that it replaced.
//! Rows at or below `floor` are swept when a later row at or below it replaced them,
//! so what is left there are the entries at `floor`; the rows above are the log.
//! Appending to one B-tree by rising key is the cheapest thing that SQLite can do.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use super::History;
use super::state::{Logged, State};
use crate::{Entry, Error, Revision};

const SCHEMA: &str = "
    CREATE TABLE history (
        revision INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        value BLOB,
        created INTEGER NOT NULL,
        previous INTEGER NOT NULL
    );
    CREATE TABLE floor (revision INTEGER NOT NULL);
    INSERT INTO floor VALUES (0);
";
/// `PRAGMA user_version` of this layout.
const LAYOUT: i64 = 1;
/// The write-ahead log is copied into the file when this much was appended to it, in bytes.
const CHECKPOINT: usize = 16 << 20;
/// What a row costs in the write-ahead log beyond its key and value, in bytes, roughly.
const ROW: usize = 100;

/// The open file.
pub(super) struct Disk {
    connection: Connection,
    path: PathBuf,
    floor: Revision,
    /// Bytes appended since the last checkpoint, roughly.
    unchecked: usize,
}

/// An append that failed.
pub(super) struct Failure {
    pub message: String,
    /// The file certainly holds nothing of it, and later appends may succeed.
    pub undone: bool,
}

impl Disk {
    /// Opens the file and reads all of it.
    pub fn open(path: &Path, history: History) -> Result<(Self, State), Error> {
        let fail = |e: rusqlite::Error| Error::Unavailable(explain(path, &e));
        create_private(path)?;
        let connection = prepare(path).map_err(fail)?;
        let layout: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(fail)?;
        if layout > LAYOUT {
            return Err(Error::Unavailable(format!(
                "store file {} has layout {layout}, newer than {LAYOUT} that this version reads; use a newer version",
                path.display()
            )));
        }
        // Nothing is written to a file that has its layout: it opens on a full disk too.
        if layout < LAYOUT {
            let create = format!("BEGIN; {SCHEMA} PRAGMA user_version = {LAYOUT}; COMMIT;");
            connection.execute_batch(&create).map_err(fail)?;
        }
        let (floor, state) = load(&connection, history).map_err(fail)?;
        let mut disk = Self {
            connection,
            path: path.to_owned(),
            floor,
            unchecked: 0,
        };
        // What a killed process left in the write-ahead log.
        disk.checkpoint("TRUNCATE");
        Ok((disk, state))
    }

    /// The floor that the file was swept to.
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// Appends the changes and sweeps to `floor`, in one transaction. Durable when it returns.
    pub fn append(&mut self, changes: &[Logged], floor: Revision) -> Result<(), Failure> {
        if changes.is_empty() && floor <= self.floor {
            return Ok(());
        }
        let from = self.floor;
        let appended =
            write(&mut self.connection, changes, from, floor).map_err(|error| Failure {
                message: explain(&self.path, &error),
                // A full disk is met before the commit record is written, and SQLite rolls back.
                undone: error.sqlite_error_code() == Some(ErrorCode::DiskFull)
                    && self.connection.is_autocommit(),
            })?;
        self.floor = floor.max(from);
        self.unchecked += appended;
        if self.unchecked >= CHECKPOINT {
            self.checkpoint("RESTART");
        }
        Ok(())
    }

    /// Moves what is durable in the write-ahead log into the file. A failure costs space, not data: the next one
    /// takes it along.
    fn checkpoint(&mut self, mode: &str) {
        self.unchecked = 0;
        let done = self
            .connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        if let Err(error) = done {
            tracing::warn!(file = %self.path.display(), %error, "checkpoint failed; the write-ahead log keeps growing");
        }
    }

    /// Leaves a single file.
    pub fn close(mut self) {
        self.checkpoint("TRUNCATE");
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(file = %self.path.display(), %error, "closing the store file failed");
        }
    }
}

/// Makes the file if there is none, for its owner only: it will hold Secrets. SQLite gives its other files the same mode.
fn create_private(path: &Path) -> Result<(), Error> {
    let create = || -> std::io::Result<()> {
        if path.try_exists()? {
            return Ok(());
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        // The new name is durable once its directory is.
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    create().map_err(|e| {
        let path = path.display();
        Error::Unavailable(format!(
            "cannot create store file {path}: {e}; its directory must exist and be writable"
        ))
    })
}

/// One process, one connection: the exclusive lock is held until it closes or dies.
fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::ZERO)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    // Takes the lock now, not at the first write.
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
    Ok(connection)
}

fn explain(path: &Path, error: &rusqlite::Error) -> String {
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!(
                "store file {path} is in use by another process; stop that one, or choose another data directory"
            )
        }
        Some(ErrorCode::NotADatabase) => {
            format!("{path} is not a store file; move it away or choose another one")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!("store file {path} is damaged ({error}); restore it from a backup")
        }
        Some(ErrorCode::DiskFull) => {
            format!("no space left for store file {path}; free some on its file system")
        }
        Some(ErrorCode::CannotOpen) => {
            format!(
                "cannot open store file {path}: {error}; its directory must exist and be writable"
            )
        }
        _ => format!("store file {path}: {error}"),
    }
}

fn write(
    connection: &mut Connection,
    changes: &[Logged],
    from: Revision,
    to: Revision,
) -> rusqlite::Result<usize> {
    let mut bytes = 0;
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO history (revision, key, value, created, previous) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for change in changes {
            let value = change.new.as_ref().map(|entry| entry.value.as_ref());
            let created = change.new.as_ref().map_or(0, |entry| entry.created);
            let previous = change.old.as_ref().map_or(0, |entry| entry.modified);
            insert.execute(params![
                number(change.revision),
                change.key(),
                value,
                number(created),
                number(previous)
            ])?;
            bytes += ROW + change.key().len() + value.map_or(0, <[u8]>::len);
        }
    }
    if to > from {
        let range = params![number(from), number(to)];
        let replaced = transaction
            .prepare_cached(
                "DELETE FROM history WHERE revision IN
                 (SELECT previous FROM history WHERE revision > ?1 AND revision <= ?2 AND previous > 0)",
            )?
            .execute(range)?;
        let deletions = transaction
            .prepare_cached(
                "DELETE FROM history WHERE revision > ?1 AND revision <= ?2 AND value IS NULL",
            )?
            .execute(range)?;
        transaction
            .prepare_cached("UPDATE floor SET revision = ?1")?
            .execute([number(to)])?;
        bytes += (replaced + deletions) * ROW;
    }
    transaction.commit()?;
    Ok(bytes)
}

fn load(connection: &Connection, history: History) -> rusqlite::Result<(Revision, State)> {
    let floor: i64 = connection
        .query_row("SELECT revision FROM floor", [], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let mut rows = connection
        .prepare("SELECT revision, key, value, created FROM history ORDER BY revision")?;
    let mut rows = rows.query([])?;
    let mut base: HashMap<String, Entry> = HashMap::new();
    let mut state = None;
    while let Some(row) = rows.next()? {
        let (revision, key, entry) = change(row)?;
        if revision <= revision_of(floor) {
            entry.map(|entry| base.insert(key, entry));
            continue;
        }
        let state = state.get_or_insert_with(|| {
            State::at_floor(revision_of(floor), base.drain().map(|(_, e)| e), history)
        });
        let old = state.get(&key);
        state.apply(Logged {
            revision,
            new: entry.map(Arc::new),
            old,
        });
    }
    let state =
        state.unwrap_or_else(|| State::at_floor(revision_of(floor), base.into_values(), history));
    Ok((revision_of(floor), state))
}

fn change(row: &Row<'_>) -> rusqlite::Result<(Revision, String, Option<Entry>)> {
    let modified = revision_of(row.get(0)?);
    let key: String = row.get(1)?;
    let value: Option<Vec<u8>> = row.get(2)?;
    let created = revision_of(row.get(3)?);
    let entry = value.map(|value| Entry {
        key: key.clone(),
        value: Bytes::from(value),
        created,
        modified,
    });
    Ok((modified, key, entry))
}

/// SQLite's integers are signed; a store that makes a million writes a second reaches the bound in 292,000 years.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn revision_of(number: i64) -> Revision {
    Revision::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: Revision) -> Logged {
        let key = format!("/{revision}");
        let value = Bytes::from(vec![b'x'; 10_000]);
        let new = Entry {
            key,
            value,
            created: revision,
            modified: revision,
        };
        Logged {
            revision,
            new: Some(Arc::new(new)),
            old: None,
        }
    }

    #[test]
    fn a_full_disk_refuses_writes_and_takes_them_once_there_is_space() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let (mut disk, _) = Disk::open(&path, History::default()).unwrap();
        let limit = |disk: &Disk, pages: u32| {
            let set = format!("PRAGMA max_page_count = {pages}");
            disk.connection.query_row(&set, [], |_| Ok(())).unwrap();
        };
        limit(&disk, 20);
        let mut revision = 1;
        let failure = loop {
            match disk.append(&[change(revision)], 0) {
                Ok(()) => revision += 1,
                Err(failure) => break failure,
            }
        };
        assert!(
            failure.undone && failure.message.contains("no space left"),
            "{}",
            failure.message
        );
        assert!(
            disk.append(&[change(revision), change(revision + 1)], 0)
                .is_err_and(|failure| failure.undone)
        );
        limit(&disk, 1000);
        assert!(disk.append(&[change(revision)], 0).is_ok());
        disk.close();
        let (_, state) = Disk::open(&path, History::default()).unwrap();
        assert_eq!((state.head(), state.floor()), (revision, 0));
    }
}
