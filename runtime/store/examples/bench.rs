//! Durable creates per second, through the trait and without it, in one run.
//!
//! `cargo run -p skysail-store --release --example bench [SECONDS]` prints one JSON
//! object per line: name, value, unit. `raw` is etcd's unconditional put by its
//! client alone: what our compare-and-swap costs on top shows against it. Each
//! writer waits for its write; the files are in the temporary directory.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot run has no result"
)]

#[path = "../tests/backends/etcd_process.rs"]
#[allow(dead_code, reason = "nothing is killed here")]
mod etcd_process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_process::EtcdProcess;
use skysail_store::{Embedded, Etcd, Store, etcd};

const WRITERS: [usize; 3] = [1, 16, 64];
/// A typical object, in bytes.
const VALUE: usize = 1024;

/// Runs `writers` loops of `write` for a while; all latencies, ascending.
async fn latencies<W, F>(writers: usize, length: Duration, write: W) -> Vec<Duration>
where
    W: Fn(String) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let started = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let write = write.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            while started.elapsed() < length {
                let from = Instant::now();
                write(format!("/bench/{writers}/{writer}/{}", took.len())).await;
                took.push(from.elapsed());
            }
            took
        })
    });
    let mut all: Vec<_> = futures::future::join_all(tasks)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .collect();
    all.sort();
    all
}

fn report(name: &str, writers: usize, length: Duration, latencies: &[Duration]) {
    let line = |name: String, value: f64, unit: &str| {
        println!(
            "{}",
            serde_json::json!({ "name": name, "value": (value * 100.0).round() / 100.0, "unit": unit })
        );
    };
    let rate = latencies.len() as f64 / length.as_secs_f64();
    line(format!("{name}.writes_c{writers}"), rate, "1/s");
    for percent in [50, 99] {
        let at = latencies[(latencies.len() - 1) * percent / 100];
        line(
            format!("{name}.p{percent}_c{writers}"),
            at.as_secs_f64() * 1e3,
            "ms",
        );
    }
}

async fn through_the_trait(name: &str, length: Duration, store: Arc<dyn Store>) {
    let value = Bytes::from(vec![b'x'; VALUE]);
    for writers in WRITERS {
        let (store, value) = (Arc::clone(&store), value.clone());
        let create = move |key: String| {
            let (store, value) = (Arc::clone(&store), value.clone());
            async move {
                store.create(&key, value).await.unwrap();
            }
        };
        report(
            name,
            writers,
            length,
            &latencies(writers, length, create).await,
        );
    }
}

async fn raw(length: Duration, endpoint: &str) {
    let client = etcd_client::Client::connect([endpoint], None)
        .await
        .unwrap();
    for writers in WRITERS {
        let client = client.clone();
        let put = move |key: String| {
            let mut kv = client.kv_client();
            async move {
                kv.put(key, vec![b'x'; VALUE], None).await.unwrap();
            }
        };
        report(
            "raw_etcd",
            writers,
            length,
            &latencies(writers, length, put).await,
        );
    }
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args()
        .nth(1)
        .map_or(3.0, |text| text.parse().unwrap());
    let length = Duration::from_secs_f64(seconds);
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path().join("store.db")).unwrap();
    through_the_trait("embedded", length, Arc::new(store)).await;

    let process = EtcdProcess::start();
    let options = etcd::Options {
        endpoints: vec![process.endpoint()],
        user: None,
        tls: None,
    };
    through_the_trait(
        "etcd",
        length,
        Arc::new(Etcd::connect(options).await.unwrap()),
    )
    .await;
    drop(process);

    let process = EtcdProcess::start();
    raw(length, &process.endpoint()).await;
}
