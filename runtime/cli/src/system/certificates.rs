//! How long certificates are good for: the flags that say it.

use std::ffi::OsString;
use std::time::Duration;

/// Flags of `up` and `server`.
#[derive(Debug, Clone, clap::Args)]
pub struct Certificates {
    /// How long the server's certificate is good for; it is renewed in time, without a restart
    #[arg(long, default_value = "365days", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub server_certificates: Duration,
    /// How long the certificates of hosts' agents are good for; agents renew them in time
    #[arg(long, default_value = "30days", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub agent_certificates: Duration,
}

impl Certificates {
    /// The same flags for a server.
    pub fn flags(&self) -> [OsString; 4] {
        let time = |d| {
            humantime::format_duration(d)
                .to_string()
                .replace(' ', "")
                .into()
        };
        [
            "--server-certificates".into(),
            time(self.server_certificates),
            "--agent-certificates".into(),
            time(self.agent_certificates),
        ]
    }
}
