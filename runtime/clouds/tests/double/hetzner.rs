//! A small Hetzner Cloud for tests: it keeps servers and keys, and its servers are sandbox hosts.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde_json::{Value, json};
use skysail_clouds::{
    Driver, Order,
    open::{Account, Secret},
    sandbox::{Sandbox, Settings},
};
use skysail_schemas::{
    cloud::{CloudSpec, Driver as Kind, HetznerSettings, SandboxSettings},
    host::Resources,
    quantity::{Bytes, Cpu},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

const TOKEN: &str = "the-token-of-the-double";

/// A running double.
pub struct Double {
    endpoint: String,
    project: Arc<Project>,
}

/// What to do wrong with the next call of a method.
#[derive(Clone)]
pub enum Fault {
    /// Answer with this status, code and body.
    Error(u16, &'static str),
    /// Do it, and lose the answer.
    Lost,
    /// Answer as no API does.
    Html,
}

struct Project {
    maker: Option<Sandbox>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    number: u64,
    servers: BTreeMap<u64, Value>,
    keys: BTreeMap<u64, Value>,
    bought: usize,
    calls: usize,
    fault: Option<(Method, Fault)>,
}

type Project_ = State<Arc<Project>>;
type Answer = Result<(StatusCode, Json<Value>), (StatusCode, Json<Value>)>;

impl Double {
    /// Starts it; with machines in the fabric of `settings`, else with addresses only.
    pub async fn start(machines: Option<(&Settings, &str)>) -> Self {
        let maker = machines.map(|(settings, subnet)| {
            let subnet = subnet.parse().unwrap();
            Sandbox::new("double", SandboxSettings { subnet }, settings.clone())
        });
        let project = Arc::new(Project {
            maker,
            kept: Mutex::default(),
        });
        let routes = Router::new()
            .route("/v1/servers", get(servers).post(buy))
            .route("/v1/servers/{id}", get(server).delete(end))
            .route("/v1/server_types", get(types))
            .route("/v1/ssh_keys", get(keys).post(add_key))
            .route("/v1/ssh_keys/{id}", delete(remove_key))
            .route("/v1/servers/{id}/actions/poweron", post(power_on))
            .layer(middleware::from_fn_with_state(project.clone(), guard))
            .with_state(project.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { endpoint, project }
    }

    /// A Cloud of the double.
    pub fn account(&self, name: &str) -> Account {
        let spec = CloudSpec {
            driver: Kind::Hetzner,
            region: Some("fsn1".into()),
            hetzner: Some(HetznerSettings {
                endpoint: self.endpoint.clone(),
                ..HetznerSettings::default()
            }),
            ..CloudSpec::default()
        };
        let secret = Secret {
            name: format!("Secret skysail-system/{name}"),
            data: BTreeMap::from([("token".into(), TOKEN.into())]),
        };
        Account {
            secret: Some(secret),
            ..Account::new(name, &format!("uid-of-{name}"), &spec)
        }
    }

    /// Makes the next call of `method` fail.
    pub fn fault(&self, method: Method, fault: Fault) {
        self.project.kept().fault = Some((method, fault));
    }

    /// How many calls were made.
    pub fn calls(&self) -> usize {
        self.project.kept().calls
    }

    /// How many servers were ever bought.
    pub fn bought(&self) -> usize {
        self.project.kept().bought
    }
}

impl Project {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

fn refused(status: u16, code: &str) -> (StatusCode, Json<Value>) {
    let error = json!({"error": {"code": code, "message": "said by the double"}});
    (StatusCode::from_u16(status).unwrap(), Json(error))
}

async fn guard(
    State(project): Project_,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let bearer = headers.get("authorization").map(|v| v.to_str().unwrap());
    if bearer != Some(&format!("Bearer {TOKEN}")) {
        return refused(401, "unauthorized").into_response();
    }
    let due = {
        let mut kept = project.kept();
        kept.calls += 1;
        let due = kept.fault.take_if(|(method, _)| method == request.method());
        due.map(|(_, fault)| fault)
    };
    match due {
        None => next.run(request).await,
        Some(Fault::Error(status, code)) => refused(status, code).into_response(),
        Some(Fault::Html) => "<html>Please log in</html>".into_response(),
        Some(Fault::Lost) => {
            next.run(request).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
    }
}

/// A page of one item each, so that pages are always followed.
fn page(field: &str, items: Vec<Value>, query: &HashMap<String, String>) -> Json<Value> {
    let page: usize = query.get("page").map_or(1, |p| p.parse().unwrap());
    let next = (items.len() > page).then_some(page + 1);
    let item: Vec<Value> = items.into_iter().skip(page - 1).take(1).collect();
    Json(json!({field: item, "meta": {"pagination": {"next_page": next}}}))
}

async fn servers(
    State(project): Project_,
    Query(query): Query<HashMap<String, String>>,
) -> Json<Value> {
    let selected = |server: &Value| {
        let label = query.get("label_selector").and_then(|s| s.split_once('='));
        label.is_none_or(|(key, value)| server["labels"][key] == value)
            && query
                .get("name")
                .is_none_or(|name| server["name"] == name.as_str())
    };
    let mut all: Vec<Value> = project.kept().servers.values().cloned().collect();
    all.retain(selected);
    page("servers", all, &query)
}

async fn server(State(project): Project_, Path(id): Path<u64>) -> Answer {
    let found = project.kept().servers.get(&id).cloned();
    let server = found.ok_or_else(|| refused(404, "not_found"))?;
    Ok((StatusCode::OK, Json(json!({"server": server}))))
}

async fn buy(State(project): Project_, Json(body): Json<Value>) -> Answer {
    let (id, server) = {
        let mut kept = project.kept();
        if kept.servers.values().any(|s| s["name"] == body["name"]) {
            return Err(refused(409, "uniqueness_error"));
        }
        let keys = body["ssh_keys"].as_array().unwrap();
        if keys
            .iter()
            .any(|k| !kept.keys.contains_key(&k.as_u64().unwrap()))
        {
            return Err(refused(422, "invalid_input"));
        }
        kept.number += 1;
        kept.bought += 1;
        let id = kept.number;
        let server = json!({
            "id": id, "name": body["name"], "status": "initializing", "labels": body["labels"],
            "public_net": {"ipv4": null}, "private_net": [],
        });
        kept.servers.insert(id, server.clone());
        (id, server)
    };
    tokio::spawn(async move {
        let (internal, external) = boot(&project, id, &body).await;
        if let Some(server) = project.kept().servers.get_mut(&id) {
            server["public_net"] = json!({"ipv4": {"ip": external}});
            server["private_net"] = json!([{"ip": internal}]);
            server["status"] = "running".into();
        }
    });
    Ok((StatusCode::CREATED, Json(json!({"server": server}))))
}

/// Who may log in is what cloud-init would read in the user data.
async fn boot(project: &Project, id: u64, body: &Value) -> (String, String) {
    let Some(maker) = &project.maker else {
        return (format!("10.0.0.{id}"), format!("192.0.2.{id}"));
    };
    let user_data = body["user_data"].as_str().unwrap();
    assert!(user_data.contains("disable_root: false\n"));
    let lines = user_data.lines().filter_map(|l| l.strip_prefix("- "));
    let order = Order {
        name: format!("server-{id}"),
        offer: String::new(),
        resources: Resources {
            cpu: Cpu(2000),
            memory: Bytes(2 << 30),
            disk: Bytes(8 << 30),
        },
        public_address: true,
        authorized_keys: lines.map(|l| serde_json::from_str(l).unwrap()).collect(),
        tags: BTreeMap::new(),
        spot: false,
        instead_of: None,
    };
    let machine = maker.create(&order).await.unwrap();
    let text = |address: Option<std::net::IpAddr>| address.unwrap().to_string();
    (text(machine.internal), text(machine.external))
}

async fn end(State(project): Project_, Path(id): Path<u64>) -> Answer {
    let gone = project.kept().servers.remove(&id);
    gone.ok_or_else(|| refused(404, "not_found"))?;
    if let Some(maker) = &project.maker {
        maker.delete(&format!("server-{id}")).await.unwrap();
    }
    Ok((StatusCode::OK, Json(json!({"action": {"id": 1}}))))
}

async fn power_on(State(project): Project_, Path(id): Path<u64>) -> Answer {
    if let Some(server) = project.kept().servers.get_mut(&id) {
        server["status"] = "running".into();
    }
    Ok((StatusCode::CREATED, Json(json!({}))))
}

async fn types(Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let size = |name: &str, architecture: &str, price: &str| {
        json!({
            "name": name, "cores": 2, "memory": 4.0, "disk": 40, "architecture": architecture, "deprecated": false,
            "prices": [{"location": "fsn1", "price_hourly": {"net": price, "gross": "9"}}],
        })
    };
    let all = vec![
        size("cx22", "x86", "0.0060000000000000"),
        size("cax11", "arm", "0.0053000000000000"),
        size("ccx13", "x86", "0.0192000000000000"),
    ];
    page("server_types", all, &query)
}

async fn keys(
    State(project): Project_,
    Query(query): Query<HashMap<String, String>>,
) -> Json<Value> {
    let all = project.kept().keys.values().cloned().collect();
    page("ssh_keys", all, &query)
}

async fn add_key(State(project): Project_, Json(body): Json<Value>) -> Answer {
    let mut kept = project.kept();
    kept.number += 1;
    let id = kept.number;
    let mut key = body;
    key["id"] = id.into();
    kept.keys.insert(id, key.clone());
    Ok((StatusCode::CREATED, Json(json!({"ssh_key": key}))))
}

async fn remove_key(State(project): Project_, Path(id): Path<u64>) -> StatusCode {
    project.kept().keys.remove(&id);
    StatusCode::NO_CONTENT
}
