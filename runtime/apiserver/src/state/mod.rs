//! What the handlers of requests and the background work share: store, cache, kinds.
//!
//! Writes are compare-and-swap on the store; reads come from the [`cache`], which
//! follows the store's only watch. Knows nothing of who asks. Needs the table of
//! kinds and [`crate::answer`].

pub(crate) mod cache;

use crate::answer::Failure;
use crate::kinds::{Kind, Kinds, events};
use cache::{Cache, Object};
use serde_json::{Value, json};
use skysail_store::{Revision, Store};
use std::borrow::Cow;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The objects, and the table that says how they are served.
pub(crate) struct State {
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
    pub kinds: Kinds,
    /// Ends the cache, watches and everything in the background.
    pub stop: CancellationToken,
}

impl State {
    /// Loads everything from the store; the cache keeps `log_length` changes for watchers.
    pub(crate) async fn load(
        store: Arc<dyn Store>,
        kinds: Kinds,
        log_length: usize,
        stop: CancellationToken,
    ) -> Result<Self, skysail_store::Error> {
        Ok(Self {
            cache: Cache::start(store.clone(), log_length, stop.clone()).await?,
            store,
            kinds,
            stop,
        })
    }

    /// The object now: from the cache, which has caught up with the store.
    pub(crate) async fn current(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Failure> {
        let revision = self.store.revision().await?;
        self.cache.caught_up(revision).await;
        self.cache
            .get(&kind.key(namespace, name))
            .ok_or_else(|| Failure::not_found(kind, name))
    }

    /// Waits until the cache is at least as new as the caller may expect: at `wanted`, or else at the store's
    /// revision; 0 waits for nothing. 504 if it is not in time.
    pub(crate) async fn catch_up(&self, wanted: Option<Revision>) -> Result<(), Failure> {
        let wanted = match wanted {
            Some(0) => return Ok(()),
            Some(revision) => revision,
            None => self.store.revision().await?,
        };
        if self.cache.caught_up(wanted).await {
            return Ok(());
        }
        let current = self.cache.revision();
        let mut failure = Failure::timeout(format!(
            "Too large resource version: {wanted}, current: {current}"
        ));
        failure.details["causes"] =
            json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        Err(failure)
    }

    /// The kind of a stored object.
    pub(crate) fn kind_of(&self, object: &Object) -> Option<&Kind> {
        let text = |field: &str| object.value[field].as_str().unwrap_or_default().to_owned();
        self.kinds.by_kind(&text("apiVersion"), &text("kind"))
    }
}

/// An object in the view of a kind: Events of the newer group are converted, all else is shared.
pub(crate) fn view<'a>(kind: &Kind, object: &'a Object) -> Cow<'a, Value> {
    if kind.is_new_event() {
        Cow::Owned(events::view(object.value.clone(), true))
    } else {
        Cow::Borrowed(&object.value)
    }
}
