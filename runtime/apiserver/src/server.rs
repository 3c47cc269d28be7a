//! The server: what it is made of, and how a request finds its handler.

use crate::admission::{self, Options};
use crate::auth::{self, Identity};
use crate::background;
use crate::cache::{Cache, LOG_LENGTH};
use crate::delete::{self, DeleteOptions};
use crate::documents::{self, About};
use crate::failure::Failure;
use crate::kinds::Kinds;
use crate::kubeconfig::kubeconfig;
use crate::namespaces;
use crate::pki::{Pki, PkiError};
use crate::read::{self, Renderer, json_response};
use crate::request::{Call, Path, Query};
use crate::reviews;
use crate::scale;
use crate::schema::CompileError;
use crate::sessions::Sessions;
use crate::strict::MAX_BODY;
use crate::tls::{self, TlsError};
use crate::transfers;
use crate::watch;
use crate::write::{self, Outcome};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use serde_json::Value;
use skysail_store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long a request may take that is no watch, transfer or session.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Requests of this kind that are worked on at once; more are told to come back (429).
const MAX_READS: usize = 400;
const MAX_WRITES: usize = 200;

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
}

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
        }
    }
}

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

/// What every handler sees.
pub(crate) struct Inner {
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
    pub kinds: Kinds,
    pub about: About,
    pub pki: Pki,
    pub config: Config,
    pub sessions: Sessions,
    reads: Semaphore,
    writes: Semaphore,
    pub stop: CancellationToken,
}

/// A running API server. Clones share it; it ends with [`ApiServer::stop`].
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

impl ApiServer {
    /// Loads everything from the store, makes the certificate authority and the two fixed namespaces if they are
    /// missing, and starts the background work.
    pub async fn new(store: Arc<dyn Store>, config: Config) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let kinds = Kinds::new()?;
        let inner = Arc::new(Inner {
            cache: Cache::start(store.clone(), config.log_length, stop.clone()).await?,
            about: About::new(&kinds),
            pki: Pki::open(&config.data_dir)?,
            sessions: Sessions::default(),
            reads: Semaphore::new(MAX_READS),
            writes: Semaphore::new(MAX_WRITES),
            store,
            kinds,
            config,
            stop,
        });
        namespaces::ensure(&inner).await?;
        background::start(&inner);
        Ok(Self { inner })
    }

    /// Every path, as a service. Requests carry their [`Identity`] as an extension; without one the caller is nobody.
    pub fn router(&self) -> Router {
        Router::new()
            .fallback(handle)
            .with_state(self.inner.clone())
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
        let acceptor = tls::acceptor(&self.inner.pki, &self.inner.config.server_names)?;
        let serving = listeners.into_iter().map(|listener| {
            tls::serve(
                listener,
                acceptor.clone(),
                self.router(),
                self.inner.stop.clone(),
            )
        });
        futures::future::join_all(serving).await;
        Ok(())
    }

    /// A kubeconfig for `identity` with a freshly signed certificate; `server` is the URL to put into it.
    pub fn kubeconfig(&self, server: &str, identity: &Identity) -> Result<String, StartError> {
        let credential = self.inner.pki.client(identity)?;
        Ok(kubeconfig(
            server,
            self.inner.pki.ca(),
            &identity.user,
            &credential,
        ))
    }

    /// Ends listeners, watches and background work.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }
}

async fn handle(State(server): State<Arc<Inner>>, request: Request<Body>) -> Response<Body> {
    match route(&server, request).await {
        Ok(response) => response,
        Err(failure) => failure.response(),
    }
}

async fn route(server: &Arc<Inner>, request: Request<Body>) -> Result<Response<Body>, Failure> {
    let path = request.uri().path().to_owned();
    let raw_query = request.uri().query().unwrap_or_default().to_owned();
    let reading = matches!(request.method().as_str(), "GET" | "HEAD");
    if reading && let Some(response) = documents::public(server, &path, &raw_query).await {
        return Ok(response);
    }
    let identity = request
        .extensions()
        .get::<Identity>()
        .cloned()
        .ok_or_else(Failure::unauthorized)?;
    if reading && let Some(response) = documents::known(server, &path, request.headers()) {
        return Ok(response);
    }
    if reviews::is_review(&path) {
        if request.method() != http::Method::POST {
            return Err(Failure::method_not_allowed());
        }
        let (parts, body) = request.into_parts();
        let document = admission::read(&parts.headers, &read_body(body).await?)?;
        let answer = reviews::answer(server, &identity, &path, document.value)?;
        return Ok(json_response(201, answer.to_string()));
    }
    let path = Path::parse(&path)?.ok_or_else(Failure::no_such_path)?;
    let query = Query::parse(&raw_query)?;
    let call = path.call(&server.kinds, request.method(), &query)?;
    if !auth::may(&identity, &call, &server.cache) {
        return Err(forbidden(&identity, &call));
    }
    dispatch(server, &call, &identity, request).await
}

fn forbidden(identity: &Identity, call: &Call<'_>) -> Failure {
    let sub = if call.subresource.is_empty() {
        String::new()
    } else {
        format!("/{}", call.subresource)
    };
    let scope = if call.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", call.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource \"{}{sub}\" in API group {:?} {scope}",
        identity.user, call.verb, call.kind.plural, call.kind.group
    );
    Failure::forbidden_object(call.kind, call.name, &why)
}

async fn dispatch(
    server: &Arc<Inner>,
    call: &Call<'_>,
    identity: &Identity,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    if Sessions::serves(call) {
        return session(server, call, request).await;
    }
    let writes = !matches!(call.verb, "get" | "list" | "watch");
    let limit = if writes {
        &server.writes
    } else {
        &server.reads
    };
    let _slot = limit
        .try_acquire()
        .map_err(|_| Failure::too_many_requests())?;
    let handling = verb(server, call, identity, request);
    tokio::time::timeout(REQUEST_TIME, handling)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::timeout(
                "the request did not end within 60 seconds",
            ))
        })
}

/// One verb of one kind. What is streamed (watches, blobs) is only begun here.
async fn verb(
    server: &Arc<Inner>,
    call: &Call<'_>,
    identity: &Identity,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    match (call.verb, call.subresource) {
        ("get", "" | "status") => {
            check_subresource(call)?;
            read::get(server, call, headers).await
        }
        ("get", "scale") => Ok(json_response(
            200,
            scale::get(server, call).await?.to_string(),
        )),
        ("get", "blob") if call.kind.plural == "images" => {
            transfers::blob(server, call, headers).await
        }
        ("create", "credential") if call.kind.plural == "hosts" => {
            if !identity.is_admin() {
                return Err(forbidden(identity, call));
            }
            transfers::credential(server, call).await
        }
        ("list", "") => read::list(server, call, headers).await,
        ("watch", "") => watch::watch(server, call, headers).await,
        _ => {
            let body = read_body(body).await?;
            let outcome = change(server, call, identity, headers, &body).await?;
            answer(call, headers, outcome)
        }
    }
}

async fn session(
    server: &Inner,
    call: &Call<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Failure> {
    let object = write::current(server, call.kind, call.namespace, call.name).await?;
    let host = match call.kind.plural.as_str() {
        "hosts" => Some(call.name),
        _ => object.value["status"]["host"].as_str(),
    };
    server.sessions.handle(call, host, request).await
}

/// Refuses subresources that the kind does not have.
fn check_subresource(call: &Call<'_>) -> Result<(), Failure> {
    let exists = match call.subresource {
        "" => true,
        "status" => call.kind.status,
        "scale" => call.kind.scale.is_some(),
        "finalize" => call.kind.plural == "namespaces",
        _ => false,
    };
    if exists && call.rest.is_empty() {
        Ok(())
    } else {
        Err(Failure::no_such_path())
    }
}

/// Everything that writes.
async fn change(
    server: &Inner,
    call: &Call<'_>,
    identity: &Identity,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Outcome, Failure> {
    check_subresource(call)?;
    let options = Options::of(call, headers)?;
    match (call.verb, call.subresource) {
        ("create", "") if call.name.is_empty() => {
            write::create(
                server,
                call,
                identity,
                &options,
                admission::read(headers, body)?,
            )
            .await
        }
        ("update" | "patch", "scale") => {
            scale::change(server, call, identity, &options, headers, body).await
        }
        ("update", _) => {
            write::update(
                server,
                call,
                identity,
                &options,
                admission::read(headers, body)?,
            )
            .await
        }
        ("patch", _) => write::patch(server, call, identity, &options, headers, body).await,
        ("delete" | "deletecollection", "") => {
            let body = if body.is_empty() {
                Value::Null
            } else {
                admission::read(headers, body)?.value
            };
            let options = DeleteOptions::of(call, &body)?;
            if call.verb == "delete" {
                delete::delete(server, call.kind, call.namespace, call.name, &options).await
            } else {
                delete::delete_collection(server, call, &options).await
            }
        }
        _ => Err(Failure::method_not_allowed()),
    }
}

/// The response to a write, in the form that the caller asked for.
fn answer(
    call: &Call<'_>,
    headers: &HeaderMap,
    outcome: Outcome,
) -> Result<Response<Body>, Failure> {
    let is_object = outcome.value["kind"] == call.kind.kind.as_str();
    let body = if is_object {
        Renderer::new(call.kind, headers, call.query)?.value(&outcome.value, true)
    } else {
        Bytes::from(outcome.value.to_string())
    };
    let mut response = json_response(outcome.code, body);
    let mut length = 0;
    for warning in &outcome.warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        length += text.len();
        if length > 4096 {
            break;
        }
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response
                .headers_mut()
                .append(HeaderName::from_static("warning"), value);
        }
    }
    Ok(response)
}

async fn read_body(body: Body) -> Result<Bytes, Failure> {
    axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|s| s.is::<http_body_util::LengthLimitError>()) {
            return Failure::too_large(format!("the body has more than {MAX_BODY} bytes"));
        }
        Failure::bad_request(format!("the body cannot be read: {error}"))
    })
}
