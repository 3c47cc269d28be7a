//! What an agent asks and tells the API about a migration. The one write that matters is [`Api::commit`].

use super::machine::{SourceEvent, Why};
use super::record::Record;
use crate::container::record::Desired;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use skysail_reconcile::{Error, Note, get, publish, write_status};
use skysail_schemas::condition::{self, Fact};
use skysail_schemas::container::{ContainerPhase, ContainerStatus, LastMigration};
use skysail_schemas::migration::{MigrationMode, MigrationPhase, MigrationStatus};
use skysail_schemas::{Container, Migration, Port, PortSpec};
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Field manager and reporter.
const NAME: &str = "migration-agent";
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a commit is tried before it is given up or asked about.
const COMMIT: Duration = Duration::from_secs(10);
/// Between two attempts of the same thing.
const AGAIN: Duration = Duration::from_millis(100);

/// Whose the container is.
#[derive(Debug)]
pub enum Owner {
    /// The source's, at the epoch of the record.
    Source(Box<Container>),
    /// The target's, or somebody's at a later epoch.
    Other(Box<Container>),
    /// Nobody's: it is not there any more.
    Gone,
}

/// The API as one host sees it.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

async fn soon<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Error::Transient("the API server does not answer in time".into());
    timeout(PATIENCE, request).await.map_err(late)?
}

impl Api {
    /// By this client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Reads whose the container is.
    ///
    /// # Errors
    /// It is not known.
    pub async fn owner(&self, record: &Record) -> Result<Owner, Error> {
        let (namespace, name) = (&record.container.namespace, &record.container.name);
        let asked = get::<Container>(&self.client, Some(namespace), name);
        let Some(container) = soon(asked).await? else {
            return Ok(Owner::Gone);
        };
        if container.metadata.uid.as_ref() != Some(&record.container_uid) {
            return Ok(Owner::Gone);
        }
        let container = Box::new(container);
        Ok(if is_source(record, &container) {
            Owner::Source(container)
        } else {
            Owner::Other(container)
        })
    }

    /// What the container should be on the target.
    ///
    /// # Errors
    /// It is not known, or it is not to come here.
    pub async fn desired(&self, record: &Record) -> Result<(Desired, ContainerStatus), Error> {
        let Owner::Source(container) = self.owner(record).await? else {
            return Err(Error::refused(
                "OwnerChanged",
                "the container is not the source's any more",
            ));
        };
        let ports = kube::Api::<Port>::namespaced(self.client.clone(), &record.container.namespace);
        let fields = format!("spec.container={}", record.container.name);
        let params = ListParams::default().fields(&fields);
        let listed = soon(async { Ok(ports.list(&params).await?) }).await?;
        let ports: Vec<PortSpec> = listed.items.into_iter().map(|p| p.spec).collect();
        let status = container.status.clone().unwrap_or_default();
        Ok((Desired::of(&container, ports), status))
    }

    /// Makes the target the owner: one compare-and-swap. `stop` says why it should not be done after all. `known` is
    /// the container as it was last seen: where it is not the newest, the write fails and it is read.
    ///
    /// `Done`: it is written. `Failed`: no write was sent. `Unknown`: one was, and may be written or not.
    pub async fn commit(
        &self,
        record: &Record,
        known: Option<Container>,
        stop: impl Fn() -> Option<Why>,
    ) -> SourceEvent {
        let (begun, mut sent) = (Instant::now(), false);
        let mut known = known.map(Box::new).filter(|c| is_source(record, c));
        let mut trouble;
        loop {
            if let Some(why) = stop() {
                return if sent {
                    SourceEvent::Unknown
                } else {
                    SourceEvent::Failed(why)
                };
            }
            let first = known.take();
            let newest = first.is_none();
            let owner = match first {
                Some(known) => Ok(Owner::Source(known)),
                None => self.owner(record).await,
            };
            match owner {
                Ok(Owner::Source(container)) if container.metadata.deletion_timestamp.is_some() => {
                    let why = Why::cancelled("ContainerDeleted", "the container is being deleted");
                    return if sent {
                        SourceEvent::Unknown
                    } else {
                        SourceEvent::Failed(why)
                    };
                }
                Ok(Owner::Source(container)) => {
                    let status = committed(record, &container, Timestamp::now());
                    sent = true;
                    match soon(write_status(&self.client, NAME, &*container, &status)).await {
                        Ok(_) => return SourceEvent::Done,
                        Err(Error::Conflict(_)) if !newest => continue,
                        Err(e) => trouble = e.to_string(),
                    }
                }
                Ok(Owner::Other(_) | Owner::Gone) if sent => return SourceEvent::Unknown,
                Ok(Owner::Other(_) | Owner::Gone) => {
                    let message = "the container has got another owner, or is gone";
                    return SourceEvent::Failed(Why::failed("OwnerChanged", message));
                }
                Err(e) => trouble = e.to_string(),
            }
            if begun.elapsed() > COMMIT {
                let message = format!("the change of owner could not be written: {trouble}");
                let why = Why::failed("CommitFailed", message);
                return if sent {
                    SourceEvent::Unknown
                } else {
                    SourceEvent::Failed(why)
                };
            }
            sleep(AGAIN).await;
        }
    }

    /// Writes something of the source's own into the container, so that a commit that is still on its way fails.
    pub async fn fence(&self, record: &Record) -> SourceEvent {
        match self.owner(record).await {
            Ok(Owner::Source(container)) => {
                let mut status = container.status.clone().unwrap_or_default();
                status.last_migration = Some(last(record, false, Timestamp::now()));
                match soon(write_status(&self.client, NAME, &*container, &status)).await {
                    Ok(Some(_)) => SourceEvent::Done,
                    Err(Error::Conflict(_)) => SourceEvent::Raced,
                    Ok(None) | Err(_) => SourceEvent::Unknown,
                }
            }
            Ok(Owner::Other(_) | Owner::Gone) => SourceEvent::Raced,
            Err(_) => SourceEvent::Unknown,
        }
    }

    /// Changes the Migration's status, unless it is finished or gone.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn tell(
        &self,
        record: &Record,
        change: impl Fn(&mut MigrationStatus, Option<i64>, Timestamp),
    ) -> Result<(), Error> {
        loop {
            let namespace = Some(record.container.namespace.as_str());
            let asked = soon(get::<Migration>(&self.client, namespace, &record.name)).await?;
            let Some(there) = asked.filter(|m| m.metadata.uid.as_ref() == Some(&record.uid)) else {
                return Ok(());
            };
            let mut status = there.status.clone().unwrap_or_default();
            if status.phase.is_finished() {
                return Ok(());
            }
            change(&mut status, there.metadata.generation, Timestamp::now());
            match soon(write_status(&self.client, NAME, &there, &status)).await {
                Ok(_) => return Ok(()),
                Err(Error::Conflict(_)) => sleep(Duration::from_millis(10)).await,
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes an event of the Migration.
    pub async fn note(&self, migration: &Migration, note: Note) {
        publish(&self.client, NAME, migration, &note, Timestamp::now()).await;
    }
}

/// Whether the container is the source's, at the epoch of the record.
fn is_source(record: &Record, container: &Container) -> bool {
    let status = container.status.as_ref();
    container.metadata.uid.as_ref() == Some(&record.container_uid)
        && status
            .is_some_and(|s| s.host.as_ref() == Some(&record.source) && s.epoch == record.epoch)
}

/// The container's status with the target as its owner.
fn committed(record: &Record, container: &Container, now: Timestamp) -> ContainerStatus {
    let mut status = container.status.clone().unwrap_or_default();
    status.host = Some(record.target.clone());
    status.epoch = record.epoch + 1;
    status.last_migration = Some(last(record, true, now));
    if status.phase == ContainerPhase::Running {
        status.phase = ContainerPhase::Starting;
    }
    (status.pid, status.usage) = (None, None);
    let message = format!("moved from {} to {}", record.source, record.target);
    let facts = [
        Fact::yes("Scheduled", "Migrated", &message),
        Fact::no("Running", "Migrating", &message),
    ];
    let generation = container.metadata.generation;
    condition::merge(&mut status.conditions, &facts, generation, now);
    let ready = condition::ready(&status.conditions, &["Scheduled", "Networked", "Running"]);
    condition::merge(&mut status.conditions, &[ready], generation, now);
    status
}

fn last(record: &Record, moved: bool, now: Timestamp) -> LastMigration {
    LastMigration {
        name: record.name.clone(),
        uid: record.uid.clone(),
        from: record.source.clone(),
        to: record.target.clone(),
        moved,
        at: Some(Time(now)),
    }
}

/// Moves a status on to `phase`; never back.
pub fn advance(
    status: &mut MigrationStatus,
    phase: MigrationPhase,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    if status.phase >= phase {
        return;
    }
    status.phase = phase;
    let mut facts = vec![Fact::unknown("Succeeded", format!("{phase:?}"), message)];
    if phase >= MigrationPhase::Resuming {
        let source = "the target owns the container: there is no way back";
        facts.push(Fact::yes("Committed", "Committed", source));
    }
    condition::merge(&mut status.conditions, &facts, generation, now);
}

/// Whether its processes came along.
const MEMORY: &str = "MemoryKept";

/// Says why a container begins anew that should not have.
pub fn say_lost(
    status: &mut MigrationStatus,
    record: &Record,
    generation: Option<i64>,
    now: Timestamp,
) {
    if let Some(lost) = &record.lost {
        let fact = Fact::no(MEMORY, &lost.reason, &lost.message);
        condition::merge(&mut status.conditions, &[fact], generation, now);
    }
}

/// Says how a container came to its new host: what the target has said of its memory stays.
pub fn arrived(
    status: &mut MigrationStatus,
    record: &Record,
    generation: Option<i64>,
    now: Timestamp,
) {
    say_lost(status, record, generation, now);
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    let message = format!("from {} to {}", text(&status.source), text(&status.target));
    let told = status.conditions.iter().find(|c| c.type_ == MEMORY);
    let anew = told.filter(|c| c.status == "False").cloned();
    let memory = match (&anew, record.mode) {
        (Some(_), _) => None,
        (None, MigrationMode::Live) => Some(Fact::yes(MEMORY, "Live", "its processes go on")),
        (None, _) => Some(Fact::no(
            MEMORY,
            "Cold",
            "its init began anew, as spec.mode asks",
        )),
    };
    let moved = match anew {
        Some(lost) if lost.reason != "Cold" => {
            let message = format!("{message}, without its memory: {}", lost.message);
            Fact::yes("Succeeded", "MovedWithoutMemory", message)
        }
        _ => Fact::yes("Succeeded", "Moved", message),
    };
    let facts: Vec<Fact> = memory.into_iter().chain([moved]).collect();
    condition::merge(&mut status.conditions, &facts, generation, now);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_phase_never_goes_back_and_a_commit_is_said_once_it_happened() {
        let mut status = MigrationStatus::default();
        advance(
            &mut status,
            MigrationPhase::Resuming,
            "",
            None,
            Timestamp::UNIX_EPOCH,
        );
        assert!(condition::is_true(&status.conditions, "Committed"));
        advance(
            &mut status,
            MigrationPhase::Copying,
            "",
            None,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(status.phase, MigrationPhase::Resuming);
    }

    pub(in crate::migration) fn record(mode: MigrationMode, lost: Option<&str>) -> Record {
        let lost = lost.map(|reason| crate::migration::record::Lost {
            reason: reason.to_owned(),
            message: "why".to_owned(),
        });
        Record {
            uid: "u".into(),
            name: "m".into(),
            container: crate::container::record::Id {
                namespace: "acme".into(),
                name: "web".into(),
            },
            container_uid: "c".into(),
            epoch: 1,
            source: "a".into(),
            target: "b".into(),
            mode,
            begun_at: None,
            frozen_at: None,
            lost,
            role: crate::migration::record::Role::Target(crate::migration::machine::Target::Over),
        }
    }

    #[test]
    fn a_memory_that_is_lost_is_never_said_to_be_kept_whoever_speaks_last() {
        let now = Timestamp::UNIX_EPOCH;
        let mut status = MigrationStatus::default();
        let target = record(MigrationMode::Live, Some("MemoryLost"));
        say_lost(&mut status, &target, None, now);
        arrived(&mut status, &record(MigrationMode::Live, None), None, now);
        let reason = |kind: &str, s: &MigrationStatus| {
            let found = s.conditions.iter().find(|c| c.type_ == kind);
            found
                .map(|c| (c.status.clone(), c.reason.clone()))
                .unwrap_or_default()
        };
        let said = |s: &str, r: &str| (s.to_owned(), r.to_owned());
        assert_eq!(reason("MemoryKept", &status), said("False", "MemoryLost"));
        assert_eq!(
            reason("Succeeded", &status),
            said("True", "MovedWithoutMemory")
        );
        for (mode, kept) in [
            (MigrationMode::Live, said("True", "Live")),
            (MigrationMode::Cold, said("False", "Cold")),
        ] {
            let mut status = MigrationStatus::default();
            arrived(&mut status, &record(mode, None), None, now);
            assert_eq!(reason("MemoryKept", &status), kept);
            assert_eq!(reason("Succeeded", &status), said("True", "Moved"));
        }
    }
}
