//! What the store knows, in memory: the entries now and the changes that led here.
//!
//! Pure: no clock, no file, no waiting. An older revision is read by undoing the
//! changes after it, so paging costs nothing until somebody pages.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::History;
use crate::{Change, Entry, Error, Revision};

/// One change, its entries shared with the map and with other changes.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub revision: Revision,
    pub new: Option<Arc<Entry>>,
    pub old: Option<Arc<Entry>>,
}

impl Logged {
    pub fn key(&self) -> &str {
        // A change has an entry on one side at least; the commit loop makes no others.
        self.new
            .as_ref()
            .or(self.old.as_ref())
            .map_or("", |entry| &entry.key)
    }

    fn bytes(&self) -> usize {
        let size =
            |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |e| e.key.len() + e.value.len());
        size(&self.new) + size(&self.old)
    }

    pub fn to_change(&self) -> Change {
        let copy = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|e| Entry::clone(e));
        Change {
            revision: self.revision,
            new: copy(&self.new),
            old: copy(&self.old),
        }
    }
}

/// A listing whose entries are still shared.
pub(super) struct Slice {
    pub entries: Vec<Arc<Entry>>,
    pub revision: Revision,
    pub remaining: u64,
}

/// The entries at `head`, and every change in `(floor, head]`.
pub(super) struct State {
    entries: BTreeMap<String, Arc<Entry>>,
    log: VecDeque<Logged>,
    log_bytes: usize,
    floor: Revision,
    head: Revision,
    history: History,
}

impl State {
    pub fn new(history: History) -> Self {
        Self {
            entries: BTreeMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
            floor: 0,
            head: 0,
            history,
        }
    }

    /// A state at `floor` with these entries and no history.
    pub fn at_floor(
        floor: Revision,
        entries: impl IntoIterator<Item = Entry>,
        history: History,
    ) -> Self {
        let entries = entries
            .into_iter()
            .map(|entry| (entry.key.clone(), Arc::new(entry)))
            .collect();
        Self {
            entries,
            floor,
            head: floor,
            ..Self::new(history)
        }
    }

    pub fn head(&self) -> Revision {
        self.head
    }

    pub fn floor(&self) -> Revision {
        self.floor
    }

    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.entries.get(key).map(Arc::clone)
    }

    /// Can revision `at` be read, and watched from?
    pub fn check(&self, at: Revision) -> Result<(), Error> {
        if at > self.head {
            Err(Error::Future {
                asked: at,
                current: self.head,
            })
        } else if at < self.floor {
            Err(Error::Compacted(self.floor))
        } else {
            Ok(())
        }
    }

    /// Takes in the change that follows `head`.
    pub fn apply(&mut self, change: Logged) {
        debug_assert_eq!(change.revision, self.head + 1, "one revision is one change");
        self.head = change.revision;
        match &change.new {
            Some(entry) => {
                self.entries.insert(entry.key.clone(), Arc::clone(entry));
            }
            None => {
                self.entries.remove(change.key());
            }
        }
        self.log_bytes += change.bytes();
        self.log.push_back(change);
        while self.log.len() > 1
            && (self.log.len() > self.history.changes || self.log_bytes > self.history.bytes)
        {
            self.compact(self.floor + 1);
        }
    }

    /// Forgets the changes up to `floor`, which is not above `head`.
    pub fn compact(&mut self, floor: Revision) {
        while self.floor < floor.min(self.head) {
            self.floor += 1;
            if let Some(gone) = self.log.pop_front() {
                self.log_bytes -= gone.bytes();
            }
        }
    }

    /// Up to `limit` changes after `position` are looked at; those below `prefix` are returned, with the new position.
    pub fn changes(
        &self,
        prefix: &str,
        position: Revision,
        limit: usize,
    ) -> Result<(Vec<Logged>, Revision), Error> {
        self.check(position)?;
        let skip = usize::try_from(position - self.floor).unwrap_or(usize::MAX);
        let mut position = position;
        let mut found = Vec::new();
        for change in self.log.iter().skip(skip).take(limit) {
            position = change.revision;
            if change.key().starts_with(prefix) {
                found.push(change.clone());
            }
        }
        Ok((found, position))
    }

    pub fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Slice, Error> {
        let revision = at.unwrap_or(self.head);
        self.check(revision)?;
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut slice = Slice {
            entries: Vec::new(),
            revision,
            remaining: 0,
        };
        let mut take = |entry: &Arc<Entry>| {
            if slice.entries.len() < limit {
                slice.entries.push(Arc::clone(entry));
            } else {
                slice.remaining += 1;
            }
        };
        let undone = self.undone(prefix, after, revision);
        let mut undone = undone.into_iter().peekable();
        for (key, entry) in self.range(prefix, after) {
            while let Some((_, then)) = undone.next_if(|(changed, _)| *changed < key.as_str()) {
                then.into_iter().for_each(&mut take);
            }
            match undone.next_if(|(changed, _)| *changed == key.as_str()) {
                Some((_, then)) => then.into_iter().for_each(&mut take),
                None => take(entry),
            }
        }
        undone.filter_map(|(_, then)| then).for_each(take);
        Ok(slice)
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<Entry>)> + 'a {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// What the keys of a range that changed after revision `at` held then.
    fn undone<'a>(
        &'a self,
        prefix: &str,
        after: Option<&str>,
        at: Revision,
    ) -> BTreeMap<&'a str, Option<&'a Arc<Entry>>> {
        let skip = usize::try_from(at - self.floor).unwrap_or(usize::MAX);
        let mut then = BTreeMap::new();
        for change in self.log.iter().skip(skip) {
            let key = change.key();
            if key.starts_with(prefix) && after.is_none_or(|after| key > after) {
                // The first change after `at` replaced what was there at `at`.
                then.entry(key).or_insert(change.old.as_ref());
            }
        }
        then
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn put(state: &mut State, key: &str) {
        let revision = state.head() + 1;
        let old = state.get(key);
        let created = old.as_ref().map_or(revision, |o| o.created);
        let new = Entry {
            key: key.into(),
            value: Bytes::from(revision.to_string()),
            created,
            modified: revision,
        };
        state.apply(Logged {
            revision,
            new: Some(Arc::new(new)),
            old,
        });
    }

    fn remove(state: &mut State, key: &str) {
        let (revision, old) = (state.head() + 1, state.get(key));
        state.apply(Logged {
            revision,
            new: None,
            old,
        });
    }

    fn shown(
        state: &State,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Revision,
    ) -> (String, u64) {
        let slice = state.list(prefix, after, limit, Some(at)).unwrap();
        let entries: Vec<_> = slice
            .entries
            .iter()
            .map(|e| format!("{}@{}", e.key, e.modified))
            .collect();
        (entries.join(" "), slice.remaining)
    }

    #[test]
    fn every_revision_above_the_floor_lists_as_it_was() {
        let mut state = State::new(History::default());
        put(&mut state, "/a/1");
        put(&mut state, "/a/3");
        put(&mut state, "/b/1");
        put(&mut state, "/a/1");
        remove(&mut state, "/a/3");
        put(&mut state, "/a/2");
        put(&mut state, "/a/3");
        let expected = [
            "",
            "/a/1@1",
            "/a/1@1 /a/3@2",
            "/a/1@1 /a/3@2",
            "/a/1@4 /a/3@2",
            "/a/1@4",
            "/a/1@4 /a/2@6",
            "/a/1@4 /a/2@6 /a/3@7",
        ];
        for (at, expected) in (0..).zip(expected) {
            assert_eq!(
                shown(&state, "/a/", None, 0, at),
                (expected.into(), 0),
                "at {at}"
            );
        }
        assert_eq!(
            shown(&state, "/a/", Some("/a/1"), 1, 7),
            ("/a/2@6".into(), 1)
        );
        assert_eq!(shown(&state, "/a/", Some("/z"), 0, 7), (String::new(), 0));
        assert_eq!(shown(&state, "/a/", Some("/"), 1, 2), ("/a/1@1".into(), 1));
    }

    #[test]
    fn a_log_that_outgrows_its_bound_raises_the_floor() {
        let mut state = State::new(History {
            changes: 3,
            bytes: usize::MAX,
        });
        for _ in 0..10 {
            put(&mut state, "/k");
        }
        assert_eq!((state.floor(), state.head(), state.log.len()), (7, 10, 3));
        assert!(matches!(state.check(6), Err(Error::Compacted(7))));
        assert_eq!(state.changes("/", 7, 100).unwrap().0.len(), 3);
        let mut state = State::new(History {
            changes: 100,
            bytes: 1,
        });
        put(&mut state, "/k");
        put(&mut state, "/k");
        assert_eq!(
            (state.floor(), state.log.len()),
            (1, 1),
            "the newest change stays"
        );
        state.compact(99);
        assert_eq!((state.floor(), state.head(), state.log_bytes), (2, 2, 0));
    }
}
