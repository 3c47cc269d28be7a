//! What would be: the very planners of the controllers on a snapshot. Pure.

use super::changes::Change;
use serde::{Deserialize, Serialize};
use skysail_controllers::placement::board::Board;
use skysail_controllers::placement::plan::answers;
use skysail_controllers::placement::request::full_name;
use skysail_controllers::placement::snapshot::{Objects, Snapshot};
use std::collections::BTreeMap;

/// All that is foreseen. This is what `-o json` prints and `apply --plan` takes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Forecast {
    /// Objects that would be created, changed, deleted.
    pub changes: Vec<Change>,
    /// Containers that would get a host.
    pub placements: Vec<Placement>,
    /// Containers that would get none.
    pub refusals: Vec<Refused>,
    /// Every host, with what is on it before and after.
    pub hosts: Vec<HostLoad>,
    /// Cost per hour.
    pub cost: Cost,
    /// What is to be known besides.
    pub remarks: Vec<String>,
}

/// A container that would get a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// `acme/web-0`.
    pub container: String,
    /// The host.
    pub host: String,
    /// Why this one.
    pub why: String,
}

/// A container that would get none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// `acme/web-0`.
    pub container: String,
    /// A CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// A host before and after.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostLoad {
    /// Its name.
    pub name: String,
    /// Its cloud.
    pub cloud: Option<String>,
    /// `new`, `gone`, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fate: Option<String>,
    /// Per hour, where known.
    pub price: Option<f64>,
    /// As it is.
    pub before: Load,
    /// As it would be.
    pub after: Load,
}

/// What is promised on a host, in thousandths of what it can give.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Load {
    /// Of its cores.
    pub cpu: u64,
    /// Of its memory.
    pub memory: u64,
    /// Of its disk.
    pub disk: u64,
    /// Who is there, with their share of its memory in thousandths.
    pub containers: BTreeMap<String, u64>,
}

/// Cost per hour of all hosts whose price is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    /// As it is.
    pub before: f64,
    /// As it would be.
    pub after: f64,
    /// Hosts whose price is not known.
    pub unknown: usize,
}

/// What becomes of `before` when it is made `after`; `coming` are hosts that are assumed to come up.
pub fn forecast(before: Objects, after: Objects, coming: &[String]) -> Forecast {
    let now = jiff::Timestamp::now();
    let (before, mut after) = (Snapshot::new(before, now), Snapshot::new(after, now));
    after.assume_images = true;
    let was = Board::new(&before);
    let mut board = Board::new(&after);
    let requests: Vec<_> = after.waiting.iter().map(|c| board.request(c)).collect();
    let answers = answers(&mut board, &requests);
    let mut forecast = Forecast::default();
    for (container, (request, answer)) in after.waiting.iter().zip(requests.iter().zip(answers)) {
        let container = full_name(container);
        let no = match (request, answer) {
            (Ok(_), Ok((host, why))) => {
                let host = after.hosts[host].name.clone();
                forecast.placements.push(Placement {
                    container,
                    host,
                    why,
                });
                continue;
            }
            (Err(no), _) => no.clone(),
            (_, Err(no)) => no,
        };
        forecast.refusals.push(Refused {
            container,
            reason: no.reason.to_owned(),
            message: no.message,
        });
    }
    forecast.hosts = hosts(&was, &board, coming);
    for host in &forecast.hosts {
        let (there, stays) = (before.host(&host.name), after.host(&host.name));
        match host.price {
            Some(price) => {
                forecast.cost.before += there.map_or(0.0, |_| price);
                forecast.cost.after += stays.map_or(0.0, |_| price);
            }
            None => forecast.cost.unknown += 1,
        }
    }
    forecast
}

fn hosts(was: &Board<'_>, will: &Board<'_>, coming: &[String]) -> Vec<HostLoad> {
    let mut all: BTreeMap<&str, HostLoad> = BTreeMap::new();
    for (board, later) in [(was, false), (will, true)] {
        for (index, host) in board.snapshot.hosts.iter().enumerate() {
            let entry = all.entry(&host.name).or_default();
            entry.name.clone_from(&host.name);
            entry.cloud.clone_from(&host.cloud);
            entry.price = host.price.map(|p| p as f64 / 1e6);
            *(if later {
                &mut entry.after
            } else {
                &mut entry.before
            }) = load(board, index);
        }
    }
    for load in all.values_mut() {
        let (there, stays) = (
            was.snapshot.host(&load.name),
            will.snapshot.host(&load.name),
        );
        load.fate = match (there, stays) {
            (None, _) => Some("new"),
            (_, None) => Some("gone"),
            _ if coming.contains(&load.name) => Some("coming up"),
            _ => None,
        }
        .map(str::to_owned);
    }
    all.into_values().collect()
}

fn load(board: &Board<'_>, host: usize) -> Load {
    let all = board.snapshot.hosts[host].allocatable;
    let free = board.free(host);
    let share = |part: u64, all: u64| part.saturating_mul(1000) / all.max(1);
    let used = |all: u64, free: u64| share(all.saturating_sub(free), all);
    Load {
        cpu: used(all.cpu.0, free.cpu.0),
        memory: used(all.memory.0, free.memory.0),
        disk: used(all.disk.0, free.disk.0),
        containers: board
            .on(host)
            .map(|(c, taken)| (full_name(c), share(taken.memory.0, all.memory.0)))
            .collect(),
    }
}
