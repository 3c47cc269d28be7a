//! Other ways to place a batch, where one Container after the other leaves some without a Host. Pure.
//!
//! The largest first and each where it leaves the least; then, for small batches, a
//! search over every state that can be reached, which finds a way if there is one.

use super::board::{Board, Put};
use super::place::Unplaceable;
use super::plan::Unit;
use super::request::Request;
use std::cmp::Reverse;
use std::collections::HashSet;

/// States that a search looks at, at the most; with `WIDTH` it bounds the time to some tens of milliseconds.
const STATES: usize = 10_000;
/// Units times Hosts that a search looks at.
const WIDTH: usize = 256;

/// A Host for each request of the `possible` units that gets one: all that `first` placed and more, or `None`. The board counts what gets a Host.
pub(super) fn repack(
    board: &mut Board<'_>,
    requests: &[Result<Request, Unplaceable>],
    mut possible: Vec<&Unit>,
    first: &[Option<usize>],
) -> Option<Vec<Option<usize>>> {
    let size = |unit: &&Unit| {
        let requests = unit
            .members
            .iter()
            .filter_map(|m| requests[*m].as_ref().ok());
        requests
            .map(|r| dominant(board, r))
            .fold(0, u64::saturating_add)
    };
    possible.sort_by_cached_key(|u| Reverse(size(u)));
    let better = |found: &[Option<usize>]| {
        let kept = first
            .iter()
            .zip(found)
            .all(|(a, b)| a.is_none() || b.is_some());
        let count = |all: &[Option<usize>]| all.iter().flatten().count();
        kept && count(found) > count(first)
    };
    let mark = board.mark();
    let mut found = vec![None; requests.len()];
    for unit in &possible {
        tightest(board, requests, unit, &mut found);
    }
    let all = |found: &[Option<usize>]| {
        let mut members = possible.iter().flat_map(|u| &u.members);
        members.all(|m| found[*m].is_some())
    };
    if better(&found) && all(&found) {
        return Some(found);
    }
    board.back_to(mark);
    let wanted: Vec<usize> = possible.iter().flat_map(|u| u.members.clone()).collect();
    if wanted.len() * board.snapshot.hosts.len() <= WIDTH
        && let Some(every) = search(board, requests, &wanted)
    {
        return Some(every);
    }
    if !better(&found) {
        return None;
    }
    for (request, host) in requests.iter().zip(&found) {
        if let (Ok(request), Some(host)) = (request, host) {
            board.take(request, *host);
        }
    }
    Some(found)
}

/// The largest share of the largest Host.
fn dominant(board: &Board<'_>, request: &Request) -> u64 {
    let wanted = request.allocation.resources();
    let hosts = &board.snapshot.hosts;
    let most = |of: fn(&super::snapshot::HostView) -> u64| hosts.iter().map(of).max().unwrap_or(1);
    let share = |wanted: u64, most: u64| wanted.saturating_mul(1000) / most.max(1);
    share(wanted.cpu.0, most(|h| h.allocatable.cpu.0))
        .max(share(wanted.memory.0, most(|h| h.allocatable.memory.0)))
        .max(share(wanted.disk.0, most(|h| h.allocatable.disk.0)))
}

/// Possible Hosts, those with the least left over first.
fn fitting(board: &Board<'_>, request: &Request) -> Vec<usize> {
    let mut hosts: Vec<usize> = (0..board.snapshot.hosts.len())
        .filter(|h| board.check(request, *h).is_ok())
        .collect();
    let left = |h: &usize| {
        let all = board.snapshot.hosts[*h].allocatable;
        let free = board.free(*h);
        let share = |free: u64, all: u64| free.saturating_mul(1000) / all.max(1);
        (
            share(free.memory.0, all.memory.0) + share(free.cpu.0, all.cpu.0),
            *h,
        )
    };
    hosts.sort_by_cached_key(left);
    hosts
}

/// Places a unit as tightly as it goes, or not at all.
fn tightest(
    board: &mut Board<'_>,
    requests: &[Result<Request, Unplaceable>],
    unit: &Unit,
    found: &mut [Option<usize>],
) {
    let mut puts = vec![];
    for member in &unit.members {
        let Ok(request) = &requests[*member] else {
            continue;
        };
        let host = match board.within_quota(request) {
            Ok(()) => fitting(board, request).first().copied(),
            Err(_) => None,
        };
        let Some(host) = host else {
            puts.into_iter().rev().for_each(|put| board.lift(put));
            unit.members.iter().for_each(|m| found[*m] = None);
            return;
        };
        found[*member] = Some(host);
        puts.push(board.take(request, host));
    }
}

/// Depth first over what is placed where. A state is how many of each class are on each Host: in which order they
/// came makes no difference to what can follow.
struct Search<'s, 'b> {
    board: &'s mut Board<'b>,
    requests: &'s [Result<Request, Unplaceable>],
    seen: HashSet<Vec<(usize, usize)>>,
    at: Vec<(usize, usize)>,
    puts: Vec<(usize, usize, Put)>,
}

/// A Host for every one of `wanted`, if there is a way to place them all.
fn search(
    board: &mut Board<'_>,
    requests: &[Result<Request, Unplaceable>],
    wanted: &[usize],
) -> Option<Vec<Option<usize>>> {
    let mut search = Search {
        board,
        requests,
        seen: HashSet::new(),
        at: vec![],
        puts: vec![],
    };
    search.descend(wanted).then(|| {
        let mut found = vec![None; requests.len()];
        for (member, host, _) in search.puts {
            found[member] = Some(host);
        }
        found
    })
}

impl Search<'_, '_> {
    fn descend(&mut self, wanted: &[usize]) -> bool {
        if wanted.is_empty() {
            return true;
        }
        let mut state = self.at.clone();
        state.sort_unstable();
        if self.seen.len() >= STATES || !self.seen.insert(state) {
            return false;
        }
        let mut tried = HashSet::new();
        for (i, member) in wanted.iter().enumerate() {
            let requests = self.requests;
            let Ok(request) = &requests[*member] else {
                return false;
            };
            if !tried.insert(request.class) || self.board.within_quota(request).is_err() {
                continue;
            }
            let rest: Vec<usize> = [&wanted[..i], &wanted[i + 1..]].concat();
            for host in fitting(self.board, request) {
                let put = self.board.take(request, host);
                self.at.push((request.class, host));
                self.puts.push((*member, host, put));
                if self.descend(&rest) {
                    return true;
                }
                self.puts.pop();
                self.at.pop();
                self.board.lift(put);
            }
        }
        false
    }
}
