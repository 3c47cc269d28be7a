//! Which images give way. An image that no container here has goes when it is gone
//! from the API, and when the disk is short: then the longest unused first, until
//! there is room again. What was just used or fetched stays: a container may be on
//! its way to it.

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// How long an image is kept after its last use, whatever else.
pub const RESTED: SignedDuration = SignedDuration::from_mins(10);
/// With less free space than this part of the disk, images give way …
const SHORT: u128 = 15;
/// … until this part is free.
const ENOUGH: u128 = 20;

/// An image on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// `sha256:…` of its archive.
    pub digest: String,
    /// When a container here was last seen to have it.
    pub used: Timestamp,
}

/// Free space of the disk that holds the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// No need for more.
    Enough,
    /// More would be good, and is made once it is short.
    Little,
    /// Images must give way.
    Short,
}

impl Space {
    /// Of `total` bytes with `free` ones; unknown is enough.
    pub fn of(total: u64, free: u64) -> Self {
        match (u128::from(free) * 100).checked_div(total.into()) {
            Some(percent) if percent < SHORT => Self::Short,
            Some(percent) if percent < ENOUGH => Self::Little,
            _ => Self::Enough,
        }
    }
}

/// What gives way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Gone from the API: these go in any case.
    pub gone: Vec<String>,
    /// For the sake of space, in this order, until there is enough.
    pub spare: Vec<String>,
}

/// What gives way of `cached`, while the containers here have `used` and the API lists `listed` (none: not known).
pub fn plan(
    cached: &[Cached],
    used: &BTreeSet<String>,
    listed: Option<&BTreeSet<String>>,
    space: Space,
    now: Timestamp,
) -> Plan {
    let mut rested: Vec<&Cached> = cached
        .iter()
        .filter(|c| !used.contains(&c.digest) && now.duration_since(c.used) >= RESTED)
        .collect();
    rested.sort_by(|a, b| (a.used, &a.digest).cmp(&(b.used, &b.digest)));
    let is_gone = |c: &&Cached| listed.is_some_and(|l| !l.contains(&c.digest));
    let names = |all: Vec<&&Cached>| all.into_iter().map(|c| c.digest.clone()).collect();
    let (gone, spare): (Vec<_>, Vec<_>) = rested.iter().partition(|c| is_gone(c));
    Plan {
        gone: names(gone),
        spare: if space == Space::Short {
            names(spare)
        } else {
            vec![]
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::MAX;

    fn cached(digest: &str, minutes: i64) -> Cached {
        Cached {
            digest: digest.into(),
            used: NOW - SignedDuration::from_mins(minutes),
        }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn an_image_in_use_stays_whatever_happens() {
        let all = [cached("a", 10_000)];
        let listed = set(&[]);
        let plan = plan(&all, &set(&["a"]), Some(&listed), Space::Short, NOW);
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn an_image_gone_from_the_api_goes_once_it_rested() {
        let all = [cached("old", 11), cached("new", 9), cached("listed", 99)];
        let listed = set(&["listed"]);
        let plan = plan(&all, &set(&[]), Some(&listed), Space::Little, NOW);
        assert_eq!(plan.gone, ["old"]);
        assert!(plan.spare.is_empty());
    }

    #[test]
    fn while_the_api_is_away_nothing_counts_as_gone() {
        let plan = plan(&[cached("a", 99)], &set(&[]), None, Space::Enough, NOW);
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn on_a_short_disk_the_longest_unused_goes_first() {
        let all = [cached("b", 20), cached("c", 5), cached("a", 30)];
        let listed = set(&["a", "b", "c"]);
        let plan = plan(&all, &set(&[]), Some(&listed), Space::Short, NOW);
        assert_eq!(plan.spare, ["a", "b"]);
    }

    #[test]
    fn space_is_judged_by_the_part_that_is_free() {
        assert_eq!(Space::of(100, 14), Space::Short);
        assert_eq!(Space::of(100, 15), Space::Little);
        assert_eq!(Space::of(100, 20), Space::Enough);
        assert_eq!(Space::of(0, 0), Space::Enough, "unknown is no reason");
        assert_eq!(Space::of(u64::MAX, u64::MAX / 2), Space::Enough);
    }
}
