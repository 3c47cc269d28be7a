//! What is kept of each cloud between calls. Losing it costs time, never money: what
//! decides whether a machine is bought is in the cloud (tags, tokens) and in the Host.

use super::{credentials::Lent, ground::Ground, listing::Listing};
use crate::https::{self, Https};
use crate::{Error, Offer, Result};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many calls of one cloud are under way at once; who comes first is served first.
const AT_ONCE: usize = 8;
/// A pause longer than this is told to the caller instead of waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer "no capacity" holds for the same size.
const SHORTAGE: Duration = Duration::from_secs(25);

/// The memories of all clouds, by a name that is theirs alone.
#[derive(Clone, Default)]
pub struct Memories(Arc<Mutex<HashMap<String, Arc<Memory>>>>);

impl fmt::Debug for Memories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memories")
    }
}

impl Memories {
    /// The memory of the cloud `key`.
    pub fn of(&self, key: &str) -> Arc<Memory> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key.to_owned()).or_default().clone()
    }

    /// Forgets the cloud `key`.
    pub fn forget(&self, key: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(key);
    }
}

/// Something with the time when it was found and a hash of what it was found with.
pub type Found<T> = tokio::sync::Mutex<Option<(u64, Instant, T)>>;

/// The memory of one cloud.
pub struct Memory {
    http: OnceLock<std::result::Result<Https, String>>,
    turns: Semaphore,
    /// How fast calls may follow.
    pub pace: Pace,
    /// The machines.
    pub listing: tokio::sync::Mutex<Listing>,
    /// The keys of the instance's role.
    pub role: tokio::sync::Mutex<Option<Lent>>,
    /// What is offered.
    pub offers: Found<Vec<Offer>>,
    /// What machines stand on.
    pub ground: Found<Ground>,
    /// Sizes that there were none of, with what was said and when.
    shortage: Mutex<HashMap<String, (Instant, String)>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            http: OnceLock::new(),
            turns: Semaphore::new(AT_ONCE),
            pace: Pace::default(),
            listing: Default::default(),
            role: Default::default(),
            offers: Default::default(),
            ground: Default::default(),
            shortage: Default::default(),
        }
    }
}

impl Memory {
    /// The connections.
    pub fn http(&self) -> std::result::Result<&Https, String> {
        let made = self.http.get_or_init(https::client);
        made.as_ref().map_err(Clone::clone)
    }

    /// A place among the calls that are under way.
    pub async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        self.turns
            .acquire()
            .await
            .map_err(|e| Error::Transient(e.to_string()))
    }

    fn shortages(&self) -> MutexGuard<'_, HashMap<String, (Instant, String)>> {
        self.shortage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses `size` while it is known that there is none.
    pub fn room(&self, size: &str) -> Result<()> {
        let mut all = self.shortages();
        all.retain(|_, (at, _)| at.elapsed() < SHORTAGE);
        match all.get(size) {
            Some((_, said)) => Err(Error::NoCapacity(said.clone())),
            None => Ok(()),
        }
    }

    /// Remembers that there is no `size`.
    pub fn no_room(&self, size: &str, said: &str) {
        self.shortages()
            .insert(size.to_owned(), (Instant::now(), said.to_owned()));
    }
}

/// How fast calls may follow: after each refusal half as fast, for all callers alike.
#[derive(Default)]
pub struct Pace(Mutex<Slow>);

#[derive(Default)]
struct Slow {
    level: u32,
    until: Option<Instant>,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, Slow> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> Duration {
        let until = self.lock().until;
        until.map_or(Duration::ZERO, |u| {
            u.saturating_duration_since(Instant::now())
        })
    }

    /// Waits until a call may be made; [`Error::Throttled`] where that takes long.
    pub async fn wait(&self) -> Result<()> {
        loop {
            let left = self.left();
            if left.is_zero() {
                return Ok(());
            }
            if left > PATIENCE {
                return Err(Error::Throttled(format!(
                    "the cloud asked for fewer requests; the next is made in {} s",
                    left.as_secs()
                )));
            }
            tokio::time::sleep(left).await;
        }
    }

    /// The cloud refused a call as one too many. Refusals of calls that were under way together count once.
    pub fn slower(&self) {
        let mut slow = self.lock();
        let now = Instant::now();
        if slow.until.is_some_and(|u| u > now) {
            return;
        }
        slow.level = (slow.level + 1).min(8);
        let pause = Duration::from_millis(150) * (1 << slow.level);
        slow.until = Some(now + pause.mul_f64(0.75 + 0.25 * rand::random::<f64>()));
    }

    /// The cloud took a call.
    pub fn faster(&self) {
        let mut slow = self.lock();
        slow.level = slow.level.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_refusals_count_once_for_calls_together_and_shrink_again() {
        let pace = Pace::default();
        pace.slower();
        pace.slower();
        assert!(pace.left() <= Duration::from_millis(300));
        for _ in 0..9 {
            pace.lock().until = None;
            pace.slower();
        }
        let long = pace.left();
        assert!(long > Duration::from_secs(25) && long < Duration::from_secs(40));
        pace.lock().until = None;
        (0..9).for_each(|_| pace.faster());
        pace.slower();
        assert!(pace.left() <= Duration::from_millis(300));
    }

    #[test]
    fn a_shortage_is_remembered_for_that_size_only() {
        let memory = Memory::default();
        memory.no_room("m5.large", "none left");
        assert_eq!(
            memory.room("m5.large"),
            Err(Error::NoCapacity("none left".into()))
        );
        assert_eq!(memory.room("m5.xlarge"), Ok(()));
    }
}
