//! `watch`: a position in the cache's log, and a stream of frames from there.

use super::filter::Filter;
use super::render::Renderer;
use crate::answer::Failure;
use crate::kinds::Kind;
use crate::request::{Call, Query, is_true, number};
use crate::state::State;
use crate::state::cache::{Change, Object};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use rand::Rng;
use serde_json::json;
use skysail_store::Revision;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between bookmarks of a quiet watch.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Log entries looked at in one step, so that no watcher holds the cache for long.
const STEP: usize = 1000;
/// Bytes sent at once.
const CHUNK: usize = 64 * 1024;

/// One frame: `{"type":…,"object":…}` and a newline.
fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.freeze()
}

/// What a filtered watcher sees of a change: objects that enter or leave its selection appear and disappear.
fn seen(filter: &Filter, change: &Change) -> Option<(&'static str, Arc<Object>)> {
    let old = change.old.as_ref().filter(|o| filter.matches(o));
    let new = change.new.as_ref().filter(|o| filter.matches(o));
    match (old, new) {
        (None, None) => None,
        (None, Some(new)) => Some(("ADDED", new.clone())),
        (Some(_), Some(new)) => Some(("MODIFIED", new.clone())),
        (Some(old), None) => {
            // What disappears is shown in its last seen state, at the revision of its disappearance.
            let last = Object::new(old.key.clone(), old.value.clone(), change.revision);
            Some(("DELETED", Arc::new(last)))
        }
    }
}

struct Watcher {
    state: Arc<State>,
    kind: usize,
    prefix: String,
    filter: Filter,
    headers: HeaderMap,
    query: Query,
    position: Revision,
    first_table: bool,
    bookmarks: bool,
    initial_end: bool,
    next_bookmark: Instant,
    deadline: Instant,
    ready: VecDeque<Bytes>,
    finished: bool,
}

impl Watcher {
    fn kind(&self) -> &Kind {
        &self.state.kinds.all()[self.kind]
    }

    fn render(&mut self, type_: &str, object: &Object) -> Option<Bytes> {
        let renderer = Renderer::new(self.kind(), &self.headers, &self.query).ok()?;
        let body = renderer.one(object, self.first_table);
        self.first_table = false;
        Some(frame(type_, &body))
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let mut metadata =
            json!({"resourceVersion": self.position.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let value = json!({"kind": self.kind().kind, "apiVersion": self.kind().api_version(), "metadata": metadata});
        let body = match Renderer::new(self.kind(), &self.headers, &self.query) {
            Ok(renderer) => renderer.value(&value, false),
            Err(_) => Bytes::from(value.to_string()),
        };
        frame("BOOKMARK", &body)
    }

    /// Current objects as ADDED, for watches that start without a revision.
    fn start_with(&mut self, objects: Vec<Arc<Object>>) {
        for object in objects {
            if self.filter.matches(&object) {
                let frame = self.render("ADDED", &object);
                self.ready.extend(frame);
            }
        }
        if self.initial_end {
            self.ready.push_back(self.bookmark(true));
        }
    }

    /// Reads on in the log.
    fn advance(&mut self) {
        match self.state.cache.changes(&self.prefix, self.position, STEP) {
            Ok((changes, upto)) => {
                for change in &changes {
                    if let Some((type_, object)) = seen(&self.filter, change) {
                        let frame = self.render(type_, &object);
                        self.ready.extend(frame);
                    }
                }
                self.position = upto;
            }
            Err(gone) => {
                let text = format!(
                    "too old resource version: {} ({})",
                    self.position, gone.floor
                );
                self.ready.push_back(frame(
                    "ERROR",
                    Failure::expired(text).status().to_string().as_bytes(),
                ));
                self.finished = true;
            }
        }
    }

    /// Frames that are ready, several in one chunk where they are many and small.
    fn take_ready(&mut self) -> Option<Bytes> {
        let first = self.ready.pop_front()?;
        if self.ready.is_empty() || first.len() >= CHUNK {
            return Some(first);
        }
        let mut chunk = BytesMut::from(first.as_ref());
        while let Some(next) = self
            .ready
            .front()
            .filter(|next| chunk.len() + next.len() <= CHUNK)
        {
            chunk.extend_from_slice(next);
            self.ready.pop_front();
        }
        Some(chunk.freeze())
    }

    /// The next frames; `None` ends the stream cleanly.
    async fn next(&mut self) -> Option<Bytes> {
        let mut revisions = self.state.cache.subscribe();
        loop {
            if let Some(frames) = self.take_ready() {
                return Some(frames);
            }
            if self.finished {
                return None;
            }
            let seen = *revisions.borrow_and_update();
            if seen > self.position {
                self.advance();
                continue;
            }
            let stop = self.state.stop.clone();
            tokio::select! {
                changed = revisions.changed() => self.finished = changed.is_err(),
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    self.ready.push_back(self.bookmark(false));
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    self.finished = true;
                    if self.bookmarks {
                        self.ready.push_back(self.bookmark(false));
                    }
                }
                () = stop.cancelled() => self.finished = true,
            }
        }
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        stream::unfold(self, |mut watcher| async move {
            watcher.next().await.map(|frame| (Ok(frame), watcher))
        })
    }
}

fn lifetime(call: &Call<'_>) -> Result<Duration, Failure> {
    Ok(
        match number("timeoutSeconds", call.query.timeout_seconds.as_deref())? {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => Duration::from_secs(rand::rng().random_range(1800..3600)),
        },
    )
}

fn check_initial_events(call: &Call<'_>) -> Result<bool, Failure> {
    let wanted = is_true(call.query.send_initial_events.as_deref());
    let matching = call
        .query
        .resource_version_match
        .as_deref()
        .unwrap_or_default();
    let fine = if call.query.send_initial_events.is_some() {
        matching == "NotOlderThan"
    } else {
        matching.is_empty()
    };
    if fine {
        return Ok(wanted);
    }
    Err(Failure::new(
        422,
        "Invalid",
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires \
         setting resourceVersionMatch to NotOlderThan, and the other way round",
    ))
}

/// `GET …?watch=true`.
pub(crate) async fn watch(
    state: &Arc<State>,
    call: &Call<'_>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    Renderer::new(call.kind, headers, call.query)?;
    let initial = check_initial_events(call)?;
    let version = number("resourceVersion", call.query.resource_version.as_deref())?;
    let bookmarks = is_true(call.query.allow_watch_bookmarks.as_deref());
    let mut watcher = Watcher {
        state: state.clone(),
        kind: state
            .kinds
            .index(&call.kind.group, &call.kind.version, &call.kind.plural)
            .unwrap_or_default(),
        prefix: call.prefix(),
        filter: Filter::of(call)?,
        headers: headers.clone(),
        query: call.query.clone(),
        position: version.unwrap_or(0),
        first_table: true,
        bookmarks,
        initial_end: initial && bookmarks,
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        deadline: Instant::now() + lifetime(call)?,
        ready: VecDeque::new(),
        finished: false,
    };
    // A revision that this cache has not seen yet is waited for; one of the future ends in 504.
    state
        .catch_up(number(
            "resourceVersion",
            call.query.resource_version.as_deref(),
        )?)
        .await?;
    if initial || matches!(version, None | Some(0)) {
        let (objects, revision) = state.cache.snapshot(&watcher.prefix);
        watcher.position = revision;
        watcher.start_with(objects);
    }
    let mut response = Response::new(Body::from_stream(watcher.stream()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    Ok(response)
}
