//! The API over TLS on the embedded store: creates per second, a list of 10 000 objects,
//! and how long a change takes to reach 100 watchers.
//!
//! `cargo run -p skysail-apiserver --release --example bench_api` prints one JSON object per
//! line: name, value, unit. Client and server share the machine's processors.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot run has no result"
)]

use futures::StreamExt;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::json;
use skysail_apiserver::{ApiServer, Identity};
use skysail_schemas::InstanceType;
use skysail_store::Embedded;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Barrier, mpsc};

const OBJECTS: usize = 10_000;
const CLIENTS: [usize; 3] = [1, 16, 64];
const WATCHERS: usize = 100;
const CHANGES: usize = 500;

fn line(name: &str, value: f64, unit: &str) {
    let value = (value * 100.0).round() / 100.0;
    println!("{}", json!({ "name": name, "value": value, "unit": unit }));
}

fn instance_type(name: &str) -> InstanceType {
    serde_json::from_value(json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "InstanceType",
        "metadata": { "name": name, "labels": { "app": "bench" } },
        "spec": { "cpu": "1", "memory": "64Mi" },
    }))
    .unwrap()
}

/// A client with a connection of its own.
async fn connect(kubeconfig: &str) -> Client {
    let config = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Creates `count` objects from each of `clients` at once; creates per second.
async fn creates(kubeconfig: &str, clients: usize, count: usize) -> f64 {
    let mut tasks = vec![];
    let begin = Arc::new(Barrier::new(clients + 1));
    for client in 0..clients {
        let api: Api<InstanceType> = Api::namespaced(connect(kubeconfig).await, "default");
        let begin = Arc::clone(&begin);
        tasks.push(tokio::spawn(async move {
            begin.wait().await;
            for i in 0..count {
                let object = instance_type(&format!("c{clients}-{client}-{i}"));
                api.create(&PostParams::default(), &object).await.unwrap();
            }
        }));
    }
    begin.wait().await;
    let begun = Instant::now();
    futures::future::try_join_all(tasks).await.unwrap();
    (clients * count) as f64 / begun.elapsed().as_secs_f64()
}

/// Milliseconds from just before a create to each watcher's event, ascending.
async fn watch_latencies(kubeconfig: &str) -> Vec<f64> {
    let from = Api::<InstanceType>::namespaced(connect(kubeconfig).await, "default")
        .list(&ListParams::default().limit(1))
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let (tell, mut seen) = mpsc::unbounded_channel();
    for _ in 0..WATCHERS {
        let api: Api<InstanceType> = Api::namespaced(connect(kubeconfig).await, "default");
        let parameters = WatchParams::default().labels("app=bench");
        let mut events = api.watch(&parameters, &from).await.unwrap().boxed();
        let tell = tell.clone();
        tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                if let WatchEvent::Added(object) = event {
                    let _ = tell.send((object.name_any(), Instant::now()));
                }
            }
        });
    }
    let api: Api<InstanceType> = Api::namespaced(connect(kubeconfig).await, "default");
    let mut begun = HashMap::new();
    for i in 0..CHANGES {
        let name = format!("watched-{i}");
        begun.insert(name.clone(), Instant::now());
        api.create(&PostParams::default(), &instance_type(&name))
            .await
            .unwrap();
    }
    let mut all = Vec::with_capacity(WATCHERS * CHANGES);
    while all.len() < WATCHERS * CHANGES {
        let (name, at) = seen.recv().await.unwrap();
        if let Some(begun) = begun.get(&name) {
            all.push((at - *begun).as_secs_f64() * 1e3);
        }
    }
    all.sort_by(f64::total_cmp);
    all
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(folder.path().join("store.db")).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let config = skysail_apiserver::Config::new(folder.path(), &url);
    let server = ApiServer::new(Arc::new(store), config).await.unwrap();
    let kubeconfig = server.kubeconfig(&url, &Identity::admin("bench")).unwrap();
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(vec![listener]).await });

    let mut made = 0;
    for clients in CLIENTS {
        let each = OBJECTS / CLIENTS.len() / clients;
        made += each * clients;
        line(
            &format!("creates_c{clients}"),
            creates(&kubeconfig, clients, each).await,
            "1/s",
        );
    }
    creates(&kubeconfig, 2, (OBJECTS - made).div_ceil(2)).await;

    let client = connect(&kubeconfig).await;
    let path = "/apis/skysail.dev/v1alpha1/namespaces/default/instancetypes";
    let mut times = vec![];
    let mut size = 0;
    for _ in 0..5 {
        let request = http::Request::get(path).body(vec![]).unwrap();
        let begun = Instant::now();
        size = client.request_text(request).await.unwrap().len();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    line("list_10000", times[times.len() / 2], "ms");
    line("list_10000_size", size as f64 / 1e6, "MB");

    let latencies = watch_latencies(&kubeconfig).await;
    for percent in [50, 99] {
        line(
            &format!("watch_p{percent}_100_watchers"),
            latencies[(latencies.len() - 1) * percent / 100],
            "ms",
        );
    }
    server.stop();
}
