//! The agent's side of the tests: this test program, run again inside a host's namespaces, with a network
//! plane, an API that serves the Ports and SecurityPolicies that the test pushes, and commands on standard input.
//! Until Ports are pushed the API is out of service.

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::get};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skysail_agent::network::{NetworkPlane, Settings};
use skysail_schemas::port::Port;
use skysail_schemas::quantity::Bandwidth;
use skysail_schemas::{PortSpec, SecurityPolicy};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::BufRead;
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

/// Variable that carries [`Identity`] to the agent.
pub const ROLE: &str = "SKYSAIL_TEST_HOST";
/// Marks an answer among whatever else is printed.
pub const ANSWER: &str = "answer ";

/// Which host the agent is on.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Identity {
    pub host: String,
    pub cloud: String,
    pub internal: IpAddr,
    pub external: IpAddr,
}

/// What the test asks of an agent.
#[derive(Serialize, Deserialize, Debug)]
pub enum Command {
    Ports(Vec<Port>),
    Policies(Vec<SecurityPolicy>),
    Attach(PathBuf, Vec<PortSpec>, Option<Bandwidth>),
    Detach(Vec<PortSpec>),
}

/// Runs until standard input ends.
pub fn run(identity: &str) {
    let identity: Identity = serde_json::from_str(identity).unwrap();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(std::io::stderr)
        .init();
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(serve(identity));
}

async fn serve(identity: Identity) {
    let (ports, followed) = watch::channel(None::<Vec<Port>>);
    let (policies, of_tenants) = watch::channel(None::<Vec<SecurityPolicy>>);
    let api = Router::new()
        .route("/apis/skysail.dev/v1alpha1/ports", get(list))
        .with_state(followed);
    let path = "/apis/skysail.dev/v1alpha1/namespaces/{namespace}/securitypolicies";
    let api = api.merge(
        Router::new()
            .route(path, get(list_policies))
            .with_state(of_tenants),
    );
    let settings = Settings {
        host: identity.host,
        cloud: Some(identity.cloud),
        internal: Some(identity.internal),
        external: Some(identity.external),
        protected: Vec::new(),
        run_dir: "/run/skysail".into(),
        data_dir: "/var/lib/skysail".into(),
    };
    let plane = NetworkPlane::start(settings, kube::Client::new(api, "default"))
        .await
        .unwrap();
    println!("\n{ANSWER}\"started\"");
    let (send, mut lines) = tokio::sync::mpsc::channel(8);
    std::thread::spawn(move || {
        std::io::stdin()
            .lock()
            .lines()
            .try_for_each(|l| send.blocking_send(l.unwrap()))
    });
    while let Some(line) = lines.recv().await {
        let outcome = match serde_json::from_str(&line).unwrap() {
            Command::Ports(list) => {
                ports.send_replace(Some(list));
                policies.send_if_modified(|now| {
                    now.is_none() && {
                        *now = Some(Vec::new());
                        true
                    }
                });
                Ok(())
            }
            Command::Policies(list) => {
                policies.send_replace(Some(list));
                Ok(())
            }
            Command::Attach(netns, ports, bandwidth) => {
                plane.attach(&netns, &ports, bandwidth).await
            }
            Command::Detach(ports) => plane.detach(&ports).await,
        };
        println!(
            "\n{ANSWER}{}",
            json!(outcome.err().map_or("done".to_owned(), |e| e.to_string()))
        );
    }
}

fn selected(ports: &[Port], selector: &str) -> Vec<Port> {
    let (field, value) = selector.split_once('=').unwrap();
    let matches = |p: &&Port| match field {
        "spec.vni" => p.spec.vni.to_string() == value,
        "spec.location.host" => p.spec.location.as_ref().is_some_and(|l| l.host == value),
        other => panic!("an agent may not select by {other}"),
    };
    ports.iter().filter(matches).cloned().collect()
}

type Api = State<watch::Receiver<Option<Vec<Port>>>>;

async fn list(State(ports): Api, Query(query): Query<HashMap<String, String>>) -> Response {
    let selector = query["fieldSelector"].clone();
    let Some(all) = ports.borrow().clone() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let now = selected(&all, &selector);
    if query.get("watch").is_none_or(|w| w != "true") {
        let list = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "PortList", "metadata": {"resourceVersion": "1"}, "items": now});
        return Json(list).into_response();
    }
    let mut before: HashMap<String, Port> = HashMap::new();
    let lines = WatchStream::new(ports).map(move |list| {
        let now: HashMap<String, Port> = selected(list.as_deref().unwrap_or(&[]), &selector)
            .into_iter()
            .map(|p| (name(&p), p))
            .collect();
        let event = |kind: &str, port: &Port| -> String {
            let mut object: Value = serde_json::to_value(port).unwrap();
            object["metadata"]["resourceVersion"] = "1".into();
            format!("{}\n", json!({"type": kind, "object": object}))
        };
        let changed = now
            .values()
            .filter(|p| before.get(&name(p)) != Some(p))
            .map(|p| event("MODIFIED", p));
        let gone = before
            .values()
            .filter(|p| !now.contains_key(&name(p)))
            .map(|p| event("DELETED", p));
        let text: String = changed.chain(gone).collect();
        before = now;
        Ok::<_, Infallible>(text)
    });
    Body::from_stream(lines).into_response()
}

type Policies = State<watch::Receiver<Option<Vec<SecurityPolicy>>>>;

async fn list_policies(
    State(policies): Policies,
    UrlPath(namespace): UrlPath<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let own = move |all: &Option<Vec<SecurityPolicy>>| -> HashMap<String, SecurityPolicy> {
        let all = all.iter().flatten();
        let own = all.filter(|p| p.metadata.namespace.as_ref() == Some(&namespace));
        own.map(|p| (p.metadata.name.clone().unwrap_or_default(), p.clone()))
            .collect()
    };
    if policies.borrow().is_none() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let now = own(&policies.borrow());
    if query.get("watch").is_none_or(|w| w != "true") {
        let items: Vec<_> = now.into_values().collect();
        let list = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "SecurityPolicyList", "metadata": {"resourceVersion": "1"}, "items": items});
        return Json(list).into_response();
    }
    let mut before: HashMap<String, SecurityPolicy> = HashMap::new();
    let lines = WatchStream::new(policies).map(move |all| {
        let now = own(&all);
        let event = |kind: &str, policy: &SecurityPolicy| {
            let mut object = serde_json::to_value(policy).unwrap();
            object["metadata"]["resourceVersion"] = "1".into();
            format!("{}\n", json!({"type": kind, "object": object}))
        };
        let changed = now.values().map(|p| event("MODIFIED", p));
        let gone = before.iter().filter(|(n, _)| !now.contains_key(*n));
        let text: String = changed
            .chain(gone.map(|(_, p)| event("DELETED", p)))
            .collect();
        before = now;
        Ok::<_, Infallible>(text)
    });
    Body::from_stream(lines).into_response()
}

fn name(port: &Port) -> String {
    format!(
        "{}/{}",
        port.metadata.namespace.as_deref().unwrap_or(""),
        port.metadata.name.as_deref().unwrap_or("")
    )
}
