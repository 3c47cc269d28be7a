//! The server as a whole: made, served, stopped.

use crate::answer::Failure;
use crate::config::Config;
use crate::identity::pki::{LONGEST, Pki, PkiError};
use crate::identity::{Identity, kubeconfig};
use crate::kinds::Kinds;
use crate::kinds::schema::CompileError;
use crate::serve::tls::{self, TlsError};
use crate::serve::{self, Service};
use crate::state::State;
use crate::upkeep;
use axum::Router;
use http::Request;
use skysail_store::Store;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("API server: {0}")]
    Store(#[from] skysail_store::Error),
    /// The certificate authority.
    #[error("API server: {0}")]
    Pki(#[from] PkiError),
    /// TLS.
    #[error("API server: {0}")]
    Tls(#[from] TlsError),
    /// A kind's schema: a mistake in its type.
    #[error("API server: {0}")]
    Schema(#[from] CompileError),
    /// The namespaces that always exist cannot be made.
    #[error("API server: {0}")]
    Namespaces(#[from] Failure),
}

/// A running API server. Clones share it; it ends with [`ApiServer::stop`].
#[derive(Clone)]
pub struct ApiServer {
    service: Arc<Service>,
}

impl ApiServer {
    /// Loads everything from the store, makes the certificate authority and the two fixed namespaces if they are
    /// missing, and starts the background work.
    pub async fn new(store: Arc<dyn Store>, config: Config) -> Result<Self, StartError> {
        let pki = Pki::open(&config.data_dir)?;
        let stop = CancellationToken::new();
        let state = State::load(store, Kinds::new()?, config.log_length, stop).await?;
        let state = Arc::new(state);
        upkeep::namespaces::ensure(&state).await?;
        upkeep::start(&state, config.event_ttl);
        Ok(Self {
            service: Arc::new(Service::new(state, pki, config)),
        })
    }

    /// Every path, as a service. Requests carry their [`Identity`] as an extension; without one the caller is nobody.
    pub fn router(&self) -> Router {
        serve::router(self.service.clone())
    }

    /// A client in this process, without a socket. Call it inside a tokio runtime.
    pub fn in_process(&self, identity: Identity) -> kube::Client {
        let service = tower::ServiceBuilder::new()
            .map_request(move |mut request: Request<kube::client::Body>| {
                request.extensions_mut().insert(identity.clone());
                request
            })
            .service(self.router());
        kube::Client::new(service, "default")
    }

    /// Serves listeners over TLS until [`ApiServer::stop`].
    pub async fn serve(&self, listeners: Vec<TcpListener>) -> Result<(), StartError> {
        let acceptor = tls::acceptor(&self.service)?;
        let serving = listeners.into_iter().map(|listener| {
            tls::serve(
                listener,
                acceptor.clone(),
                self.router(),
                self.service.state.stop.clone(),
            )
        });
        futures::future::join_all(serving).await;
        Ok(())
    }

    /// A kubeconfig for `identity` with a freshly signed certificate; `server` is the URL to put into it.
    pub fn kubeconfig(&self, server: &str, identity: &Identity) -> Result<String, StartError> {
        let credential = self.service.pki.client(identity, LONGEST)?;
        Ok(kubeconfig(
            server,
            self.service.pki.ca(),
            &identity.user,
            &credential,
        ))
    }

    /// Ends listeners, watches and background work.
    pub fn stop(&self) {
        self.service.state.stop.cancel();
    }
}
