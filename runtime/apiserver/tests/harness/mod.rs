//! A server over the embedded store in a temporary directory.

#![allow(dead_code)] // Each test binary uses a part.

pub mod kubectl;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PostParams};
use serde_json::json;
use skysail_apiserver::{ApiServer, Config, Identity};
use skysail_store::Store;
use std::sync::Arc;
use tempfile::TempDir;

/// A server and what it lives on.
pub struct Running {
    pub server: ApiServer,
    pub store: Arc<dyn Store>,
    pub dir: TempDir,
}

impl Running {
    /// Starts one.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Starts one with settings of its own.
    pub async fn start_with(set: impl FnOnce(&mut Config)) -> Self {
        let dir = TempDir::new().expect("a directory");
        let store =
            skysail_store::Embedded::open(dir.path().join("store.db")).expect("store opens");
        Self::over(Arc::new(store), dir, set).await
    }

    /// Starts one over a store that others may use too.
    pub async fn over(store: Arc<dyn Store>, dir: TempDir, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(dir.path(), "https://127.0.0.1:0");
        set(&mut config);
        let server = ApiServer::new(store.clone(), config)
            .await
            .expect("server starts");
        Self { server, store, dir }
    }

    /// An administrator's client.
    pub fn admin(&self) -> kube::Client {
        self.server.in_process(Identity::admin("test"))
    }

    /// Makes a namespace.
    pub async fn namespace(&self, name: &str) {
        let namespace =
            serde_json::from_value(json!({"metadata": {"name": name}})).expect("a namespace");
        let api: Api<Namespace> = Api::all(self.admin());
        api.create(&PostParams::default(), &namespace)
            .await
            .expect("namespace made");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.stop();
    }
}
