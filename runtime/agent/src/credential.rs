//! The certificate by which this agent is known, renewed before it ends.
//!
//! When two thirds of its time are over the agent asks for another one, with the one that
//! it has, and puts it in the place of the file that bootstrap wrote: whole, or not at all.
//! What uses the client goes on: requests under way end over the old connection, new ones
//! take the new certificate. An agent that was away for longer than its certificate is
//! refused, falls silent, and gets a fresh one by bootstrap.

use base64::Engine;
use http::Request;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use skysail_reconcile::{CancellationToken, Error};
use skysail_schemas::{GROUP, VERSION};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two looks at the clock, which may be set.
const LOOK: Duration = Duration::from_secs(3600);
/// Between two tries, at the most.
const AGAIN: Duration = Duration::from_secs(60);

/// The credential of one agent.
pub struct Credential {
    host: String,
    file: PathBuf,
    current: Arc<RwLock<kube::Client>>,
}

/// When a certificate begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    from: SystemTime,
    until: SystemTime,
}

impl Validity {
    fn of(kubeconfig: &Kubeconfig) -> Option<Self> {
        let user = kubeconfig.auth_infos.first()?.auth_info.as_ref()?;
        let data = user.client_certificate_data.as_ref()?;
        let pem = base64::engine::general_purpose::STANDARD
            .decode(data)
            .ok()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let validity = &certificate.validity;
        let at =
            |time: i64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(time.try_into().ok()?));
        Some(Self {
            from: at(validity.not_before.timestamp())?,
            until: at(validity.not_after.timestamp())?,
        })
    }

    fn lifetime(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    /// How long until it is to be renewed.
    fn left(&self, now: SystemTime) -> Duration {
        let due = self.from + self.lifetime() * 2 / 3;
        due.duration_since(now).unwrap_or_default()
    }

    /// How long to wait after a try that failed.
    fn again(&self) -> Duration {
        (self.lifetime() / 30).clamp(Duration::from_millis(500), AGAIN)
    }
}

/// How this agent connects.
///
/// # Errors
/// The kubeconfig cannot be used.
pub async fn config(file: Kubeconfig) -> Result<kube::Config, kube::config::KubeconfigError> {
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    // A watch lives for minutes and sends nothing when nothing changes; everything else answers soon.
    (config.connect_timeout, config.read_timeout) =
        (Some(Duration::from_secs(5)), Some(Duration::from_secs(330)));
    Ok(config)
}

impl Credential {
    /// The credential in `file`, and a client that always uses the newest one.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn open(
        host: &str,
        file: &Path,
        config: kube::Config,
    ) -> Result<(Arc<Self>, kube::Client), kube::Error> {
        let namespace = config.default_namespace.clone();
        let current = Arc::new(RwLock::new(kube::Client::try_from(config)?));
        let newest = current.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let client = newest
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            async move {
                client.send(request).await.map_err(|e| match e {
                    kube::Error::Service(inner) => inner,
                    other => other.into(),
                })
            }
        });
        let this = Self {
            host: host.to_owned(),
            file: file.to_owned(),
            current,
        };
        Ok((Arc::new(this), kube::Client::new(service, namespace)))
    }

    /// Renews it whenever it is time, until `shutdown`.
    pub async fn renew(&self, shutdown: CancellationToken) {
        loop {
            let validity = Kubeconfig::read_from(&self.file)
                .ok()
                .as_ref()
                .and_then(Validity::of);
            let Some(validity) = validity else {
                tracing::warn!(file = %self.file.display(), "no certificate in it; it is not renewed");
                return;
            };
            let mut wait = validity.left(SystemTime::now());
            if wait.is_zero() {
                match self.ask().await {
                    Ok(()) => tracing::info!("the agent's certificate is renewed"),
                    Err(error) => {
                        tracing::warn!(%error, until = ?validity.until, "the agent's certificate is not renewed yet");
                        wait = validity.again();
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait.min(LOOK)) => {}
            }
        }
    }

    async fn ask(&self) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Answer {
            kubeconfig: String,
        }
        let wrong = |e: &dyn std::fmt::Display| Error::Transient(e.to_string());
        let path = format!("/apis/{GROUP}/{VERSION}/hosts/{}/credential", self.host);
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(b"{}".to_vec())
            .map_err(|e| wrong(&e))?;
        let client = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let answer = tokio::time::timeout(ANSWER, client.request::<Answer>(request)).await;
        let answer = answer.map_err(|e| wrong(&e))??;
        let parsed = Kubeconfig::from_yaml(&answer.kubeconfig).map_err(|e| wrong(&e))?;
        let config = config(parsed).await.map_err(|e| wrong(&e))?;
        let fresh = kube::Client::try_from(config)?;
        self.keep(&answer.kubeconfig).map_err(|e| wrong(&e))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn keep(&self, kubeconfig: &str) -> std::io::Result<()> {
        let draft = self.file.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(kubeconfig.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(draft, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
        let day = Duration::from_secs(86_400);
        let from = SystemTime::UNIX_EPOCH + day * 1000;
        let validity = Validity {
            from,
            until: from + day * 30,
        };
        assert_eq!(validity.left(from), day * 20);
        assert_eq!(validity.left(from + day * 19), day);
        for late in [20, 29, 31, 99] {
            assert_eq!(validity.left(from + day * late), Duration::ZERO);
        }
        assert_eq!(validity.again(), AGAIN);
    }
}
