//! How a server runs: settings, all with a default but the place of its data and its address.

use crate::state::cache::LOG_LENGTH;
use skysail_schemas::session::SILENCE;
use std::path::PathBuf;
use std::time::Duration;

/// How a server runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds `pki/` and `images/`.
    pub data_dir: PathBuf,
    /// The URL that agents get in their kubeconfigs, for example `https://198.18.0.1:7443`.
    pub advertise_url: String,
    /// Names and addresses in the server's certificate.
    pub server_names: Vec<String>,
    /// How long Events are kept after they were last seen.
    pub event_ttl: Duration,
    /// How many changes are kept for watchers to resume from.
    pub log_length: usize,
    /// A side of a session (exec, console, logs, cp) that is not heard for this long is taken for gone.
    pub session_silence: Duration,
    /// How long the server's certificate is good for; another one takes its place when a third of that is left.
    pub server_certificates: Duration,
    /// How long the certificate of a host's agent is good for; the agent asks for another one in time.
    pub agent_certificates: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Config {
    /// A configuration for `data_dir`, advertised under `advertise_url` and reachable as localhost too.
    pub fn new(data_dir: impl Into<PathBuf>, advertise_url: impl Into<String>) -> Self {
        let advertise_url = advertise_url.into();
        let mut server_names: Vec<String> = ["localhost", "127.0.0.1", "::1"]
            .map(str::to_owned)
            .to_vec();
        let host = advertise_url
            .parse::<http::Uri>()
            .ok()
            .and_then(|u| u.host().map(str::to_owned));
        let host = host.map(|h| h.trim_matches(['[', ']']).to_owned());
        server_names
            .extend(host.filter(|h| !["localhost", "127.0.0.1", "::1"].contains(&h.as_str())));
        Self {
            data_dir: data_dir.into(),
            advertise_url,
            server_names,
            event_ttl: Duration::from_secs(3600),
            log_length: LOG_LENGTH,
            session_silence: SILENCE,
            server_certificates: DAY * 365,
            agent_certificates: DAY * 30,
        }
    }
}
