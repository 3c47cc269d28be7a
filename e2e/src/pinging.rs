//! A ping that goes on while something is broken, from inside one container to another,
//! without the API server: it is started on the container's host.

use crate::Cluster;
use anyhow::{Context, Result, ensure};
use std::process::{Child, Stdio};

/// A ping every tenth of a second; ends when dropped.
pub struct Pinging {
    ssh: Child,
    name: String,
}

impl Pinging {
    /// Begins: `namespace/from` pings `namespace/to`.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn start(cluster: &Cluster, namespace: &str, from: &str, to: &str) -> Result<Self> {
        let (here, there) = (
            cluster.get("container", namespace, from)?,
            cluster.get("container", namespace, to)?,
        );
        let pid = here["status"]["pid"].as_i64().context("it does not run")?;
        let host = here["status"]["host"].as_str().context("it has no host")?;
        let address = there["status"]["addresses"][0]["address"].as_str();
        let address = address.context("it has no address")?;
        // Ends with its input, so also when this process is killed.
        let script = format!(
            "nsenter -t {pid} -n -m /bin/ping -q -i 0.1 {address} & p=$!; cat >/dev/null; kill -INT $p; wait $p"
        );
        let mut ssh = cluster.ssh(host)?;
        let ssh = ssh
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let name = format!("{namespace}/{from} to {namespace}/{to}");
        Ok(Self { ssh, name })
    }

    /// Ends, and is an error unless every ping (but one that was under way) was answered.
    ///
    /// # Errors
    /// With what ping printed.
    pub fn unbroken(mut self) -> Result<()> {
        drop(self.ssh.stdin.take());
        let mut text = String::new();
        if let Some(mut out) = self.ssh.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut text)?;
        }
        let number = |word: &str| {
            let before = text.split(word).next()?;
            before.split_whitespace().last()?.parse::<u64>().ok()
        };
        let (sent, answered) = (number(" packets transmitted"), number(" received"));
        let whole = sent.zip(answered).is_some_and(|(s, a)| s > 2 && a + 1 >= s);
        ensure!(whole, "{}: {text}", self.name);
        Ok(())
    }
}

impl Drop for Pinging {
    fn drop(&mut self) {
        drop(self.ssh.stdin.take());
        let _ = self.ssh.wait();
    }
}
