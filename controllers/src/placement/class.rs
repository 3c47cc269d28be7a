//! Containers with the same wishes: what is the same for all of them is looked at once. Pure.

use super::board::Board;
use super::filter::{Refusal, fixed};
use kube::ResourceExt;
use skysail_schemas::Container;
use skysail_schemas::host::Resources;
use skysail_schemas::instance_type::Profile;
use skysail_schemas::placement::{Strategy, Topology};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Containers that a selector picks, counted over a topology.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    /// The number of the [`Group`](super::labels::Group).
    pub group: usize,
    pub topology: Topology,
}

/// A rule of `spec.placement.spread`.
#[derive(Debug, Clone)]
pub(super) struct SpreadTerm {
    pub term: Term,
    pub max_skew: u32,
    /// Domains with a Host that the fixed rules allow and that is ready or expected soon: otherwise the first Host
    /// to come up would get them all. Sorted by name.
    pub domains: Vec<u32>,
}

/// Containers with the same wishes.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub namespace: Arc<str>,
    pub labels: BTreeMap<String, String>,
    pub wanted: Resources,
    pub profile: Option<usize>,
    pub strategy: Strategy,
    /// Hosts that the fixed rules allow and that are ready, in the order of names, each with whether it lacks the image.
    pub candidates: Vec<(u32, bool)>,
    /// Why the others are refused, and how many for each reason.
    pub refused: BTreeMap<Refusal, usize>,
    pub spread: Vec<SpreadTerm>,
    /// Required affinity; the flag: a first one may stand anywhere, since it is of the kind that it wants to be near.
    pub near: Vec<(Term, bool)>,
    /// Required anti-affinity.
    pub apart: Vec<Term>,
    /// Preferred affinity, and anti-affinity with `false`.
    pub prefer: Vec<(Term, u32, bool)>,
    /// Groups in which such a Container counts.
    pub feeds: Vec<usize>,
    /// Rules of others that keep it away.
    pub repelled: Vec<usize>,
    /// Its own rules that keep others away.
    pub carries: Vec<usize>,
}

impl Class {
    /// The number of the Container's class on the board.
    pub fn number(
        board: &mut Board<'_>,
        container: &Arc<Container>,
        wanted: Resources,
        profile: Option<Profile>,
        digest: &str,
    ) -> usize {
        let key = serde_json::to_string(&(
            container.metadata.namespace.as_deref(),
            container.labels(),
            &container.spec.placement,
            wanted,
            profile,
            digest,
        ))
        .unwrap_or_default();
        if let Some(known) = board.classes.find(&key) {
            return known;
        }
        let class = Self::new(board, container, wanted, profile, digest);
        board.classes.insert(key, class)
    }

    fn new(
        board: &mut Board<'_>,
        container: &Arc<Container>,
        wanted: Resources,
        profile: Option<Profile>,
        digest: &str,
    ) -> Self {
        let namespace = board.namespace(container.metadata.namespace.as_deref());
        let rules = &container.spec.placement;
        let carries = board.carried(container, &namespace);
        let hosts = &board.snapshot.hosts;
        let fixed: Vec<Result<(), Refusal>> = hosts.iter().map(|h| fixed(rules, h)).collect();
        let spread: Vec<SpreadTerm> = rules
            .spread
            .iter()
            .map(|s| SpreadTerm {
                term: board.term(&namespace, s.topology, &s.selector),
                max_skew: s.max_skew,
                domains: domains(board, &fixed, s.topology),
            })
            .collect();
        let mut term = |topology, selector| board.term(&namespace, topology, selector);
        let near: Vec<Term> = rules
            .affinity
            .required
            .iter()
            .map(|t| term(t.topology, &t.selector))
            .collect();
        let apart = rules
            .anti_affinity
            .required
            .iter()
            .map(|t| term(t.topology, &t.selector))
            .collect();
        let liked = rules.affinity.preferred.iter().map(|p| (p, true));
        let disliked = rules.anti_affinity.preferred.iter().map(|p| (p, false));
        let prefer = liked
            .chain(disliked)
            .map(|(p, like)| (term(p.topology, &p.selector), p.weight, like))
            .collect();
        let labels = container.labels().clone();
        let in_namespace = |g: &super::labels::Group| g.namespace == *namespace && g.picks(&labels);
        let feeds = (0..board.groups.all.len())
            .filter(|g| in_namespace(&board.groups.all[*g]))
            .collect();
        let repelled = (0..board.repulsions.all.len())
            .filter(|r| in_namespace(&board.repulsions.all[*r].group))
            .collect();
        let near = near
            .into_iter()
            .map(|t| (t, board.groups.all[t.group].picks(&labels)))
            .collect();
        let (candidates, refused) = candidates(board, fixed, digest);
        Self {
            namespace,
            labels,
            wanted,
            profile: profile.map(|p| p as usize),
            strategy: rules.strategy,
            candidates,
            refused,
            spread,
            near,
            apart,
            prefer,
            feeds,
            repelled,
            carries,
        }
    }
}

fn candidates(
    board: &Board<'_>,
    fixed: Vec<Result<(), Refusal>>,
    digest: &str,
) -> (Vec<(u32, bool)>, BTreeMap<Refusal, usize>) {
    let mut candidates = vec![];
    let mut refused: BTreeMap<Refusal, usize> = BTreeMap::new();
    for ((number, host), fixed) in (0u32..).zip(&board.snapshot.hosts).zip(fixed) {
        let ready = match &host.unready {
            Some(reason) => Err(Refusal::NotReady(reason.clone())),
            None => Ok(()),
        };
        match fixed.and(ready) {
            Ok(()) => candidates.push((number, !host.images.contains(digest))),
            Err(refusal) => *refused.entry(refusal).or_default() += 1,
        }
    }
    (candidates, refused)
}

fn domains(board: &Board<'_>, fixed: &[Result<(), Refusal>], topology: Topology) -> Vec<u32> {
    let counts = board.snapshot.hosts.iter().zip(fixed);
    let counts = counts.filter(|(h, fixed)| fixed.is_ok() && (h.unready.is_none() || h.coming));
    let names = &board.snapshot.domains[topology as usize];
    let mut seen = vec![false; names.len()];
    let mut domains: Vec<u32> = vec![];
    for (host, _) in counts {
        let domain = host.domains[topology as usize];
        if !std::mem::replace(&mut seen[domain as usize], true) {
            domains.push(domain);
        }
    }
    domains.sort_by_key(|d| &names[*d as usize]);
    domains
}
