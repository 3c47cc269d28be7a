//! What a server is made of.

use crate::about::About;
use crate::config::Config;
use crate::identity::pki::Pki;
use crate::state::State;
use crate::subresources::sessions::Sessions;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Requests of this kind that are worked on at once; more are told to come back (429).
const MAX_READS: usize = 400;
const MAX_WRITES: usize = 200;

/// Everything that a request may need.
pub(crate) struct Service {
    pub state: Arc<State>,
    pub about: About,
    pub pki: Pki,
    pub config: Config,
    pub sessions: Sessions,
    /// Free places for requests that read.
    pub reads: Semaphore,
    /// Free places for requests that write.
    pub writes: Semaphore,
}

impl Service {
    pub(crate) fn new(state: Arc<State>, pki: Pki, config: Config) -> Self {
        Self {
            about: About::new(&state.kinds),
            state,
            pki,
            sessions: Sessions::new(config.session_silence),
            config,
            reads: Semaphore::new(MAX_READS),
            writes: Semaphore::new(MAX_WRITES),
        }
    }
}
