//! A watch that survives etcd's restarts: it knows its position and opens again there.
//!
//! Two races of etcd are closed here. Its watch from the very revision that was
//! compacted starts without complaint but may miss a deletion at it, so the position
//! is read once more when the first changes are in hand. And the old value of a
//! change is looked up late and silently left out when compacted in between; such a
//! change ends the watch.

use std::collections::VecDeque;
use std::time::Duration;

use etcd_client::{Client, EventType, KvClient, WatchOptions, WatchResponse, WatchStream};
use futures::stream::{self, Stream};
use tokio::time::Instant;

use super::{Options, TIMEOUT, check, connect, entry, failed, number, positive, range, revision};
use crate::{Change, Error, Event, Revision};

/// After this long without news etcd is asked for progress.
const QUIET: Duration = Duration::from_secs(1);
/// Pauses between attempts to reconnect grow between these.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// An open stream and its connection.
struct Connection {
    kv: KvClient,
    stream: WatchStream,
    /// Keeps the connection's tasks going.
    _client: Client,
    /// The position that it was opened at, until that was read again.
    unconfirmed: Option<Revision>,
}

struct Watcher {
    options: Options,
    prefix: String,
    progress_on_request: bool,
    connection: Option<Connection>,
    pause: Duration,
    /// Everything up to here is in `found` or was yielded.
    position: Revision,
    found: VecDeque<Event>,
    heard_at: Instant,
    ended: bool,
}

/// The changes below `prefix` after revision `position`. Not polled, it takes nothing from etcd.
pub(super) async fn open(
    options: Options,
    prefix: String,
    position: Revision,
    progress_on_request: bool,
) -> Result<impl Stream<Item = Result<Event, Error>> + Send + 'static, Error> {
    let connection = dial(&options, &prefix, position).await?;
    let watcher = Watcher {
        options,
        prefix,
        progress_on_request,
        connection: Some(connection),
        pause: RETRY.0,
        position,
        found: VecDeque::new(),
        heard_at: Instant::now(),
        ended: false,
    };
    Ok(stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        watcher.ended = event.is_err();
        Some((event, watcher))
    }))
}

async fn dial(options: &Options, prefix: &str, position: Revision) -> Result<Connection, Error> {
    let dial = async {
        let client = connect(options).await?;
        let kv = client.kv_client();
        check(&kv, position).await?;
        let (start, end) = range(prefix, None);
        let wanted = WatchOptions::new()
            .with_range(end)
            .with_start_revision(number(position.max(1) + 1))
            .with_prev_key()
            .with_progress_notify();
        let mut watches = client.watch_client().max_decoding_message_size(usize::MAX);
        let stream = watches
            .watch(start, Some(wanted))
            .await
            .map_err(|e| failed(&e))?;
        Ok(Connection {
            kv,
            stream,
            _client: client,
            unconfirmed: Some(position),
        })
    };
    let late = || {
        Error::Unavailable(format!(
            "etcd at {} did not start a watch in time",
            options.endpoints.join(", ")
        ))
    };
    tokio::time::timeout(TIMEOUT, dial)
        .await
        .unwrap_or_else(|_| Err(late()))
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Event, Error>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(event) = self.found.pop_front() {
                return Some(Ok(event));
            }
            if let Err(error) = self.step().await {
                return Some(Err(error));
            }
        }
    }

    /// Waits for one message, or mends the connection. Only what ends the watch is an error.
    async fn step(&mut self) -> Result<(), Error> {
        let Some(connection) = &mut self.connection else {
            return self.reconnect().await;
        };
        let patience = if self.progress_on_request {
            QUIET
        } else {
            Duration::MAX
        };
        let message = tokio::select! {
            message = connection.stream.message() => message,
            () = sleep_until(self.heard_at, patience) => {
                self.heard_at = Instant::now();
                if connection.stream.request_progress().await.is_err() {
                    self.connection = None;
                }
                return Ok(());
            }
        };
        self.heard_at = Instant::now();
        match message {
            Ok(Some(message)) => self.take(&message).await,
            Ok(None) => self.lose("etcd closed the stream"),
            Err(error) => match failed(&error) {
                Error::Unavailable(why) => self.lose(&why),
                fatal => Err(fatal),
            },
        }
    }

    fn lose(&mut self, why: &str) -> Result<(), Error> {
        tracing::debug!(prefix = %self.prefix, position = self.position, why, "watch lost; opening it again");
        self.connection = None;
        Ok(())
    }

    async fn reconnect(&mut self) -> Result<(), Error> {
        match dial(&self.options, &self.prefix, self.position).await {
            Ok(connection) => {
                self.connection = Some(connection);
                self.pause = RETRY.0;
                Ok(())
            }
            Err(Error::Unavailable(why)) => {
                tracing::warn!(prefix = %self.prefix, position = self.position, why, "watch cannot be opened again yet");
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(RETRY.1);
                Ok(())
            }
            Err(fatal) => Err(fatal),
        }
    }

    async fn take(&mut self, message: &WatchResponse) -> Result<(), Error> {
        if message.compact_revision() > 0 {
            return Err(Error::Compacted(positive(message.compact_revision())));
        }
        if message.canceled() {
            return self.lose(message.cancel_reason());
        }
        if message.created() {
            return Ok(());
        }
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        if let Some(opened_at) = connection.unconfirmed {
            match check(&connection.kv, opened_at).await {
                Ok(()) => connection.unconfirmed = None,
                // The position has not moved: the same messages come again.
                Err(Error::Unavailable(why)) => return self.lose(&why),
                Err(fatal) => return Err(fatal),
            }
        }
        for event in message.events() {
            let change = change(event)?;
            if change.revision > self.position {
                self.position = change.revision;
                self.found.push_back(Event::Change(change));
            }
        }
        let told = revision(message.header());
        if message.events().is_empty() && told >= self.position {
            self.position = told;
            self.found.push_back(Event::Progress(told));
        }
        Ok(())
    }
}

async fn sleep_until(since: Instant, patience: Duration) {
    match since.checked_add(patience) {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn change(event: &etcd_client::Event) -> Result<Change, Error> {
    let nothing = || Error::Unavailable("etcd sent a change without a key".into());
    let now = event.kv().ok_or_else(nothing)?;
    let revision = positive(now.mod_revision());
    let old = event.prev_kv().cloned().map(entry).transpose()?;
    let deleted = event.event_type() == EventType::Delete;
    if old.is_none() && (deleted || now.create_revision() != now.mod_revision()) {
        return Err(Error::Compacted(revision));
    }
    let new = if deleted {
        None
    } else {
        Some(entry(now.clone())?)
    };
    Ok(Change { revision, new, old })
}
