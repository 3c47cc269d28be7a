//! What a drain does next. Pure: what is there comes in, what to make and what to wait for comes out.

use kube::ResourceExt as _;
use skysail_schemas::condition::{READY, is_true};
use skysail_schemas::migration::{MigrationMode, MigrationPhase, MigrationSpec};
use skysail_schemas::{Container, ContainerSet, Migration};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Annotation of a ContainerSet: how many of its Containers may be away at once; 1 where absent.
pub const BUDGET: &str = "skysail.dev/max-unavailable";
/// Label of the Migrations that a drain makes: the host that is drained.
pub const DRAIN_LABEL: &str = "skysail.dev/drains";

/// What is there.
#[derive(Debug, Default)]
pub struct World {
    /// Every Container.
    pub containers: Vec<Arc<Container>>,
    /// Every Migration.
    pub migrations: Vec<Arc<Migration>>,
    /// Every ContainerSet.
    pub sets: Vec<Arc<ContainerSet>>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The host.
    pub host: String,
    /// Live, cold, or live where possible.
    pub mode: MigrationMode,
    /// Moves at once, at the most.
    pub at_once: usize,
}

/// What comes next.
#[derive(Debug, Default, PartialEq)]
pub struct Next {
    /// Migrations to make.
    pub make: Vec<Migration>,
    /// Containers that are on their way, with their Migration's phase.
    pub moving: Vec<(String, MigrationPhase)>,
    /// Containers that wait, and why.
    pub waiting: Vec<(String, String)>,
    /// Containers whose move was given up, and why.
    pub failed: Vec<(String, String)>,
}

impl Next {
    /// Whether nothing is on the host any more.
    pub fn is_empty_host(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing can be done any more, although something is still there.
    pub fn is_stuck(&self) -> bool {
        self.make.is_empty() && self.moving.is_empty() && !self.failed.is_empty()
    }
}

/// Decides.
pub fn next(wish: &Wish, world: &World) -> Next {
    let mut next = Next::default();
    let on_host = |c: &&Arc<Container>| {
        let status = c.status.as_ref();
        status.and_then(|s| s.host.as_deref()) == Some(wish.host.as_str())
    };
    let mut here: Vec<&Arc<Container>> = world.containers.iter().filter(on_host).collect();
    here.sort_by_key(|c| (c.namespace(), c.name_any()));
    let mut away = away(world);
    let mut ready_to_go = vec![];
    for container in here {
        let name = full(container);
        match latest(wish, world, container) {
            _ if container.metadata.deletion_timestamp.is_some() => {
                next.waiting.push((name, "it is being deleted".to_owned()));
            }
            Some(m) if !phase(m).is_finished() => next.moving.push((name, phase(m))),
            Some(m) if phase(m) != MigrationPhase::Succeeded && ours(wish, m, container) => {
                next.failed.push((name, why(m)));
            }
            _ => ready_to_go.push(container),
        }
    }
    for container in ready_to_go {
        let name = full(container);
        if next.moving.len() + next.make.len() >= wish.at_once {
            let text = format!("{} are moved at once (--at-once)", wish.at_once);
            next.waiting.push((name, text));
            continue;
        }
        if let Some(uid) = set_of(container) {
            let budget = budget(world, uid);
            let away = away.entry(uid.to_owned()).or_default();
            // One that is not ready is away already: moving it costs the set nothing.
            let cost = usize::from(is_ready(container));
            if *away + cost > budget {
                let text = format!(
                    "its set allows {budget} to be away at once ({BUDGET}), and {away} {} now",
                    if *away == 1 { "is" } else { "are" }
                );
                next.waiting.push((name, text));
                continue;
            }
            *away += cost;
        }
        next.make.push(migration(wish, container));
    }
    next
}

fn full(container: &Container) -> String {
    format!(
        "{}/{}",
        container.namespace().unwrap_or_default(),
        container.name_any()
    )
}

fn phase(migration: &Migration) -> MigrationPhase {
    migration
        .status
        .as_ref()
        .map(|s| s.phase)
        .unwrap_or_default()
}

fn is_ready(container: &Container) -> bool {
    let status = container.status.as_ref();
    status.is_some_and(|s| is_true(&s.conditions, READY))
}

fn set_of(container: &Container) -> Option<&str> {
    let mut owners = container.owner_references().iter();
    let set = owners.find(|o| o.kind == "ContainerSet")?;
    Some(&set.uid)
}

fn budget(world: &World, uid: &str) -> usize {
    let set = world.sets.iter().find(|s| s.uid().as_deref() == Some(uid));
    let text = set.and_then(|s| s.annotations().get(BUDGET));
    text.and_then(|t| t.parse().ok()).unwrap_or(1)
}

/// By set: its Containers that are not ready, or on the move.
fn away(world: &World) -> BTreeMap<String, usize> {
    let mut away: BTreeMap<String, usize> = BTreeMap::new();
    for container in &world.containers {
        let Some(uid) = set_of(container) else {
            continue;
        };
        let moves = world
            .migrations
            .iter()
            .any(|m| is_of(m, container) && !phase(m).is_finished());
        if moves || !is_ready(container) {
            *away.entry(uid.to_owned()).or_default() += 1;
        }
    }
    away
}

fn is_of(migration: &Migration, container: &Container) -> bool {
    migration.namespace() == container.namespace()
        && migration.spec.container == container.name_any()
}

/// The Container's Migration that matters: one under way, whoever made it, else this drain's own.
fn latest<'a>(wish: &Wish, world: &'a World, container: &Container) -> Option<&'a Migration> {
    let of = || world.migrations.iter().filter(|m| is_of(m, container));
    let active = of().find(|m| !phase(m).is_finished());
    let own = || of().find(|m| ours(wish, m, container));
    active.or_else(own).map(|m| &**m)
}

/// Whether it is the Migration that this drain made for the Container as it is now.
fn ours(wish: &Wish, migration: &Migration, container: &Container) -> bool {
    migration.name_any() == name(wish, container)
}

/// The same for the same Container at the same place: a drain that is begun again makes nothing twice. An epoch
/// belongs to one placement, so one that comes back to this host is moved anew.
fn name(wish: &Wish, container: &Container) -> String {
    let epoch = container.status.as_ref().map_or(0, |s| s.epoch);
    let mode = match wish.mode {
        MigrationMode::Live => "live",
        MigrationMode::Cold => "cold",
        MigrationMode::LiveElseCold => "drain",
    };
    let mut base = container.name_any();
    base.truncate(40);
    format!("{}-{mode}-{epoch}", base.trim_end_matches('-'))
}

fn migration(wish: &Wish, container: &Container) -> Migration {
    let spec = MigrationSpec {
        container: container.name_any(),
        mode: wish.mode,
        ..MigrationSpec::default()
    };
    let mut made = Migration::new(&name(wish, container), spec);
    made.metadata.namespace = container.namespace();
    made.metadata.labels = Some([(DRAIN_LABEL.to_owned(), wish.host.clone())].into());
    made
}

/// Why a Migration was given up.
fn why(migration: &Migration) -> String {
    let conditions = migration.status.iter().flat_map(|s| &s.conditions);
    let no = conditions.clone().find(|c| c.status == "False");
    let text = no.map(|c| format!("{}: {}", c.reason, c.message));
    format!(
        "migrations/{} -n {} {:?}{}; delete it to try again",
        migration.name_any(),
        migration.namespace().unwrap_or_default(),
        phase(migration),
        text.map(|t| format!(": {t}")).unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wish() -> Wish {
        Wish {
            host: "h".into(),
            mode: MigrationMode::LiveElseCold,
            at_once: 2,
        }
    }

    fn container(name: &str, set: bool, ready: bool) -> Arc<Container> {
        let owners: Value = if set {
            json!([{"apiVersion": "skysail.dev/v1alpha1", "kind": "ContainerSet", "name": "web", "uid": "web"}])
        } else {
            json!([])
        };
        let condition = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }, "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        Arc::new(serde_json::from_value(json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": name, "namespace": "acme", "ownerReferences": owners},
            "spec": {"image": "i", "instanceType": "s"}, "status": {"host": "h", "epoch": 3, "conditions": condition}})).unwrap())
    }

    fn with_status(mut migration: Migration, phase: &str) -> Arc<Migration> {
        migration.status = Some(serde_json::from_value(json!({"phase": phase, "conditions": [
            {"type": "Accepted", "status": "False", "reason": "NoHostFits", "message": "1 host: 1 cordoned", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})).unwrap());
        Arc::new(migration)
    }

    #[test]
    fn not_more_than_asked_for_move_at_once_and_what_was_made_is_not_made_again() {
        let mut world = World {
            containers: ["a", "b", "c"].map(|n| container(n, false, true)).into(),
            ..World::default()
        };
        let first = next(&wish(), &world);
        assert_eq!((first.make.len(), first.waiting.len()), (2, 1));
        world.migrations = first
            .make
            .into_iter()
            .map(|m| with_status(m, "Copying"))
            .collect();
        let second = next(&wish(), &world);
        assert_eq!(
            (second.make.len(), second.moving.len(), second.waiting.len()),
            (0, 2, 1)
        );
    }

    #[test]
    fn a_set_never_has_more_away_than_it_allows() {
        let mut world = World {
            containers: vec![
                container("web-0", true, true),
                container("web-1", true, true),
            ],
            ..World::default()
        };
        let said = next(&wish(), &world);
        assert_eq!(said.make.len(), 1);
        assert!(
            said.waiting[0].1.contains("allows 1 to be away at once"),
            "{said:?}"
        );
        // One of them is down: it may be moved, the other may not.
        world.containers = vec![
            container("web-0", true, true),
            container("web-1", true, false),
        ];
        let said = next(&wish(), &world);
        assert_eq!(
            said.make
                .iter()
                .map(|m| m.spec.container.as_str())
                .collect::<Vec<_>>(),
            ["web-1"]
        );
        let set = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "ContainerSet", "metadata": {"name": "web", "uid": "web", "annotations": {BUDGET: "2"}}, "spec": {"template": {"spec": {"image": "i", "instanceType": "s"}}}});
        world.sets = vec![Arc::new(serde_json::from_value(set).unwrap())];
        assert_eq!(next(&wish(), &world).make.len(), 2);
    }

    #[test]
    fn a_move_that_was_given_up_is_said_and_not_repeated() {
        let mut world = World {
            containers: vec![container("a", false, true)],
            ..World::default()
        };
        world.migrations = next(&wish(), &world)
            .make
            .into_iter()
            .map(|m| with_status(m, "Failed"))
            .collect();
        let said = next(&wish(), &world);
        assert!(said.is_stuck());
        assert_eq!(
            said.failed[0].1,
            "migrations/a-drain-3 -n acme Failed: NoHostFits: 1 host: 1 cordoned; delete it to try again"
        );
    }

    #[test]
    fn an_empty_host_needs_nothing() {
        assert!(next(&wish(), &World::default()).is_empty_host());
    }
}
