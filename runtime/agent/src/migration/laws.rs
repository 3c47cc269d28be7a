//! Exactly one runner, never lost, always finished: whatever is killed, cut or lost, in whatever order.

use super::machine::{Source, SourceEvent, Target, TargetEvent, Why};
use proptest::prelude::*;

/// Two agents, the API and the wire between them, as far as the two machines can tell.
#[derive(Debug)]
struct World {
    /// The Container's owner, and the version of the object.
    owner_is_target: bool,
    version: u32,
    /// Commits that were sent and have not arrived: the version that each names.
    in_flight: Vec<u32>,
    /// The Migration is finished; whether well.
    finished: Option<bool>,
    cancel: bool,
    api: bool,
    link: bool,
    said_prepared: bool,
    said_go: bool,
    confirmed: bool,
    source: Agent<Source>,
    target: Agent<Target>,
    runs_on_source: bool,
    runs_on_target: bool,
    data_on_source: bool,
    data_on_target: bool,
}

/// What is on an agent's disk, and whether the agent lives.
#[derive(Debug)]
struct Agent<S> {
    disk: S,
    lives: bool,
}

fn why() -> Why {
    Why::failed("X", "")
}

impl World {
    fn new() -> Self {
        Self {
            owner_is_target: false,
            version: 1,
            in_flight: vec![],
            finished: None,
            cancel: false,
            api: true,
            link: false,
            said_prepared: false,
            said_go: false,
            confirmed: false,
            source: Agent {
                disk: Source::Copying,
                lives: true,
            },
            target: Agent {
                disk: Target::Over,
                lives: true,
            },
            runs_on_source: true,
            runs_on_target: false,
            data_on_source: true,
            data_on_target: false,
        }
    }

    fn cut(&mut self) {
        (self.link, self.said_prepared, self.said_go) = (false, false, false);
    }

    fn arrive(&mut self, named: u32) -> bool {
        if named != self.version {
            return false;
        }
        self.owner_is_target = true;
        self.version += 1;
        true
    }

    /// What the source does now, and what comes of it; `luck` decides what could go either way.
    fn source_effect(&mut self, luck: u8) -> Option<SourceEvent> {
        use SourceEvent as E;
        match self.source.disk {
            Source::Copying => {
                if self.cancel || luck == 7 {
                    return Some(E::Failed(why()));
                }
                if !self.link && self.target.lives && self.target.disk == Target::Over {
                    self.link = true;
                    self.target.disk = Target::Receiving;
                    self.data_on_target = true;
                }
                self.link.then_some(E::Done)
            }
            Source::Freezing => {
                self.runs_on_source = false;
                Some(if luck == 7 { E::Failed(why()) } else { E::Done })
            }
            Source::Sending if !self.link || self.cancel => Some(E::Failed(why())),
            Source::Sending => self.said_prepared.then_some(E::Done),
            Source::Committing { .. } => Some(self.commit(luck)),
            Source::Asking if !self.api => None,
            Source::Asking if self.owner_is_target => Some(E::Theirs),
            Source::Asking => Some(E::Ours {
                again: self.link && self.said_prepared && !self.cancel && luck < 4,
                why: why(),
            }),
            Source::Fencing(_) if !self.api => Some(E::Unknown),
            Source::Fencing(_) if luck == 7 => Some(E::Raced),
            Source::Fencing(_) if self.owner_is_target => Some(E::Raced),
            Source::Fencing(_) => {
                self.version += 1;
                Some(if luck == 6 { E::Unknown } else { E::Done })
            }
            Source::Undoing(_) => {
                self.runs_on_source = true;
                Some(E::Done)
            }
            Source::Leaving => {
                self.said_go |= self.link;
                self.confirmed.then_some(E::Done)
            }
            Source::Clearing => {
                self.data_on_source = false;
                Some(E::Done)
            }
            Source::Telling(_) if !self.api => None,
            Source::Telling(ref end) => {
                self.finished = Some(end.is_none());
                Some(E::Done)
            }
            Source::Over => None,
        }
    }

    fn commit(&mut self, luck: u8) -> SourceEvent {
        use SourceEvent as E;
        if self.cancel || !self.api || !self.link {
            return E::Failed(why());
        }
        match luck {
            0..=3 => {
                let version = self.version;
                assert!(self.arrive(version));
                E::Done
            }
            // Written, but the answer is lost.
            4 => {
                let version = self.version;
                assert!(self.arrive(version));
                E::Unknown
            }
            5 | 6 => {
                self.in_flight.push(self.version);
                E::Unknown
            }
            _ => E::Unknown,
        }
    }

    fn target_effect(&mut self, luck: u8) -> Option<TargetEvent> {
        use TargetEvent as E;
        match self.target.disk {
            Target::Receiving if !self.link || luck == 7 => {
                self.cut();
                Some(E::Failed)
            }
            Target::Receiving => {
                (self.source.lives && self.source.disk == Source::Sending).then_some(E::Done)
            }
            Target::Prepared => {
                self.said_prepared |= self.link;
                let told = self.said_go || (self.api && self.owner_is_target);
                let over = self.api && self.finished.is_some() && !self.owner_is_target;
                match (told, over) {
                    (true, _) => Some(E::Owner),
                    (false, true) => Some(E::Abandoned),
                    (false, false) => None,
                }
            }
            Target::Starting => {
                self.runs_on_target = true;
                self.confirmed = true;
                Some(E::Done)
            }
            Target::Discarding => {
                self.data_on_target = false;
                Some(E::Done)
            }
            Target::Over => None,
        }
    }

    /// One step of the source; it may be killed before the new state is on its disk.
    fn source_step(&mut self, luck: u8, killed: bool) {
        if !self.source.lives {
            return;
        }
        if let Some(event) = self.source_effect(luck)
            && !killed
        {
            self.source.disk = self.source.disk.clone().next(event);
            // Who gives up closes the connection.
            if matches!(
                self.source.disk,
                Source::Undoing(_) | Source::Fencing(_) | Source::Telling(Some(_))
            ) {
                self.cut();
            }
        }
        if killed {
            self.kill_source();
        }
    }

    fn target_step(&mut self, luck: u8, killed: bool) {
        if !self.target.lives {
            return;
        }
        if let Some(event) = self.target_effect(luck)
            && !killed
        {
            self.target.disk = self.target.disk.next(event);
        }
        if killed {
            self.kill_target();
        }
    }

    fn kill_source(&mut self) {
        self.source.lives = false;
        self.cut();
    }

    fn kill_target(&mut self) {
        self.target.lives = false;
        self.cut();
    }

    fn start_again(&mut self) {
        if !self.source.lives {
            self.source.lives = true;
            self.source.disk = self.source.disk.clone().next(SourceEvent::Restarted);
        }
        if !self.target.lives {
            self.target.lives = true;
            self.target.disk = self.target.disk.next(TargetEvent::Restarted);
        }
    }

    fn act(&mut self, action: u8, luck: u8) {
        match action {
            0..=7 => self.source_step(luck, false),
            8..=15 => self.target_step(luck, false),
            16 => self.source_step(luck, true),
            17 => self.target_step(luck, true),
            18 => self.kill_source(),
            19 => self.kill_target(),
            20 | 21 => self.start_again(),
            22 => self.cut(),
            23 => self.api = !self.api,
            24 => self.cancel = true,
            25 => self.version += 1,
            _ => {
                if !self.in_flight.is_empty() {
                    let at = usize::from(luck) % self.in_flight.len();
                    let named = self.in_flight.remove(at);
                    self.arrive(named);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        assert!(!(self.runs_on_source && self.runs_on_target), "{self:?}");
        assert!(!self.runs_on_target || self.owner_is_target, "{self:?}");
        assert!(!self.runs_on_source || !self.owner_is_target, "{self:?}");
        assert!(self.data_on_source || self.data_on_target, "{self:?}");
        let whole = self.data_on_target && self.target.disk != Target::Receiving;
        assert!(self.data_on_source || whole, "{self:?}");
    }

    /// Nothing goes wrong any more.
    fn settle(&mut self) {
        self.api = true;
        while let Some(named) = self.in_flight.pop() {
            self.arrive(named);
            self.check();
        }
        for _ in 0..40 {
            self.start_again();
            self.source_step(0, false);
            self.check();
            self.target_step(0, false);
            self.check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn whatever_happens_one_host_runs_it_nothing_is_lost_and_it_ends(
        actions in proptest::collection::vec((0_u8..28, 0_u8..8), 0..80)
    ) {
        let mut world = World::new();
        for (action, luck) in actions {
            world.act(action, luck);
        }
        world.settle();
        prop_assert_eq!(&world.source.disk, &Source::Over, "{:?}", world);
        prop_assert_eq!(world.target.disk, Target::Over, "{:?}", world);
        prop_assert!(world.runs_on_source != world.runs_on_target, "{:?}", world);
        prop_assert_eq!(world.runs_on_target, world.owner_is_target);
        prop_assert_eq!(world.finished, Some(world.owner_is_target));
        // Nothing is left on the other side.
        prop_assert_eq!(world.data_on_source, !world.owner_is_target);
        prop_assert_eq!(world.data_on_target, world.owner_is_target);
    }
}

#[test]
fn undisturbed_it_moves() {
    let mut world = World::new();
    world.settle();
    assert!(
        world.runs_on_target && world.finished == Some(true),
        "{world:?}"
    );
}

#[test]
fn a_commit_that_was_sent_before_the_source_gave_up_does_not_arrive_afterwards() {
    let mut world = World::new();
    while !matches!(world.source.disk, Source::Committing { .. }) {
        world.source_step(0, false);
        world.target_step(0, false);
    }
    world.source_step(5, false);
    assert_eq!(
        (&world.source.disk, world.in_flight.len()),
        (&Source::Asking, 1)
    );
    world.cut();
    world.source_step(0, false);
    world.source_step(0, false);
    world.source_step(0, false);
    assert!(world.runs_on_source);
    let named = world.in_flight.remove(0);
    assert!(!world.arrive(named), "fenced");
    world.settle();
    assert!(world.runs_on_source && !world.runs_on_target, "{world:?}");
}

/// Clocks of hosts differ, jump, and stand still while a process is stopped: so nothing is decided by them.
#[test]
fn what_is_decided_depends_on_no_clock() {
    let machine = include_str!("machine.rs");
    for word in [
        "Instant",
        "Timestamp",
        "SystemTime",
        "Duration",
        "async",
        "frozen_at",
    ] {
        assert!(!machine.contains(word), "machine.rs has {word}");
    }
}
