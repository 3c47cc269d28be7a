//! The relay of sessions over real TLS, with both its sides as WebSocket clients.

#[path = "../harness/mod.rs"]
mod harness;
mod log;
mod presence;
mod relay;

use futures::io::BufReader;
use futures::stream::BoxStream;
use futures::{AsyncBufReadExt, SinkExt, StreamExt};
use harness::kubectl::Kubectl;
use http::Request;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use skysail_apiserver::{Config, Identity};
use skysail_schemas::session::{Offer, STATUS, STDOUT};
use skysail_schemas::{Container, Host};
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const CONTAINERS: &str = "/apis/skysail.dev/v1alpha1/namespaces/default/containers";
const SESSIONS: &str = "/apis/skysail.dev/v1alpha1/hosts/h1/sessions";

/// A server, a container `db` on host `h1`, and clients over TLS.
struct Relay {
    server: Kubectl,
    client: kube::Client,
    agent: kube::Client,
}

/// The offers that reach an agent.
struct Offers(BoxStream<'static, std::io::Result<String>>);

type Socket = WebSocketStream<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>;

impl Relay {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    async fn start_with(set: impl FnOnce(&mut Config)) -> Self {
        let server = Kubectl::start_with(set).await;
        let client = server.client(&Identity::admin("test")).await;
        let agent = server.client(&Identity::host("h1")).await;
        let post = PostParams::default();
        let host: Host =
            from(json!({"metadata": {"name": "h1"}, "spec": {"cloud": "c", "machineType": "m"}}));
        Api::all(client.clone())
            .create(&post, &host)
            .await
            .expect("a host");
        let relay = Self {
            server,
            client,
            agent,
        };
        relay.container("db", Some("h1")).await;
        relay
    }

    /// Makes a container, on a host or on none yet.
    async fn container(&self, name: &str, host: Option<&str>) {
        let containers: Api<Container> = Api::default_namespaced(self.client.clone());
        let made: Container =
            from(json!({"metadata": {"name": name}, "spec": {"image": "i", "instanceType": "t"}}));
        containers
            .create(&PostParams::default(), &made)
            .await
            .expect("a container");
        if let Some(host) = host {
            let bound = Patch::Merge(json!({"status": {"host": host, "epoch": 1}}));
            containers
                .patch_status(name, &PatchParams::default(), &bound)
                .await
                .expect("bound");
        }
    }

    /// An agent that waits for offers.
    async fn offers(&self) -> Offers {
        let lines = self
            .agent
            .request_stream(get(SESSIONS))
            .await
            .expect("offers");
        let mut offers = Offers(BufReader::new(lines).lines().boxed());
        // The first line, an empty one, says that the server knows this agent.
        offers.0.next().await.expect("a line").expect("readable");
        offers
    }

    async fn connect(&self, action: &str) -> Result<Socket, String> {
        self.connect_to("db", action).await
    }

    async fn connect_to(&self, container: &str, action: &str) -> Result<Socket, String> {
        let path = format!("{CONTAINERS}/{container}/{action}");
        match self.client.connect(get(&path)).await {
            Ok(connection) => Ok(connection.into_stream()),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(other) => panic!("no Status: {other}"),
        }
    }

    async fn dial_back(&self, offer: &Offer) -> Socket {
        let path = format!("{SESSIONS}/{}", offer.id);
        self.agent
            .connect(get(&path))
            .await
            .expect("joined")
            .into_stream()
    }

    /// Both sides of a session.
    async fn session(&self, offers: &mut Offers) -> (Socket, Socket) {
        let client = self.connect("exec").await.expect("a session");
        let offer = offers.next().await;
        assert_eq!(
            (offer.container.as_str(), offer.action.as_str()),
            ("db", "exec")
        );
        (client, self.dial_back(&offer).await)
    }
}

impl Offers {
    async fn next(&mut self) -> Offer {
        loop {
            let line = self.0.next().await.expect("a line").expect("readable");
            if !line.is_empty() {
                return serde_json::from_str(&line).expect("an offer");
            }
        }
    }
}

fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(path).body(Vec::new()).expect("a request")
}

fn from<T: serde::de::DeserializeOwned>(mut value: Value) -> T {
    let kind = if value["spec"].get("cloud").is_some() {
        "Host"
    } else {
        "Container"
    };
    value["apiVersion"] = json!("skysail.dev/v1alpha1");
    value["kind"] = json!(kind);
    serde_json::from_value(value).expect("fits its type")
}

fn frame(channel: u8, data: &[u8]) -> Message {
    Message::binary([&[channel][..], data].concat())
}

/// The next frame that is no ping or pong; `None` when the other side has ended the session.
async fn next(socket: &mut Socket) -> Option<Vec<u8>> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(data))) => return Some(data.to_vec()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            _ => return None,
        }
    }
}

/// No longer than this may anything take.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("never happened: {what}"),
    }
}
