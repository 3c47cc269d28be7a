//! A Host for one Container, or why there is none. Pure.

use super::board::{Board, Put, Slot};
use super::class::Class;
use super::explain::{Tally, plural};
use super::filter::at_all;
use super::request::Request;
use super::score::{STEP, Score};
use skysail_schemas::placement::Strategy;

/// Why a Container has no Host: the condition's reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplaceable {
    /// A CamelCase word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Unplaceable {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}

/// A choice with its explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Where the Host is in [`Snapshot::hosts`](super::snapshot::Snapshot::hosts).
    pub index: usize,
    /// Why this one.
    pub message: String,
}

impl Board<'_> {
    /// Puts the Container on the best Host.
    ///
    /// # Errors
    /// When its tenant has no more to spend or no Host is possible; why each is not.
    pub fn place(&mut self, request: &Request) -> Result<(Put, Choice), Unplaceable> {
        self.within_quota(request)?;
        let choice = self.best(request)?;
        let put = self.take(request, choice.index);
        Ok((put, choice))
    }

    /// The same without saying why not.
    pub(super) fn place_quietly(&mut self, request: &Request) -> Option<(Put, Choice)> {
        self.within_quota(request).ok()?;
        let class = &self.classes.all[request.class];
        let mut tally = Tally::new(class, self.slots.len());
        let index = self.scan(class, |_| true, &mut tally)?.host as usize;
        let message = self.chosen(index, &tally);
        let put = self.take(request, index);
        Some((put, Choice { index, message }))
    }

    /// Why it gets no Host.
    pub(super) fn refused(&self, request: &Request) -> Unplaceable {
        let best = || self.best(request).map(drop);
        let no = self.within_quota(request).and_then(|()| best());
        no.err().unwrap_or_else(|| {
            Unplaceable::new("NoHostFits", "others that wait go first; it is tried again")
        })
    }

    /// Whether a placement of others can make one possible for it.
    pub(super) fn depends_on_others(&self, request: &Request) -> bool {
        let class = &self.classes.all[request.class];
        !class.near.is_empty() || !class.spread.is_empty()
    }

    /// The best Host.
    ///
    /// # Errors
    /// When none of them is possible; why each is not.
    pub fn best(&self, request: &Request) -> Result<Choice, Unplaceable> {
        let class = &self.classes.all[request.class];
        self.decide(request, |_| true, Tally::new(class, self.slots.len()))
    }

    /// The best of the Hosts that `among` picks; the others are not spoken of.
    ///
    /// # Errors
    /// When none of them is possible; why each is not.
    pub fn best_among(
        &self,
        request: &Request,
        among: impl Fn(usize) -> bool,
    ) -> Result<Choice, Unplaceable> {
        let mut tally = Tally::default();
        let rules = &request.container.spec.placement;
        for (index, host) in self.snapshot.hosts.iter().enumerate() {
            if among(index) {
                tally.hosts += 1;
                tally.add_fixed(at_all(rules, host));
            }
        }
        self.decide(request, among, tally)
    }

    fn decide(
        &self,
        request: &Request,
        among: impl Fn(usize) -> bool,
        mut tally: Tally,
    ) -> Result<Choice, Unplaceable> {
        let class = &self.classes.all[request.class];
        match self.scan(class, &among, &mut tally) {
            Some(score) => {
                let index = score.host as usize;
                let message = self.chosen(index, &tally);
                Ok(Choice { index, message })
            }
            None => Err(self.unplaceable(request, &tally, among)),
        }
    }

    /// The number of the best Host without an explanation.
    pub fn quick(&self, request: &Request) -> Option<usize> {
        let class = &self.classes.all[request.class];
        let score = self.scan(class, |_| true, &mut Tally::default());
        score.map(|s| s.host as usize)
    }

    /// How good a Host is for it, whether or not it is possible.
    pub fn score(&self, request: &Request, host: usize) -> Score {
        let class = &self.classes.all[request.class];
        let view = &self.snapshot.hosts[host];
        let fetch = !view.images.contains(&request.image.digest);
        let number = u32::try_from(host).unwrap_or(u32::MAX);
        self.rate(
            class,
            (number, fetch),
            &self.slots[host],
            &self.least(class),
        )
    }

    pub(super) fn within_quota(&self, request: &Request) -> Result<(), Unplaceable> {
        let namespace = &self.classes.all[request.class].namespace;
        let Some(tenant) = self.snapshot.tenants.get(&**namespace) else {
            return Ok(());
        };
        let quota = tenant.quota.as_ref().map_err(|e| {
            let message = format!(
                "Namespace {namespace}: annotation {e}; mend or remove it, the Container then goes on by itself"
            );
            Unplaceable::new("QuotaUnreadable", message)
        })?;
        let taken = self.tenants.get(namespace).copied().unwrap_or_default();
        let wanted = request.allocation.resources();
        quota
            .allows(taken.resources, taken.containers, wanted)
            .map_err(|e| Unplaceable::new("QuotaExceeded", format!("Namespace {namespace}: {e}")))
    }

    fn scan(
        &self,
        class: &Class,
        among: impl Fn(usize) -> bool,
        tally: &mut Tally,
    ) -> Option<Score> {
        let least = self.least(class);
        let mut best: Option<Score> = None;
        for candidate in &class.candidates {
            let index = candidate.0 as usize;
            if !among(index) {
                continue;
            }
            let slot = &self.slots[index];
            let mut possible = true;
            self.moving(class, slot, &least, &mut |refusal| {
                tally.add(refusal, index);
                possible = false;
                false
            });
            if !possible {
                continue;
            }
            tally.possible += 1;
            let score = self.rate(class, *candidate, slot, &least);
            if best.is_none_or(|b| score < b) {
                best = Some(score);
            }
        }
        best
    }

    fn rate(&self, class: &Class, (host, fetch): (u32, bool), slot: &Slot, least: &[u32]) -> Score {
        let wanted = class.wanted;
        let count = |term: &super::class::Term| {
            let counts = self.groups.all[term.group].counts(term.topology);
            counts[slot.domains[term.topology as usize] as usize]
        };
        let skews = class.spread.iter().zip(least);
        let cpu = slot.used.cpu.saturating_add(wanted.cpu).0 as f64 * slot.per_cpu;
        let memory = slot.used.memory.saturating_add(wanted.memory).0 as f64 * slot.per_memory;
        let permille = cpu.max(memory) as u32;
        let fine_load = match class.strategy {
            Strategy::Spread => permille,
            Strategy::Pack => 1000u32.saturating_sub(permille),
        };
        Score {
            skew: skews
                .map(|(s, least)| (count(&s.term) + 1).saturating_sub(*least))
                .sum(),
            unmet: class
                .prefer
                .iter()
                .filter(|(term, _, like)| (count(term) > 0) != *like)
                .map(|(_, weight, _)| *weight)
                .sum(),
            rivals: class.profile.map_or(0, |p| slot.profiles[p].into()),
            load: fine_load / STEP,
            price: slot.price,
            fetch,
            fine_load,
            host,
        }
    }

    fn chosen(&self, index: usize, tally: &Tally) -> String {
        let chosen = &self.snapshot.hosts[index];
        let others = tally.text(|refusal, _| self.group(refusal, None));
        let others = if others.is_empty() {
            others
        } else {
            format!("; {others}")
        };
        format!(
            "{} is the best of {} possible of {}{others}",
            chosen.name,
            tally.possible,
            plural(tally.hosts)
        )
    }
}
