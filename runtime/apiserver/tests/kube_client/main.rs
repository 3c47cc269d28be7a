//! The API as kube-rs sees it, in the same process.

mod access;
mod deletion;
#[path = "../harness/mod.rs"]
mod harness;
mod objects;
mod watches;

use futures::{StreamExt, TryStreamExt};
use harness::Running;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
    PropagationPolicy, WatchEvent, WatchParams,
};
use kube::runtime::events::{EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use skysail_apiserver::Identity;
use skysail_schemas::{Container, InstanceType};
use std::sync::Arc;
use std::time::Duration;

fn container(name: &str) -> Container {
    from(
        json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container", "metadata": {"name": name},
        "spec": {"image": "debian", "instanceType": "small"}}),
    )
}

fn config_map(name: &str) -> ConfigMap {
    from(json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "b"}}))
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("fits its type")
}

fn code(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("no Status: {other}"),
    }
}

/// Waits until `check` holds; panics after 10 seconds.
async fn until<F, Fut>(what: &str, check: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let waiting = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"));
}
