//! What must move: away from hosts that go, and to where its own rules hold again. Pure.

use super::scene::{Move, Scene};
use crate::host_pool::LEAVING;
use crate::placement::filter::Refusal;
use crate::placement::request::Request;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use skysail_schemas::rebalance_policy::{RebalanceStrategy, SPOT_NOTICE};
use skysail_schemas::{Container, Host};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a host is to be empty; the most urgent first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Going {
    /// Its cloud takes it back at this time.
    Taken(Timestamp),
    Deleted,
    Cordoned,
}

impl Going {
    fn of(host: &Host) -> Option<Self> {
        let notice = host.annotations().get(SPOT_NOTICE);
        if let Some(at) = notice.and_then(|t| t.parse().ok()) {
            return Some(Self::Taken(at));
        }
        if host.meta().deletion_timestamp.is_some() {
            return Some(Self::Deleted);
        }
        // What a pool cordoned is empty, or is opened again.
        let by_pool = host.annotations().contains_key(LEAVING);
        (host.spec.unschedulable && !by_pool).then_some(Self::Cordoned)
    }

    fn words(&self, host: &str) -> String {
        match self {
            Self::Taken(at) => format!("{host} is taken back by its cloud at {at:.0}"),
            Self::Deleted => format!("{host} is being deleted"),
            Self::Cordoned => format!("{host} is cordoned"),
        }
    }
}

/// Everything away from hosts that go; what is quickly sent first.
pub fn evacuate(scene: &mut Scene<'_>) -> Vec<Move> {
    let going = scene.objects.hosts.iter();
    let mut going: BTreeMap<(Going, String), usize> = going
        .filter_map(|h| {
            let number = scene.board.snapshot.host(&h.name_any())?;
            let why = Going::of(h)?;
            scene
                .is_in_scope(number)
                .then(|| ((why, h.name_any()), number))
        })
        .collect();
    let doomed: Vec<usize> = going.values().copied().collect();
    going.retain(|_, host| !scene.here[*host].is_empty());
    let mut moves = vec![];
    for ((why, name), host) in going {
        let mut here = scene.here[host].clone();
        here.retain(|c| scene.may_move(c));
        here.sort_by_cached_key(|c| scene.cost(c).bytes);
        let blocked = blocked(scene, host);
        for container in here {
            let used = scene.uses(&container);
            let stays = |h: usize| !doomed.contains(&h);
            let to = match &blocked {
                Some(no) => Err(no.clone()),
                None => scene
                    .shift(&container, host, |s, h| stays(h) && s.stays_cool(h, &used))
                    .or_else(|_| scene.shift(&container, host, |_, h| stays(h)))
                    .map(|tried| scene.host(tried.to).name.clone()),
            };
            moves.push(Move {
                strategy: RebalanceStrategy::Evacuate,
                cost: scene.cost(&container),
                container,
                from: name.clone(),
                to,
                reason: why.words(&name),
                saving: None,
            });
        }
    }
    moves
}

/// Why nothing can leave a host: its agent does the sending.
fn blocked(scene: &Scene<'_>, host: usize) -> Option<String> {
    let view = scene.host(host);
    let why = view.unready.as_ref()?;
    let deleting = why == "it is being deleted";
    (!deleting).then(|| {
        format!(
            "{} is not ready ({why}): a container is sent by the agent that has it",
            view.name
        )
    })
}

/// Everything whose own rules do not hold where it is.
pub fn restore(scene: &mut Scene<'_>) -> Vec<Move> {
    let mut moves = vec![];
    for host in (0..scene.here.len())
        .filter(|h| scene.is_in_scope(*h))
        .collect::<Vec<_>>()
    {
        let mut here = scene.here[host].clone();
        here.retain(|c| has_rules(c) && scene.may_move(c));
        for container in here {
            let Some(rule) = broken(scene, &container, host) else {
                continue;
            };
            let used = scene.uses(&container);
            let to = scene
                .shift(&container, host, |s, h| s.stays_cool(h, &used))
                .or_else(|_| scene.shift(&container, host, |_, _| true))
                .map(|tried| scene.host(tried.to).name.clone());
            let from = scene.host(host).name.clone();
            moves.push(Move {
                strategy: RebalanceStrategy::RestoreRules,
                cost: scene.cost(&container),
                reason: format!("on {from} its {rule} no longer holds"),
                container,
                from,
                to,
                saving: None,
            });
        }
    }
    moves
}

fn has_rules(container: &Container) -> bool {
    container.spec.placement != Default::default()
}

/// The rule that does not hold for a Container where it is.
fn broken(scene: &mut Scene<'_>, container: &Arc<Container>, host: usize) -> Option<String> {
    let namespace = container.namespace().unwrap_or_default();
    let put = scene.board.find(&namespace, &container.name_any())?;
    scene.board.lift(put);
    let request = Request::again(&mut scene.board, container);
    let refusals = scene.board.refusals(&request, host);
    scene.board.take(&request, host);
    refusals.iter().find_map(rule)
}

/// The field that a refusal comes from; those that say something of the host's state are not rules.
fn rule(refusal: &Refusal) -> Option<String> {
    let at = |field: &str, i: &usize| format!("placement.{field}[{i}]");
    Some(match refusal {
        Refusal::OtherHost => "placement.host".into(),
        Refusal::OtherCloud => "placement.clouds".into(),
        Refusal::OtherRegion => "placement.regions".into(),
        Refusal::OtherZone => "placement.zones".into(),
        Refusal::Selector => "placement.hostSelector".into(),
        Refusal::Price(_) => "placement.maxPricePerHour".into(),
        Refusal::Taint(key) => format!("placement.tolerations (taint {key})"),
        Refusal::Near(i) => at("affinity.required", i),
        Refusal::Apart(i) => at("antiAffinity.required", i),
        Refusal::Skew(i) => at("spread", i),
        _ => return None,
    })
}
