//! Ranges of user and group ids: every unprivileged container has one of its own.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// How many ids a container has.
pub const COUNT: u32 = 65536;
/// Below are the ids of people and of distributions' own ranges.
const FIRST: u32 = 16;
/// Ids end at 2^32 - 2; the last range stays free.
const LAST: u32 = 65534;

/// [`COUNT`] ids from `base` on.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The host's id of the container's root.
    pub base: u32,
}

impl IdRange {
    /// Lines of `/proc/<pid>/uid_map` for the container's own user namespace.
    pub fn container_map(self) -> String {
        format!("0 {} {COUNT}\n", self.base)
    }

    /// The same for the mounts of its root: files on disk bear the ids that the container sees, so
    /// the image is one copy for all. The host's root is in it too, one beyond the container's ids,
    /// because the overlay makes its own work files as the host's root.
    pub fn mount_map(self) -> String {
        format!("0 {} {COUNT}\n{COUNT} 0 1\n", self.base)
    }
}

/// Gives the user namespace of `process`, a directory in `/proc`, its uids and gids, once.
///
/// # Errors
/// The kernel refuses them.
pub fn map(process: &Path, map: &str) -> io::Result<()> {
    std::fs::write(process.join("uid_map"), map)?;
    std::fs::write(process.join("gid_map"), map)
}

/// The lowest range that nobody has.
pub fn lowest_free(taken: impl IntoIterator<Item = IdRange>) -> Option<IdRange> {
    let taken: BTreeSet<u32> = taken.into_iter().map(|r| r.base / COUNT).collect();
    (FIRST..LAST)
        .find(|slot| !taken.contains(slot))
        .map(|slot| IdRange { base: slot * COUNT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_a_released_one_is_used_again() {
        let mut taken = vec![];
        for _ in 0..100 {
            taken.push(lowest_free(taken.clone()).unwrap());
        }
        for pair in taken.windows(2) {
            assert!(pair[0].base + COUNT <= pair[1].base);
        }
        let released = taken.remove(50);
        assert_eq!(lowest_free(taken), Some(released));
    }

    #[test]
    fn when_every_range_is_taken_there_is_none() {
        assert_eq!(
            lowest_free((0..65536).map(|slot| IdRange { base: slot * COUNT })),
            None
        );
    }
}
