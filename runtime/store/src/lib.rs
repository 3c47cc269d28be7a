//! Keys and revisions: the one contract under the API server.
//!
//! A store maps keys to bytes. Every write gets a revision from one counter that
//! only rises, also over restarts; a revision names a state of the *whole* store.
//! Writes are compare-and-swap. A watch yields every change after a revision, once
//! and in order, or says that its history is gone. The store knows no kinds.
//!
//! Model: etcd v3's KV and Watch API (<https://etcd.io/docs/v3.5/learning/api/>).

pub mod embedded;
pub mod etcd;

use bytes::Bytes;
use futures::stream::BoxStream;

pub use embedded::Embedded;
pub use etcd::Etcd;

/// A point in the store's history. 0 is before the first write.
pub type Revision = u64;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, for example `/skysail/skysail.dev/containers/acme/db-0`.
    pub key: String,
    /// What was written.
    pub value: Bytes,
    /// Revision of the write that made the key (etcd: `create_revision`).
    pub created: Revision,
    /// Revision of the last write (etcd: `mod_revision`).
    pub modified: Revision,
}

/// One change, as a watch yields it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Revision of the write.
    pub revision: Revision,
    /// The entry after the write; `None` when it was deleted.
    pub new: Option<Entry>,
    /// The entry before the write; `None` when it was created.
    pub old: Option<Entry>,
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A change; revisions rise strictly.
    Change(Change),
    /// Nothing at or below this revision is still to come.
    Progress(Revision),
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Entry>,
    /// The revision that the listing shows, the same for all its pages.
    pub revision: Revision,
    /// How many keys of the range come after the last entry.
    pub remaining: u64,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A create met a key that exists.
    #[error("key {key} exists at revision {}", current.modified)]
    Exists {
        /// The key.
        key: String,
        /// What is there.
        current: Entry,
    },
    /// An update or delete expected another revision; `current` is what is there, `None` if nothing.
    #[error("key {key} is not at the expected revision")]
    Conflict {
        /// The key.
        key: String,
        /// What is there.
        current: Option<Entry>,
    },
    /// The history asked for was compacted; start again from a listing.
    #[error("history up to revision {0} is gone")]
    Compacted(Revision),
    /// The revision lies in the future.
    #[error("revision {asked} is newer than the store's {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The value is larger than [`MAX_VALUE`].
    #[error("a value of {0} bytes is larger than the limit of {MAX_VALUE}")]
    TooLarge(usize),
    /// The store cannot be reached or cannot write. A write that ends so may or may not have happened.
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

/// The largest value, in bytes: etcd's default request limit less room for the key.
pub const MAX_VALUE: usize = 1_500_000;

/// A store. Every method is safe to call from many tasks at once.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The latest revision; everything acknowledged before the call is at or below it.
    async fn revision(&self) -> Result<Revision, Error>;
    /// The entry now, or `None`.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;
    /// Entries whose key begins with `prefix` and is greater than `after`, at most `limit` (0: all), at
    /// revision `at` (`None`: latest). Fails with [`Error::Compacted`] or [`Error::Future`].
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error>;
    /// Writes a key that must not exist. Durable when it returns.
    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, Error>;
    /// Overwrites a key whose last write must be `expected`. Durable when it returns.
    async fn update(&self, key: &str, value: Bytes, expected: Revision) -> Result<Revision, Error>;
    /// Removes a key whose last write must be `expected`. Durable when it returns; the delete has a revision of its own.
    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, Error>;
    /// Every change below `prefix` after revision `after`, and progress marks at least every few seconds.
    /// Fails with [`Error::Compacted`] at once or in the stream; the stream ends after an error.
    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<Event, Error>>, Error>;
    /// Forgets history before `revision`; the newest entry of each key stays.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
}
