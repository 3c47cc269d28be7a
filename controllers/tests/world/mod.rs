//! A whole control plane in this process: store, API server, controllers.

#![allow(dead_code)] // Each test binary uses a part.

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use skysail_apiserver::{ApiServer, Config, Identity};
use skysail_clouds::open::Site;
use skysail_controllers::{Context, Settings};
use skysail_reconcile::CancellationToken;
use skysail_schemas::{Container, Host, Image, InstanceType, Network, Port, Segment};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// The tenant of most tests.
pub const TENANT: &str = "acme";

/// Store and API server; controllers come and go.
pub struct World {
    pub client: Client,
    server: ApiServer,
    _dir: tempfile::TempDir,
}

/// Running controllers; dropping it kills them where they are.
pub struct Controllers {
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

impl Controllers {
    /// Asks them to stop and waits until they have.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Kills them at whatever they are doing.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        self.stop.cancel();
    }
}

/// Why a wait ended without what it waited for.
const PATIENCE: Duration = Duration::from_secs(30);

impl World {
    /// An empty one with the tenant's namespace, one instance type, one ready image.
    pub async fn new() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .try_init();
        let dir = tempfile::TempDir::new().unwrap();
        let store = Arc::new(skysail_store::Embedded::in_memory().unwrap());
        let config = Config::new(dir.path(), "https://127.0.0.1:0");
        let server = ApiServer::new(store, config).await.unwrap();
        let client = server.in_process(Identity::admin("test"));
        let world = Self {
            client,
            server,
            _dir: dir,
        };
        world.namespace(TENANT).await;
        world.instance_type("small", "500m", "256Mi").await;
        world.image("debian").await;
        world
    }

    /// Starts controllers; none named means all that need no cloud.
    pub fn controllers(&self, names: &[&str]) -> Controllers {
        self.controllers_at(names, Settings::default().site)
    }

    /// Starts controllers that keep their files at `site`.
    pub fn controllers_at(&self, names: &[&str], site: Site) -> Controllers {
        let stop = CancellationToken::new();
        let settings = Settings {
            identity: None,
            site,
        };
        let context = Context::new(self.client.clone(), settings, &stop);
        let default = ["network", "placement", "container", "container-set"];
        let names = if names.is_empty() {
            &default[..]
        } else {
            names
        };
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let token = stop.clone();
        let task = tokio::spawn(async move {
            // Aborting the task must abort what it spawned, as a killed process would.
            skysail_controllers::run(context, &names, token)
                .await
                .unwrap();
        });
        Controllers { task, stop }
    }

    pub fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub fn tenant<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), TENANT)
    }

    pub async fn namespace(&self, name: &str) {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        self.all::<k8s_openapi::api::core::v1::Namespace>()
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    }

    pub async fn instance_type(&self, name: &str, cpu: &str, memory: &str) {
        let spec = json!({"metadata": {"name": name}, "spec": {"cpu": cpu, "memory": memory}});
        create(&self.tenant::<InstanceType>(), spec).await;
    }

    pub async fn image(&self, name: &str) {
        create(
            &self.all::<Image>(),
            json!({"metadata": {"name": name}, "spec": {"debian": {"suite": "trixie"}}}),
        )
        .await;
        let ready = json!({"status": {"digest": format!("sha256:{}", "a".repeat(64)), "conditions": [condition("Ready", "True", "Ready")]}});
        self.all::<Image>()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(ready))
            .await
            .unwrap();
    }

    pub async fn network(&self, name: &str, cidr: &str) -> Network {
        create(
            &self.tenant(),
            json!({"metadata": {"name": name}, "spec": {"cidr": cidr}}),
        )
        .await
    }

    /// A ready host.
    pub async fn host(&self, name: &str, cpu: &str, memory: &str) {
        create(
            &self.all::<Host>(),
            json!({"metadata": {"name": name}, "spec": {"ssh": {"address": name}}}),
        )
        .await;
        let status = json!({"status": {
            "phase": "Running",
            "addresses": {"internal": "10.1.0.1"},
            "allocatable": {"cpu": cpu, "memory": memory, "disk": "100Gi"},
            "conditions": [condition("Ready", "True", "Ready")],
        }});
        self.all::<Host>()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    pub async fn container(&self, name: &str, networks: Value) -> Container {
        create(&self.tenant(), container(name, networks)).await
    }

    /// Does the agent's part of a deletion.
    pub async fn agent_lets_go(&self, name: &str) {
        let api = self.tenant::<Container>();
        let there = wait(&api, name, "being deleted", |c| {
            c.metadata.deletion_timestamp.is_some()
        })
        .await;
        let left: Vec<_> = there
            .finalizers()
            .iter()
            .filter(|f| *f != "skysail.dev/agent")
            .collect();
        let patch = json!({"metadata": {"finalizers": left}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub async fn ports(&self) -> Vec<Port> {
        self.tenant::<Port>()
            .list(&Default::default())
            .await
            .unwrap()
            .items
    }

    pub async fn segments(&self) -> Vec<Segment> {
        self.all::<Segment>()
            .list(&Default::default())
            .await
            .unwrap()
            .items
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.stop();
    }
}

pub fn container(name: &str, networks: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"image": "debian", "instanceType": "small", "networks": networks}})
}

pub fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// Creates the object.
pub async fn create<K>(api: &Api<K>, value: Value) -> K
where
    K: Clone + serde::de::DeserializeOwned + serde::Serialize + Debug,
{
    let object: K = serde_json::from_value(value).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// Waits for a condition of one object.
pub async fn wait<K>(api: &Api<K>, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> K
where
    K: Clone + serde::de::DeserializeOwned + Debug + Send + Resource + 'static,
{
    let result = tokio::time::timeout(
        PATIENCE,
        kube::runtime::wait::await_condition(api.clone(), name, |o: Option<&K>| {
            o.is_some_and(&holds)
        }),
    )
    .await;
    match result {
        Ok(object) => object.unwrap().unwrap(),
        Err(_) => panic!(
            "{name} was not {what} in time: {:#?}",
            api.get_opt(name).await
        ),
    }
}

/// Waits until the object is gone.
pub async fn gone<K>(api: &Api<K>, name: &str)
where
    K: Clone + serde::de::DeserializeOwned + Debug + Send + Resource + 'static,
{
    let result = tokio::time::timeout(
        PATIENCE,
        kube::runtime::wait::await_condition(api.clone(), name, |o: Option<&K>| o.is_none()),
    )
    .await;
    if result.is_err() {
        panic!("{name} did not go in time: {:#?}", api.get_opt(name).await);
    }
}

pub async fn delete<K>(api: &Api<K>, name: &str)
where
    K: Clone + serde::de::DeserializeOwned + Debug,
{
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

pub fn networked(container: &Container) -> Option<(bool, String, String)> {
    said(container.status.as_ref()?.conditions.iter(), "Networked")
}

pub fn scheduled(container: &Container) -> Option<(bool, String, String)> {
    said(container.status.as_ref()?.conditions.iter(), "Scheduled")
}

fn said<'a>(
    mut conditions: impl Iterator<Item = &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    kind: &str,
) -> Option<(bool, String, String)> {
    conditions
        .find(|c| c.type_ == kind)
        .map(|c| (c.status == "True", c.reason.clone(), c.message.clone()))
}

pub fn has_reason(said: Option<(bool, String, String)>, reason: &str) -> bool {
    said.is_some_and(|(_, r, _)| r == reason)
}
