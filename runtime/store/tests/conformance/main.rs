//! The laws of a store, one suite for every backend.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../backends/mod.rs"]
mod backends;
mod compaction;
mod lists;
mod watches;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use skysail_store::{Change, Entry, Error, Event, MAX_VALUE, Page, Revision, Store};

type Watch = BoxStream<'static, Result<Event, Error>>;

/// One test per backend and law.
macro_rules! laws {
    ($($part:ident::$law:ident)*) => {
        laws!(@ embedded: $($part::$law)*);
        laws!(@ in_memory: $($part::$law)*);
        laws!(@ etcd: $($part::$law)*);
    };
    (@ $backend:ident: $($part:ident::$law:ident)*) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $law() {
                    let fresh = crate::backends::$backend().await;
                    crate::$part::$law(std::sync::Arc::clone(&fresh.store)).await;
                }
            )*
        }
    };
}

laws! {
    writes::a_create_needs_an_absent_key
    writes::an_update_needs_the_expected_revision
    writes::a_delete_needs_the_expected_revision
    writes::a_recreated_key_starts_anew
    writes::revisions_rise_with_every_write_and_with_nothing_else
    writes::of_concurrent_writers_exactly_one_wins
    writes::concurrent_increments_lose_nothing
    writes::a_value_may_be_as_large_as_the_limit_and_no_larger
    lists::a_list_is_sorted_and_ends_with_its_prefix
    lists::pages_show_one_revision_while_others_write
    lists::an_old_revision_lists_as_it_was
    lists::the_future_cannot_be_read
    watches::many_large_values_fit_in_a_list_and_a_watch
    watches::a_watch_from_any_revision_yields_every_change_once_in_order
    watches::a_watch_sees_what_is_written_after_it_began
    watches::a_watch_sees_only_its_prefix
    watches::a_watch_tells_old_and_new
    watches::a_watch_of_a_quiet_prefix_tells_progress
    watches::progress_is_never_ahead_of_changes
    compaction::compacted_history_is_refused_and_the_rest_stays
    compaction::a_compaction_keeps_the_newest_entries_and_deletions_stay_deleted
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn entry(key: &str, value: &str, created: Revision, modified: Revision) -> Entry {
    Entry {
        key: key.into(),
        value: bytes(value),
        created,
        modified,
    }
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries
        .iter()
        .map(|entry| entry.key.as_str())
        .collect()
}

/// The next change; progress marks are checked and passed over.
async fn change(watch: &mut Watch) -> Result<Change, Error> {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(20), watch.next())
            .await
            .expect("an event in time");
        match event.expect("the stream goes on")? {
            Event::Change(change) => return Ok(change),
            Event::Progress(_) => {}
        }
    }
}

async fn changes(store: &dyn Store, prefix: &str, after: Revision, count: usize) -> Vec<Change> {
    let mut watch = store.watch(prefix, after).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(change(&mut watch).await.unwrap());
    }
    seen
}
