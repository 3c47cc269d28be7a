//! TLS listeners: who connects is who their certificate says.
//!
//! A client may connect without a certificate (probes do) and is then nobody; a
//! certificate of another authority is refused in the handshake.

use crate::identity::Identity;
use crate::identity::pki::PkiError;
use crate::serve::Service;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A certificate that TLS does not take.
    #[error("TLS set-up: {0}")]
    Setup(String),
}

fn setup(error: impl std::fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}

/// The server's certificate: a fresh one at the start, and another one when two thirds of its time are over. Who is
/// connected notices nothing, as certificates are shown at the beginning only.
struct Renewing {
    service: Arc<Service>,
    names: Vec<String>,
    current: RwLock<(Arc<CertifiedKey>, SystemTime)>,
}

impl std::fmt::Debug for Renewing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewing")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Renewing {
    fn new(service: &Arc<Service>, now: SystemTime) -> Result<Self, TlsError> {
        let names: BTreeSet<String> = service.config.server_names.iter().cloned().collect();
        let names: Vec<_> = names.into_iter().collect();
        let current = RwLock::new(signed(service, &names, now)?);
        Ok(Self {
            service: service.clone(),
            names,
            current,
        })
    }

    fn at(&self, now: SystemTime) -> Arc<CertifiedKey> {
        let read = || self.current.read().unwrap_or_else(PoisonError::into_inner);
        let (key, due) = read().clone();
        if now < due {
            return key;
        }
        match signed(&self.service, &self.names, now) {
            Ok(fresh) => {
                tracing::info!("the server's certificate is renewed");
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = fresh;
                current.0.clone()
            }
            Err(error) => {
                tracing::warn!(%error, "the server's certificate cannot be renewed; the old one is shown");
                key
            }
        }
    }
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.at(SystemTime::now()))
    }
}

/// A fresh certificate, and when it is time for the next.
fn signed(
    service: &Service,
    names: &[String],
    now: SystemTime,
) -> Result<(Arc<CertifiedKey>, SystemTime), TlsError> {
    let lifetime = service.config.server_certificates;
    let credential = service.pki.server(names, lifetime)?;
    let certificate =
        CertificateDer::from_pem_slice(credential.certificate.as_bytes()).map_err(setup)?;
    let key = PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).map_err(setup)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(setup)?;
    let key = CertifiedKey::new(vec![certificate], key);
    Ok((Arc::new(key), now + lifetime * 2 / 3))
}

/// An acceptor that shows a certificate of this service's authority.
pub fn acceptor(service: &Arc<Service>) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(service.pki.ca().as_bytes()).map_err(setup)?)
        .map_err(setup)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(setup)?;
    let shown = Renewing::new(service, SystemTime::now())?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The identity in a verified client certificate.
fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok().map(str::to_owned))
        .collect();
    Some(Identity { user, groups })
}

/// Serves one listener until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, acceptor, router, stop).await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            // Out of file descriptors, mostly: wait for some to come back.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let caller = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first())
        .and_then(identity);
    let service =
        hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            if let Some(caller) = &caller {
                request.extensions_mut().insert(caller.clone());
            }
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    // A peer that is gone without a word is noticed within a minute.
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(1000);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
