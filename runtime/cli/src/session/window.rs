//! How much input may be sent ahead of what the process took.

use skysail_schemas::session::WINDOW;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use tokio::sync::Notify;

/// Open without end until the host's agent says that it counts.
#[derive(Debug, Default)]
pub struct Window {
    counted: AtomicBool,
    ahead: AtomicUsize,
    changed: Notify,
}

impl Window {
    /// Waits until something may be sent.
    pub async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.counted.load(SeqCst) || self.ahead.load(SeqCst) < WINDOW {
                return;
            }
            changed.await;
        }
    }

    /// So many bytes are sent.
    pub fn sent(&self, bytes: usize) {
        self.ahead.fetch_add(bytes, SeqCst);
    }

    /// So many bytes were taken.
    pub fn taken(&self, bytes: usize) {
        self.counted.store(true, SeqCst);
        let less = |ahead: usize| Some(ahead.saturating_sub(bytes));
        // The closure never refuses.
        let _ = self.ahead.fetch_update(SeqCst, SeqCst, less);
        self.changed.notify_one();
    }
}
