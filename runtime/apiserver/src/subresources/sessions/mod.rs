//! Sessions (exec, console, log, files of containers) between clients and the agents
//! that have the containers.
//!
//! A host may sit behind NAT, so the server never calls an agent. Each agent keeps one
//! request open, on which the server offers sessions; for each, the agent dials back
//! and the two WebSockets are joined:
//!
//! ```text
//!  client ──GET containers/db/exec (WebSocket)──▶ server ◀──GET hosts/h1/sessions (offers, one per line)── agent
//!                                                   ◀──GET hosts/h1/sessions/<id> (WebSocket)──
//! ```
//!
//! Frames are Kubernetes' `v5.channel.k8s.io` and pass through unread ([`relay`]).

mod relay;

use crate::answer::Failure;
use crate::request::Call;
use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use futures::{Stream, StreamExt};
use http::{Request, Response, header};
use skysail_schemas::session::{Offer, PROTOCOL};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// An agent that has not dialled back after this long is not there.
const DIAL: Duration = Duration::from_secs(10);
/// An empty line so often shows both ends that the other is there.
const ALIVE: Duration = Duration::from_secs(5);
/// Sessions of one host at once: each is some processes there.
const PLACES: usize = 100;

struct Waiting {
    host: String,
    dialled: oneshot::Sender<WebSocket>,
}

#[derive(Default)]
struct State {
    agents: HashMap<String, mpsc::Sender<Offer>>,
    waiting: HashMap<String, Waiting>,
    /// Sessions of each host that has any.
    open: HashMap<String, usize>,
}

/// Agents that are connected, and what goes on with them.
#[derive(Clone)]
pub(crate) struct Sessions {
    state: Arc<Mutex<State>>,
    /// A side that is not heard for this long is gone.
    silence: Duration,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("agents", &self.state().agents.len())
            .finish()
    }
}

/// One of a host's places for sessions, until it is dropped.
struct Place(Sessions, String);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if let Some(open) = state.open.get_mut(&self.1) {
            *open -= 1;
            if *open == 0 {
                state.open.remove(&self.1);
            }
        }
    }
}

/// Removes a waiting session when its client gives up.
struct Registered(Sessions, String);

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.state().waiting.remove(&self.1);
    }
}

impl Sessions {
    /// No sessions yet; each end must be heard within `silence`.
    pub(crate) fn new(silence: Duration) -> Self {
        Self {
            state: Arc::default(),
            silence,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is only ever changed by whole operations, so a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call is for this module: `exec`, `console`, `log` and `files` of containers, `sessions` of hosts.
    pub(crate) fn serves(call: &Call<'_>) -> bool {
        match call.kind.plural.as_str() {
            "containers" => matches!(
                call.subresource,
                "exec" | "console" | "log" | "files" | "trace" | "probe"
            ),
            "hosts" => call.subresource == "sessions",
            _ => false,
        }
    }

    /// Answers a call. The caller is authorized for it; `host` is the host that a container is bound to.
    pub(crate) async fn handle(
        &self,
        call: &Call<'_>,
        host: Option<&str>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        match (call.kind.plural.as_str(), host) {
            ("hosts", Some(host)) if call.rest.is_empty() => Ok(self.offers(host)),
            ("hosts", Some(host)) => self.dialled(host, &call.rest, request).await,
            (_, Some(host)) => self.ask(call, host, request).await,
            (_, None) => Err(Failure::unavailable(format!(
                "container {} has no host yet: see `kubectl describe container -n {} {}`",
                call.name, call.namespace, call.name
            ))),
        }
    }

    /// The open request of an agent: one offer a line. A newer one of the same host replaces an older one.
    fn offers(&self, host: &str) -> Response<Body> {
        let (sender, receiver) = mpsc::channel(64);
        self.state().agents.insert(host.to_owned(), sender);
        let mut response = Response::new(Body::from_stream(lines(receiver)));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json;stream=watch"),
        );
        response
    }

    /// An agent dials back for a session.
    async fn dialled(
        &self,
        host: &str,
        id: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let upgrade = upgrade(request).await?;
        let waiting = {
            let mut state = self.state();
            let of_host = state.waiting.get(id).is_some_and(|w| w.host == host);
            if of_host {
                state.waiting.remove(id)
            } else {
                None
            }
        };
        let waiting = waiting.ok_or_else(|| {
            Failure::new(
                404,
                "NotFound",
                format!("host {host} has no session {id:?}; its client may have gone"),
            )
        })?;
        Ok(upgrade.on_upgrade(|socket| async {
            let _ = waiting.dialled.send(socket);
        }))
    }

    /// A place on a host, or the refusal that says that it has none left.
    fn place(&self, host: &str) -> Result<Place, Failure> {
        let mut state = self.state();
        let open = state.open.entry(host.to_owned()).or_default();
        if *open >= PLACES {
            let text = format!(
                "host {host} has {PLACES} sessions open, and no room for more: end one of them (exec, console, logs -f or cp) and try again"
            );
            return Err(Failure::new(409, "Conflict", text));
        }
        *open += 1;
        Ok(Place(self.clone(), host.to_owned()))
    }

    /// Offers a session to the agent of `host`; its connection when it has dialled back.
    fn offer(
        &self,
        host: &str,
        offer: Offer,
    ) -> Result<impl Future<Output = Option<WebSocket>> + use<>, Failure> {
        let away = || {
            Failure::bad_gateway(format!(
                "the agent of host {host} is not connected, so container {} cannot be entered; see `kubectl describe host {host}`",
                offer.container
            ))
        };
        let (dialled, arrives) = oneshot::channel();
        let agent = {
            let mut state = self.state();
            let agent = state.agents.get(host).filter(|a| !a.is_closed()).cloned();
            let host = host.to_owned();
            state
                .waiting
                .insert(offer.id.clone(), Waiting { host, dialled });
            agent
        };
        let registered = Registered(self.clone(), offer.id.clone());
        let agent = agent.ok_or_else(away)?;
        agent.try_send(offer.clone()).map_err(|_| away())?;
        Ok(async move {
            let socket = tokio::time::timeout(DIAL, arrives).await;
            drop(registered);
            socket.ok().and_then(Result::ok)
        })
    }

    /// A client wants a session: offer it to the host's agent and join the two.
    async fn ask(
        &self,
        call: &Call<'_>,
        host: &str,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let offer = Offer {
            id: uuid::Uuid::new_v4().to_string(),
            namespace: call.namespace.to_owned(),
            container: call.name.to_owned(),
            action: call.subresource.to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
        };
        let plain = call.subresource == "log" && !request.headers().contains_key(header::UPGRADE);
        let upgrade = if plain {
            None
        } else {
            Some(upgrade(request).await?)
        };
        let place = self.place(host)?;
        let arrives = self.offer(host, offer)?;
        let (silence, host) = (self.silence, host.to_owned());
        let mute = format!(
            "the agent of host {host} did not answer within {} s; see `kubectl describe host {host}`",
            DIAL.as_secs()
        );
        let Some(upgrade) = upgrade else {
            let agent = arrives.await.ok_or_else(|| Failure::bad_gateway(mute))?;
            let output = relay::output(agent, place, silence);
            let mut response = Response::new(Body::from_stream(output));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                header::HeaderValue::from_static("text/plain"),
            );
            return Ok(response);
        };
        Ok(upgrade.on_upgrade(move |client| async move {
            match arrives.await {
                Some(agent) => relay::join(client, agent, &host, silence).await,
                None => relay::refuse(client, &mute).await,
            }
            drop(place);
        }))
    }
}

async fn upgrade(request: Request<Body>) -> Result<WebSocketUpgrade, Failure> {
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|e| {
        Failure::bad_request(format!("a session needs a WebSocket ({PROTOCOL}): {e}"))
    })?;
    Ok(upgrade.protocols([PROTOCOL]))
}

/// Offers as lines, with an empty one at the beginning and when there was none for a while.
fn lines(
    receiver: mpsc::Receiver<Offer>,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    let first = futures::stream::iter([Ok(Bytes::from_static(b"\n"))]);
    first.chain(futures::stream::unfold(receiver, |mut receiver| async {
        let line = match tokio::time::timeout(ALIVE, receiver.recv()).await {
            Ok(None) => return None,
            Ok(Some(offer)) => serde_json::to_string(&offer).unwrap_or_default(),
            Err(_) => String::new(),
        };
        Some((Ok(Bytes::from(line + "\n")), receiver))
    }))
}
