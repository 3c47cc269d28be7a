//! The copy of a container that leaves: finding the target, passes over its files, what it was dumped into.

use super::Leave;
use crate::checkpoint;
use crate::migration::machine::Why;
use crate::migration::stream::{Frame, Lost, Message, Session};
use crate::migration::tree::{self, Changes, Known, Raw};
use crate::migration::{Migrations, images, layer, tls, why};
use jiff::Timestamp;
use rustls_pki_types::ServerName;
use skysail_schemas::migration::MigrationMode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long the target is looked for.
const FIND: Duration = Duration::from_secs(20);
/// How long one attempt to reach it may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two attempts of the same thing.
const AGAIN: Duration = Duration::from_millis(500);
/// Passes over the files while the container runs.
const PASSES: u32 = 6;
/// So little is left for the stop.
const LITTLE: u64 = 1 << 20;

impl Leave {
    pub(super) async fn copy(&mut self) -> Result<(), Why> {
        if let Some(obstacle) = self.look().await {
            self.fall(obstacle)?;
        }
        self.passes().await?;
        if self.record.mode == MigrationMode::Live
            && let Some(over) = self.over_budget()
        {
            self.fall(over)?;
            // The target has made itself ready for another kind of move.
            self.session = None;
            self.passes().await?;
        }
        Ok(())
    }

    async fn passes(&mut self) -> Result<(), Why> {
        let session = self.connect().await?;
        self.sent = session.sent();
        self.session = Some(session);
        self.said(Message::Welcome).await?;
        (self.pass, self.known, self.digests) = (0, BTreeMap::new(), BTreeMap::new());
        let mut last = u64::MAX;
        for _ in 0..PASSES {
            let begun = Instant::now();
            let bytes = self.pass(false).await?;
            self.measured.pass(bytes, begun.elapsed());
            // The rest goes while it stands still, unless that was much and is becoming less.
            if bytes <= LITTLE || bytes > last / 2 {
                break;
            }
            last = bytes;
        }
        Ok(())
    }

    /// What stands against moving it live, if it shall be; before anything is touched.
    async fn look(&self) -> Option<Why> {
        if self.record.mode != MigrationMode::Live {
            return None;
        }
        let (site, id) = (&self.all.site, &self.record.container);
        if site.record(id).init.is_none() {
            let message = "spec.mode: it does not run; use Cold";
            return Some(Why::failed("NotRunning", message));
        }
        let found = checkpoint::preflight(site, id).await;
        let all: Vec<String> = found.iter().map(ToString::to_string).collect();
        let first = found.first();
        let obstacle = first.map(|o| Why::failed(o.reason, all.join("; ")));
        obstacle.or_else(|| self.over_budget())
    }

    pub(super) async fn connect(&self) -> Result<Session, Why> {
        let record = &self.record;
        let migration = Migrations::find(&self.all.leaving, record);
        let status = migration
            .as_ref()
            .and_then(|m| m.status.clone())
            .unwrap_or_default();
        let endpoint = status.endpoint.unwrap_or_default();
        let begun = Instant::now();
        let mut connection = loop {
            match self.dial(&endpoint).await {
                Ok(connection) => break connection,
                Err(e) if begun.elapsed() > FIND => {
                    let message = format!(
                        "the agent of {} is not reached at {endpoint}: {e}; does its host let TCP in there?",
                        record.target
                    );
                    return Err(Why::failed("TargetUnreachable", message));
                }
                Err(_) => sleep(AGAIN).await,
            }
        };
        let peer = tls::host(connection.get_mut().1.peer_certificates());
        if peer.as_ref() != Some(&record.target) {
            let peer = peer.unwrap_or_default();
            let message = format!("at {endpoint} is host {peer:?}, not {}", record.target);
            return Err(Why::failed("WrongPeer", message));
        }
        let session = Session::new(connection, migration.and_then(|m| m.spec.bandwidth));
        let hello = Message::Hello {
            namespace: record.container.namespace.clone(),
            name: record.name.clone(),
            uid: record.uid.clone(),
            mode: record.mode,
        };
        session.say(hello).await.map_err(lost)?;
        Ok(session)
    }

    async fn dial(
        &self,
        endpoint: &str,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let identity = self.all.identity()?;
        let dial = async {
            let stream = TcpStream::connect(endpoint).await?;
            stream.set_nodelay(true)?;
            let anybody = ServerName::try_from("host").map_err(std::io::Error::other)?;
            identity.connector().connect(anybody, stream).await
        };
        timeout(CONNECT, dial).await?
    }

    /// Waits for the target to say this.
    pub(super) async fn said(&mut self, wanted: Message) -> Result<(), Why> {
        let session = self.session.as_mut().ok_or_else(|| lost(Lost))?;
        loop {
            match session.next().await.map_err(lost)? {
                Frame::Said(Message::No { reason, message }) => {
                    return Err(Why::failed(&reason, message));
                }
                Frame::Said(said) if said == wanted => return Ok(()),
                other => tracing::debug!(?other, "said out of turn"),
            }
        }
    }

    /// Sends what has changed since the last pass; returns how much that was. The last one, when nothing changes any
    /// more, is not confirmed by itself.
    pub(super) async fn pass(&mut self, last: bool) -> Result<u64, Why> {
        let held = layer::read(&self.all.site, &self.record.container).await;
        let held = held.map_err(|e| why(&e))?;
        let session = self.session.as_ref().ok_or_else(|| lost(Lost))?;
        let (to, before, read_at) = (
            session.outgoing(),
            std::mem::take(&mut self.known),
            self.read_at,
        );
        self.pass += 1;
        let pass = self.pass;
        let sent = self.sent.clone();
        let expected = Arc::new(AtomicU64::new(0));
        self.tell_progress(sent, expected.clone());
        let work = move || -> std::io::Result<(BTreeMap<Raw, Known>, Changes, _)> {
            // What is written from now on changes times again, also by way of a mapping.
            if let (false, Ok(descriptor)) = (last, held.descriptor()) {
                rustix::fs::syncfs(descriptor)?;
            }
            let root = held.path();
            let now = tree::scan(&root, held.ids)?;
            let changes = tree::changes(&before, &now, read_at);
            expected.store(changes.bytes, Ordering::Relaxed);
            let digests = tree::send(&root, &changes, &to)?;
            Ok((now, changes, digests))
        };
        let begun = Timestamp::now().as_second();
        let done = tokio::task::spawn_blocking(work).await;
        let unreadable = |e: &dyn std::fmt::Display| {
            Why::failed("CopyFailed", format!("the files could not be sent: {e}"))
        };
        let (now, changes, digests) = done
            .map_err(|e| unreadable(&e))?
            .map_err(|e| unreadable(&e))?;
        (self.known, self.read_at) = (now, begun);
        self.digests.extend(digests);
        if !last {
            self.say(Message::Pass(pass)).await?;
            self.said(Message::Applied(pass)).await?;
        }
        Ok(changes.bytes)
    }

    pub(super) async fn say(&self, message: Message) -> Result<(), Why> {
        let session = self.session.as_ref().ok_or_else(|| lost(Lost))?;
        session.say(message).await.map_err(lost)
    }

    /// Sends what it was dumped into; returns the digest over that.
    pub(super) async fn images(&self) -> Result<String, Why> {
        self.say(Message::Images).await?;
        let session = self.session.as_ref().ok_or_else(|| lost(Lost))?;
        let (to, dir) = (session.outgoing(), images(&self.record));
        let work = move || -> std::io::Result<String> {
            let now = tree::scan(&dir, None)?;
            let changes = tree::changes(&BTreeMap::new(), &now, 0);
            let mut digests = tree::send(&dir, &changes, &to)?;
            Ok(tree::seal(&now, &mut digests))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let failed = |e: &dyn std::fmt::Display| {
            Why::failed("CopyFailed", format!("its memory could not be sent: {e}"))
        };
        done.map_err(|e| failed(&e))?.map_err(|e| failed(&e))
    }
}

fn lost(e: Lost) -> Why {
    let message = format!("{e}: the target's agent ended, or the link between the hosts is broken");
    Why::failed("ConnectionLost", message)
}
