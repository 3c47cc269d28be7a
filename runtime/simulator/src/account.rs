//! What a run came to.

use serde::Serialize;
use std::collections::BTreeMap;

/// Sums over a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Containers that came.
    pub arrived: u64,
    /// Containers that left.
    pub left: u64,
    /// Containers that ended with their host.
    pub lost: u64,
    /// Machines bought.
    pub bought: u64,
    /// Machines given back.
    pub returned: u64,
    /// Moves that were begun, by strategy.
    pub moves: BTreeMap<String, u64>,
    /// When moves ended well, in milliseconds after the beginning.
    pub moved: Vec<u64>,
    /// Moves that were given up.
    pub gave_up: u64,
    /// Bytes sent by moves.
    pub bytes: u64,
    /// Milliseconds for which containers stood still.
    pub frozen: u64,
    /// Milliseconds of hosts that are ready.
    pub host_time: u64,
    /// Hosts at once, at the most.
    pub most_hosts: u64,
    /// Millionths times milliseconds per hour.
    #[serde(skip)]
    pub spent: u128,
    /// The same with one machine per container, the cheapest on which it fits.
    #[serde(skip)]
    pub alone: u128,
    /// Milliseconds of containers that wait for a host.
    pub waiting: u64,
    /// Milliseconds of hosts that use more than 85 % of their cores or 90 % of their memory.
    pub hot: u64,
    /// By host: since when it is hot.
    #[serde(skip)]
    pub hot_since: BTreeMap<String, u64>,
    /// The longest that a host was hot, in milliseconds.
    pub longest_hot: u64,
    /// Cores promised and cores there, times milliseconds.
    #[serde(skip)]
    pub promised: (u128, u128),
    /// Laws that did not hold; each once.
    pub broken: Vec<String>,
}

impl Account {
    /// A law did not hold.
    pub fn broken(&mut self, what: String) {
        if self.broken.len() < 100 && !self.broken.contains(&what) {
            self.broken.push(what);
        }
    }

    /// Money of `spent` or `alone`.
    pub fn money(sum: u128) -> f64 {
        sum as f64 / 3.6e6 / 1e6
    }
}
