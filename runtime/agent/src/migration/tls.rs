//! Agents prove to each other which hosts they are, with the certificates that they show to the API server.
//!
//! Both ends of a stream have the same kind of certificate, made for clients, so the one that dials checks the
//! other's as a client's, against our authority. Which host must be at the other end is for the caller to compare.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use skysail_schemas::identity::{HOST_GROUP, HOST_USER_PREFIX};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, X509Certificate};

/// This host's certificate, its key, and the authority.
#[derive(Clone)]
pub struct Identity {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

fn wrong(e: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.to_string())
}

impl Identity {
    /// The identity in a kubeconfig.
    ///
    /// # Errors
    /// It has no certificate of its own, or one that cannot be used.
    pub fn from_kubeconfig(file: &Path) -> io::Result<Self> {
        let config = kube::config::Kubeconfig::read_from(file).map_err(wrong)?;
        // kube shows its secrets only when they are written down.
        let config = serde_json::to_value(config)?;
        let decoded = |path: &str, what: &str| {
            let text = config.pointer(path).and_then(serde_json::Value::as_str);
            let text = text.ok_or_else(|| wrong(format!("it has no {what}")))?;
            STANDARD.decode(text).map_err(wrong)
        };
        Self::new(
            &decoded(
                "/clusters/0/cluster/certificate-authority-data",
                "authority",
            )?,
            &decoded("/users/0/user/client-certificate-data", "certificate")?,
            &decoded("/users/0/user/client-key-data", "key")?,
        )
    }

    /// The identity of these PEM texts.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn new(authority: &[u8], certificate: &[u8], key: &[u8]) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(authority).map_err(wrong)?;
        roots.add(authority).map_err(wrong)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(wrong)?;
        let own: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(wrong)?;
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(own.clone(), key.clone_key())
            .map_err(wrong)?;
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Peer(verifier)))
            .with_client_auth_cert(own, key)
            .map_err(wrong)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }

    /// Takes connections.
    pub fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// Makes connections.
    pub fn connector(&self) -> &TlsConnector {
        &self.connector
    }
}

/// The host that a verified certificate names.
pub fn host(certificates: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificates?.first()?).ok()?;
    let subject = certificate.subject();
    let of_hosts = subject
        .iter_organization()
        .any(|o| o.as_str() == Ok(HOST_GROUP));
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    let host = user.strip_prefix(HOST_USER_PREFIX)?;
    of_hosts.then(|| host.to_owned())
}

/// Checks the one who was dialled.
#[derive(Debug)]
struct Peer(Arc<dyn ClientCertVerifier>);

impl ServerCertVerifier for Peer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        verified.map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
