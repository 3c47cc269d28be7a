//! A session on a machine: with Skysail's own key or one from a Secret, its host key
//! trusted on first use and held to ever after.

use openssh::{ControlPersist, KnownHosts, Session, SessionBuilder, Stdio};
use skysail_clouds::SshTarget;
use skysail_reconcile::Error;
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWriteExt};

/// Why nobody can log in; each calls for another way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing answers, or not as sshd does. Passes when the machine has booted.
    Unreachable(String),
    /// It answers but takes none of the keys.
    KeyRefused(String),
    /// It is not the machine that it was.
    HostKeyChanged(String),
    /// The session broke while it was used, or a program on the machine failed.
    Failed(String),
}

/// Skysail's SSH files (`<data-dir>/ssh`).
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// Skysail's own private key, made if there is none. Idempotent.
    pub async fn own_key(&self) -> Result<PathBuf, Error> {
        // Hosts are bootstrapped side by side; two keys made at once would mix their halves.
        static MAKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _alone = MAKING.lock().await;
        let key = self.0.join("id_ed25519");
        if key.with_extension("pub").exists() {
            return Ok(key);
        }
        self.make_private(&self.0)?;
        // Made aside: the public half at its place says that both are complete.
        let draft = self.0.join(format!("draft-{}", std::process::id()));
        let _ = tokio::fs::remove_file(&draft).await;
        let text = draft.to_string_lossy().into_owned();
        skysail_clouds::command::run(
            "ssh-keygen",
            &[
                "-q", "-t", "ed25519", "-N", "", "-C", "skysail", "-f", &text,
            ],
        )
        .await
        .map_err(|e| Error::Transient(e.to_string()))?;
        let moved = async {
            tokio::fs::rename(&draft, &key).await?;
            tokio::fs::rename(draft.with_extension("pub"), key.with_extension("pub")).await
        };
        moved
            .await
            .map_err(|e| Error::Transient(format!("{}: {e}", key.display())))?;
        Ok(key)
    }

    /// The public half of Skysail's own key.
    pub async fn public_key(&self) -> Result<String, Error> {
        let path = self.own_key().await?.with_extension("pub");
        let text = tokio::fs::read_to_string(&path).await;
        Ok(text
            .map_err(|e| Error::Transient(format!("{}: {e}", path.display())))?
            .trim()
            .to_owned())
    }

    /// Keeps a private key that a Secret brought, for ssh to read.
    pub async fn keep_key(&self, name: &str, key: &[u8]) -> Result<PathBuf, Error> {
        let folder = self.0.join("keys");
        self.make_private(&folder)?;
        let path = folder.join(name);
        let write = || {
            use std::os::unix::fs::OpenOptionsExt;
            let draft = path.with_extension("draft");
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?;
            std::io::Write::write_all(&mut file, key)?;
            std::fs::rename(&draft, &path)
        };
        write().map_err(|e| Error::Transient(format!("{}: {e}", path.display())))?;
        Ok(path)
    }

    /// Forgets the host key of `host`: its machine is gone, and the next is another.
    pub async fn forget(&self, host: &str) {
        let _ = tokio::fs::remove_file(self.known_hosts(host)).await;
    }

    fn known_hosts(&self, host: &str) -> PathBuf {
        self.0.join("known_hosts").join(host)
    }

    fn make_private(&self, folder: &Path) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder);
        made.map_err(|e| Error::Transient(format!("{}: {e}", folder.display())))
    }

    /// A session on the machine of `host`.
    pub async fn connect(
        &self,
        host: &str,
        target: &SshTarget,
        key: &Path,
    ) -> Result<Remote, Trouble> {
        let here = |e: std::io::Error| Trouble::Failed(format!("{}: {e}", self.0.display()));
        for folder in ["known_hosts", "config"] {
            self.make_private(&self.0.join(folder))
                .map_err(|e| Trouble::Failed(e.to_string()))?;
        }
        // A file of our own, so that the settings of who runs this do not matter.
        let config = self.0.join("config").join(host);
        let proxy = target
            .proxy_command
            .as_ref()
            .map(|p| format!("ProxyCommand {p}\n"))
            .unwrap_or_default();
        tokio::fs::write(
            &config,
            format!("Host *\nLogLevel ERROR\nGlobalKnownHostsFile /dev/null\nCiphers ^aes128-gcm@openssh.com\n{proxy}"),
        )
        .await
        .map_err(here)?;
        let mut builder = SessionBuilder::default();
        builder
            .user(target.user.clone())
            .port(target.port)
            .keyfile(key)
            .known_hosts_check(KnownHosts::Add)
            .user_known_hosts_file(self.known_hosts(host))
            .config_file(&config)
            .connect_timeout(Duration::from_secs(5))
            .server_alive_interval(Duration::from_secs(5))
            .control_directory(std::env::temp_dir());
        if let Some(idle) = NonZeroUsize::new(20) {
            // The master connection is a process of its own; it must not outlive us for long.
            builder.control_persist(ControlPersist::IdleFor(idle));
        }
        let connecting =
            tokio::time::timeout(Duration::from_secs(15), builder.connect(&target.address));
        match connecting.await {
            Ok(Ok(session)) => Ok(Remote {
                session,
                sudo: target.user != "root",
            }),
            Ok(Err(e)) => Err(classify(target, &e)),
            Err(_) => Err(Trouble::Unreachable(format!(
                "{}:{} took a connection but sshd did not answer within 15 s",
                target.address, target.port
            ))),
        }
    }
}

/// What an error of ssh means.
fn classify(target: &SshTarget, error: &openssh::Error) -> Trouble {
    let mut said = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        said = format!("{said}: {cause}");
        source = cause.source();
    }
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let at = format!("{}@{}:{}", target.user, target.address, target.port);
    if said.contains("Permission denied") {
        Trouble::KeyRefused(format!("{at}: {said}"))
    } else if said.contains("HOST IDENTIFICATION HAS CHANGED")
        || said.contains("Host key verification failed")
    {
        Trouble::HostKeyChanged(at)
    } else {
        Trouble::Unreachable(format!("{at}: {said}"))
    }
}

/// A session.
pub struct Remote {
    session: Session,
    /// Whether the login is not root, so that root's work needs `sudo -n`.
    sudo: bool,
}

impl Remote {
    /// Runs a shell script as the login user.
    pub async fn look(&self, script: &str) -> Result<String, Trouble> {
        self.shell(script, tokio::io::empty(), false, Duration::from_secs(30))
            .await
    }

    /// Runs a shell script as root, with `input` on its standard input.
    pub async fn work(
        &self,
        script: &str,
        input: impl AsyncRead + Send + Unpin,
        deadline: Duration,
    ) -> Result<String, Trouble> {
        self.shell(script, input, self.sudo, deadline).await
    }

    async fn shell(
        &self,
        script: &str,
        mut input: impl AsyncRead + Send + Unpin,
        sudo: bool,
        deadline: Duration,
    ) -> Result<String, Trouble> {
        let broken =
            |e: &dyn std::fmt::Display| Trouble::Failed(format!("the SSH session broke: {e}"));
        let mut command = match sudo {
            true => self.session.command("sudo"),
            false => self.session.command("sh"),
        };
        if sudo {
            command.args(["-n", "sh"]);
        }
        command
            .args(["-euc", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let work = async {
            let mut child = command.spawn().await.map_err(|e| broken(&e))?;
            if let Some(mut stdin) = child.stdin().take() {
                // A script that ends without reading is judged by its exit status.
                let _ = tokio::io::copy(&mut input, &mut stdin).await;
                let _ = stdin.shutdown().await;
            }
            child.wait_with_output().await.map_err(|e| broken(&e))
        };
        let output = tokio::time::timeout(deadline, work)
            .await
            .map_err(|_| Trouble::Failed(format!("no end within {} s", deadline.as_secs())))??;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Trouble::Failed(skysail_clouds::command::tail(
            &[output.stdout, output.stderr].concat(),
        )))
    }

    /// Ends the session; without it, it ends by itself after a while.
    pub async fn close(self) {
        let _ = self.session.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_key_a_changed_machine_and_silence_are_three_troubles() {
        let target = SshTarget {
            address: "h".into(),
            port: 22,
            user: "root".into(),
            proxy_command: None,
            key_secret: None,
        };
        let said = |text: &str| {
            classify(
                &target,
                &openssh::Error::Connect(std::io::Error::other(text.to_owned())),
            )
        };
        assert!(matches!(
            said("root@h: Permission denied (publickey)."),
            Trouble::KeyRefused(_)
        ));
        assert!(matches!(
            said("Host key verification failed."),
            Trouble::HostKeyChanged(_)
        ));
        assert!(matches!(
            said("connect to host h port 22: No route to host"),
            Trouble::Unreachable(_)
        ));
    }
}
