//! What still arrives here for a container that has left: it is sent on until peers know the new place.

use crate::checkpoint::Arrivals;
use crate::migration::stream::Frame;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing for so long, and nothing will come any more.
const QUIET: Duration = Duration::from_millis(100);
/// It is not waited for longer than this.
const LONGEST: Duration = Duration::from_millis(500);

/// Sends on what arrives, first what has arrived already. Dropped, it stops.
pub struct Forwarding {
    task: JoinHandle<()>,
    runs: Arc<AtomicBool>,
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarding {
    /// Begins.
    pub fn begin(arrivals: Arrivals, to: Sender<Frame>) -> Self {
        let runs = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(forward(arrivals, to, runs.clone()));
        Self { task, runs }
    }

    /// Ends it, once the container runs at its new place and nothing comes here any more.
    pub async fn end(mut self) {
        self.runs.store(true, Ordering::Relaxed);
        // What comes later is lost, as it may be on any network.
        let _ = timeout(LONGEST, &mut self.task).await;
    }
}

async fn forward(arrivals: Arrivals, to: Sender<Frame>, runs: Arc<AtomicBool>) {
    let mut count = 0_u64;
    loop {
        match timeout(QUIET, arrivals.next()).await {
            Ok(Ok(packet)) => match to.send(Frame::Packet(packet)).await {
                Ok(()) => count += 1,
                Err(_) => break,
            },
            Err(_) if !runs.load(Ordering::Relaxed) => {}
            _ => break,
        }
    }
    tracing::debug!(count, "packets were sent on");
}
