//! Places a batch. Pure.

use super::board::{Board, Put};
use super::place::Unplaceable;
use super::repack::repack;
use super::request::Request;
use super::resize;
use super::snapshot::{Snapshot, set_uid};
use crate::condition::container_ready;
use jiff::Timestamp;
use skysail_reconcile::Note;
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::container::ContainerPhase;
use skysail_schemas::{Container, ContainerStatus};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is to be done: each Container with its new status.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Containers that get a Host.
    pub bind: Vec<Step>,
    /// Containers that get none, whose condition does not say so yet.
    pub explain: Vec<Step>,
    /// Containers that have a Host and get another size there, or are told why not.
    pub resize: Vec<Step>,
}

/// One status to write.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The Container as it was seen.
    pub container: Arc<Container>,
    /// What its status becomes.
    pub status: ContainerStatus,
}

/// What a waiting Container gets: a Host by its number and why, or why none.
pub type Answer = Result<(usize, String), Unplaceable>;

const SCHEDULED: &str = "Scheduled";

/// Decides. Each binding is counted before the next is chosen.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut board = Board::new(snapshot);
    let requests: Vec<_> = snapshot.waiting.iter().map(|c| board.request(c)).collect();
    let answers = answers(&mut board, &requests);
    let mut plan = Plan::default();
    for ((container, request), answer) in snapshot.waiting.iter().zip(requests).zip(answers) {
        let mut status = container.status.clone().unwrap_or_default();
        let fact = match (request, answer) {
            (Ok(request), Ok((host, message))) => {
                status.host = Some(snapshot.hosts[host].name.clone());
                status.epoch += 1;
                status.phase = ContainerPhase::Starting;
                status.allocation = Some(request.allocation);
                status.image = Some(request.image);
                Fact::yes(SCHEDULED, "Bound", message)
            }
            (Err(no), _) | (_, Err(no)) => Fact::no(SCHEDULED, no.reason, no.message),
        };
        let generation = container.metadata.generation;
        condition::merge(&mut status.conditions, &[fact], generation, now);
        container_ready(&mut status, generation, now);
        let bound = status.host.is_some();
        let step = Step {
            container: container.clone(),
            status,
        };
        if bound {
            plan.bind.push(step);
        } else if container.status.as_ref() != Some(&step.status) {
            plan.explain.push(step);
        }
    }
    plan.resize = resize::plan(&mut board, now);
    plan
}

/// The event of a step: a Host and why, or, where the reason is another than before, why none.
pub fn note(step: &Step) -> Option<Note> {
    let scheduled = |s: &ContainerStatus| {
        let mut conditions = s.conditions.iter();
        conditions.find(|c| c.type_ == SCHEDULED).cloned()
    };
    let now = scheduled(&step.status)?;
    let before = step.container.status.as_ref().and_then(scheduled);
    match step.status.host {
        Some(_) => Some(Note::normal(now.reason, now.message)),
        None if before.is_some_and(|b| b.reason == now.reason) => None,
        None => Some(Note::warning(now.reason, now.message)),
    }
}

/// What each of the requests gets, in their order, on a board that counts what gets a Host.
///
/// The oldest first, each where it is best; again for those that others had to come before. Where that leaves some
/// without a Host that would have had one before the batch, other ways to place the batch are tried ([`repack`]);
/// one is taken that places all that the first did and more.
pub fn answers(board: &mut Board<'_>, requests: &[Result<Request, Unplaceable>]) -> Vec<Answer> {
    let mark = board.mark();
    let units = units(board.snapshot, requests);
    let mut placed: Vec<Placed> = vec![None; requests.len()];
    while in_turn(board, requests, &units, &mut placed) {}
    if units.iter().any(|u| u.waits(requests, &placed)) {
        improve(board, requests, &units, mark, &mut placed);
    }
    let mut why: Vec<Option<Unplaceable>> = vec![None; requests.len()];
    let mut known = BTreeMap::new();
    for unit in &units {
        explain(board, requests, unit, &placed, &mut known, &mut why);
    }
    let mut answers = vec![];
    for (placed, why) in placed.into_iter().zip(why) {
        let none = || Unplaceable::new("NoHostFits", "");
        answers.push(placed.ok_or_else(|| why.unwrap_or_else(none)));
    }
    answers
}

/// Where a request was put, and why there.
type Placed = Option<(usize, String)>;

/// Tries other ways; without a better one the board is left as it was.
fn improve(
    board: &mut Board<'_>,
    requests: &[Result<Request, Unplaceable>],
    units: &[Unit],
    mark: usize,
    placed: &mut [Placed],
) {
    board.back_to(mark);
    // A unit with a member that no Host would take even alone is left out: it is nobody's fault.
    let hopeful = |unit: &&Unit| {
        unit.blocked.is_none()
            && unit.members.iter().all(|m| {
                let request = requests[*m].as_ref().ok();
                request.is_some_and(|r| board.depends_on_others(r) || board.quick(r).is_some())
            })
    };
    let hopeful: Vec<&Unit> = units.iter().filter(hopeful).collect();
    if hopeful.iter().any(|u| u.waits(requests, placed)) {
        let first: Vec<Option<usize>> = placed
            .iter()
            .map(|p| p.as_ref().map(|(host, _)| *host))
            .collect();
        if let Some(better) = repack(board, requests, hopeful, &first) {
            for (placed, host) in placed.iter_mut().zip(better) {
                let name = |h: usize| &board.snapshot.hosts[h].name;
                *placed = host.map(|h| (h, format!("{} leaves room for all that wait", name(h))));
            }
            return;
        }
        board.back_to(mark);
    }
    for (request, placed) in requests.iter().zip(placed) {
        if let (Ok(request), Some((host, _))) = (request, placed) {
            board.take(request, *host);
        }
    }
}

/// Requests that are placed together or not at all.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Unit {
    /// Places in the list of requests.
    pub members: Vec<usize>,
    /// Why it cannot be placed yet, if it cannot.
    pub blocked: Option<Unplaceable>,
}

const GANG: &str = "WaitsForAll";

/// In the order of the oldest member.
fn units(snapshot: &Snapshot, requests: &[Result<Request, Unplaceable>]) -> Vec<Unit> {
    let mut units: Vec<Unit> = vec![];
    let mut gangs: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, container) in snapshot.waiting.iter().enumerate().take(requests.len()) {
        let gang = set_uid(container).filter(|uid| snapshot.gangs.contains_key(*uid));
        let known = gang.and_then(|uid| gangs.get(uid).copied());
        match known {
            Some(unit) => units[unit].members.push(i),
            None => {
                if let Some(uid) = gang {
                    gangs.insert(uid, units.len());
                }
                units.push(Unit {
                    members: vec![i],
                    blocked: None,
                });
            }
        }
    }
    for (uid, unit) in gangs {
        let (gang, unit) = (&snapshot.gangs[uid], &mut units[unit]);
        let there = gang.bound + unit.members.len();
        let broken = unit
            .members
            .iter()
            .find_map(|m| requests[*m].as_ref().err());
        unit.blocked = if there < gang.replicas {
            let message = format!(
                "ContainerSet {} is placed as a whole; {there} of {} exist",
                gang.name, gang.replicas
            );
            Some(Unplaceable::new(GANG, message))
        } else {
            broken.cloned()
        };
    }
    units
}

impl Unit {
    /// Whether it could be placed but is not.
    fn waits(&self, requests: &[Result<Request, Unplaceable>], placed: &[Placed]) -> bool {
        self.blocked.is_none()
            && (self.members.iter()).any(|m| requests[*m].is_ok() && placed[*m].is_none())
    }
}

/// Places every unit that is not, the oldest first. Whether another turn could place more.
fn in_turn(
    board: &mut Board<'_>,
    requests: &[Result<Request, Unplaceable>],
    units: &[Unit],
    placed: &mut [Placed],
) -> bool {
    let (mut progress, mut hope) = (false, false);
    for unit in units.iter().filter(|u| u.blocked.is_none()) {
        let mut puts: Vec<Put> = vec![];
        for member in &unit.members {
            let (Ok(request), None) = (&requests[*member], &placed[*member]) else {
                continue;
            };
            match board.place_quietly(request) {
                Some((put, choice)) => {
                    placed[*member] = Some((choice.index, choice.message));
                    puts.push(put);
                }
                None => hope |= board.depends_on_others(request),
            }
        }
        if unit.members.len() > 1 && unit.members.iter().any(|m| placed[*m].is_none()) {
            puts.drain(..).rev().for_each(|put| board.lift(put));
            unit.members.iter().for_each(|m| placed[*m] = None);
        }
        progress |= !puts.is_empty();
    }
    progress && hope
}

/// Says why the members of a unit that wait do; what is the same for a class of Containers is found out once.
fn explain(
    board: &mut Board<'_>,
    requests: &[Result<Request, Unplaceable>],
    unit: &Unit,
    placed: &[Placed],
    known: &mut BTreeMap<usize, Unplaceable>,
    why: &mut [Option<Unplaceable>],
) {
    if let Some(no) = &unit.blocked {
        unit.members.iter().for_each(|m| why[*m] = Some(no.clone()));
        return;
    }
    if unit.members.len() > 1 {
        if unit.waits(requests, placed) {
            let no = incomplete(board, requests, unit);
            unit.members.iter().for_each(|m| why[*m] = Some(no.clone()));
        }
        return;
    }
    for member in unit.members.iter().filter(|m| placed[**m].is_none()) {
        why[*member] = match &requests[*member] {
            Err(no) => Some(no.clone()),
            Ok(request) => {
                let reason = || board.refused(request);
                Some(known.entry(request.class).or_insert_with(reason).clone())
            }
        };
    }
}

/// Why no member of a gang gets a Host: which of them finds none after the others.
fn incomplete(
    board: &mut Board<'_>,
    requests: &[Result<Request, Unplaceable>],
    unit: &Unit,
) -> Unplaceable {
    let mut puts = vec![];
    let mut failed: Option<(&Request, Unplaceable)> = None;
    let mut missing = 0;
    for request in unit
        .members
        .iter()
        .filter_map(|m| requests[*m].as_ref().ok())
    {
        match board.place_quietly(request) {
            Some((put, _)) => puts.push(put),
            None => {
                missing += 1;
                failed = failed.or_else(|| Some((request, board.refused(request))));
            }
        }
    }
    puts.into_iter().rev().for_each(|put| board.lift(put));
    let (gang, text) = match failed {
        Some((request, no)) => {
            let gang = set_uid(&request.container).and_then(|u| board.snapshot.gangs.get(u));
            (gang, format!("{}: {}", request.name(), no.message))
        }
        None => (None, String::new()),
    };
    let message = format!(
        "ContainerSet {} is placed as a whole; {missing} of {} that wait find no room: {text}",
        gang.map_or("", |g| &g.name),
        unit.members.len(),
    );
    Unplaceable::new(GANG, message)
}
