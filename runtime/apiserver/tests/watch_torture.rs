//! Many writers and watchers with selectors, disconnects and a short history: what
//! each watcher has put together equals the final list, without gap or repeat.

mod harness;
#[path = "../../store/tests/backends/mod.rs"]
mod stores;

use futures::StreamExt;
use harness::Running;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Client, ResourceExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::sync::watch;

const WRITERS: u64 = 4;
const WATCHERS: u64 = 12;
const WRITES: usize = 150;
const NAMES: u32 = 10;

/// Creates, relabels, changes and deletes at random.
async fn write(client: Client, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    for i in 0..WRITES {
        let name = format!("o{}", rng.random_range(0..NAMES));
        let body = json!({"metadata": {"name": name, "labels": {"half": format!("{}", rng.random_range(0..2))}},
            "data": {"i": format!("{seed}-{i}")}});
        // Losing a race with another writer is part of the game.
        let _lost = match rng.random_range(0..3) {
            0 => api
                .create(
                    &PostParams::default(),
                    &serde_json::from_value(body).expect("fits"),
                )
                .await
                .map(drop),
            1 => api
                .patch(&name, &PatchParams::default(), &Patch::Merge(&body))
                .await
                .map(drop),
            _ => api.delete(&name, &DeleteParams::default()).await.map(drop),
        };
    }
}

type Seen = BTreeMap<String, String>;

fn data(object: &ConfigMap) -> String {
    object
        .data
        .as_ref()
        .and_then(|d| d.get("i").cloned())
        .unwrap_or_default()
}

/// One watcher: its objects, where it is, and how often it had to start again.
struct Watcher {
    api: Api<ConfigMap>,
    selector: String,
    seen: Seen,
    at: u64,
    relists: usize,
}

impl Watcher {
    async fn list(&mut self) {
        let list = self
            .api
            .list(&ListParams::default().labels(&self.selector))
            .await
            .expect("list");
        self.at = list
            .metadata
            .resource_version
            .as_deref()
            .expect("a revision")
            .parse()
            .expect("a number");
        self.seen = list.items.iter().map(|o| (o.name_any(), data(o))).collect();
        self.relists += 1;
    }

    /// Takes an event; panics on a repeat or a gap. `false` if the history is gone.
    fn take(&mut self, event: WatchEvent<ConfigMap>) -> bool {
        let (object, known) = match event {
            WatchEvent::Error(status) => {
                assert_eq!(status.code, 410, "{status:?}");
                return false;
            }
            WatchEvent::Bookmark(mark) => {
                self.at = mark.metadata.resource_version.parse().expect("a number");
                return true;
            }
            WatchEvent::Added(o) => {
                let new = self.seen.insert(o.name_any(), data(&o)).is_none();
                (o, new)
            }
            WatchEvent::Modified(o) => {
                let known = self.seen.insert(o.name_any(), data(&o)).is_some();
                (o, known)
            }
            WatchEvent::Deleted(o) => {
                let known = self.seen.remove(&o.name_any()).is_some();
                (o, known)
            }
        };
        let at = object
            .resource_version()
            .expect("a revision")
            .parse()
            .expect("a number");
        assert!(at > self.at, "{} came after {}: a repeat", at, self.at);
        assert!(
            known,
            "{} at {at} does not follow from what was seen: a gap",
            object.name_any()
        );
        self.at = at;
        true
    }

    /// Watches, dropping the connection at random, until it has seen `end`.
    async fn run(mut self, mut rng: StdRng, mut end: watch::Receiver<Option<u64>>) -> Self {
        self.list().await;
        loop {
            let params = WatchParams::default().labels(&self.selector).timeout(290);
            let mut events = self
                .api
                .watch(&params, &self.at.to_string())
                .await
                .expect("a watch")
                .boxed();
            for _ in 0..rng.random_range(1..60) {
                tokio::select! {
                    event = events.next() => match event {
                        Some(event) => if !self.take(event.expect("fine")) { self.list().await; break; },
                        None => break,
                    },
                    _ = end.changed() => {}
                    // A slow reader falls off a short history.
                    () = tokio::time::sleep(std::time::Duration::from_millis(rng.random_range(5..40))) => break,
                }
            }
            let over = *end.borrow();
            if let Some(last) = over {
                drop(events);
                return self.finish(last).await;
            }
        }
    }

    /// Reads what is left after the writers have ended at revision `last`.
    async fn finish(mut self, last: u64) -> Self {
        let params = WatchParams::default().labels(&self.selector).timeout(1);
        while self.at < last {
            let mut events = self
                .api
                .watch(&params, &self.at.to_string())
                .await
                .expect("a watch")
                .boxed();
            let mut intact = true;
            while let Some(event) = events.next().await {
                intact = intact && self.take(event.expect("fine"));
            }
            if !intact {
                self.list().await;
            }
        }
        self
    }
}

async fn torture(log_length: usize, seed: u64) -> usize {
    println!("seed {seed}, history of {log_length} changes");
    let running = Running::start_with(|c| c.log_length = log_length).await;
    torture_of(&[running], seed).await
}

/// Writers and watchers take turns in which of the servers, all over one store, they use.
async fn torture_of(servers: &[Running], seed: u64) -> usize {
    let client = |i: u64| servers[i as usize % servers.len()].admin();
    let (ended, end) = watch::channel(None);
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|i| {
            let selector = ["", "half=0", "half!=0", "half in (1)"][i as usize % 4].to_owned();
            let api = Api::default_namespaced(client(i / 2));
            let watcher = Watcher {
                api,
                selector,
                seen: Seen::new(),
                at: 0,
                relists: 0,
            };
            tokio::spawn(watcher.run(StdRng::seed_from_u64(seed * 1000 + i), end.clone()))
        })
        .collect();
    let writers = (0..WRITERS).map(|i| tokio::spawn(write(client(i), seed * 100 + i)));
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("wrote");
    }
    let last = servers[0].store.revision().await.expect("a revision");
    ended.send_replace(Some(last));
    let mut relists = 0;
    for watcher in watchers {
        let watcher = watcher.await.expect("watched");
        let list = watcher
            .api
            .list(&ListParams::default().labels(&watcher.selector))
            .await
            .expect("list");
        let wanted: Seen = list.items.iter().map(|o| (o.name_any(), data(o))).collect();
        assert_eq!(watcher.seen, wanted, "selector {:?}", watcher.selector);
        relists += watcher.relists - 1;
    }
    relists
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_reconnect_miss_nothing_and_see_nothing_twice() {
    for seed in [1, 2] {
        assert_eq!(
            torture(100_000, seed).await,
            0,
            "with a long history nobody has to list again"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_fall_behind_a_short_history_are_told_and_recover() {
    let mut relists = 0;
    for seed in [3, 4] {
        relists += torture(3, seed).await;
    }
    assert!(
        relists > 0,
        "the history was long enough for everybody: the test shows nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_two_servers_over_one_etcd_see_the_same() {
    let etcd = stores::etcd().await;
    let dir = || tempfile::TempDir::new().expect("a directory");
    let one = Running::over(etcd.store.clone(), dir(), |_| ()).await;
    let two = Running::over(etcd.store.clone(), dir(), |_| ()).await;
    println!("seed 5");
    assert_eq!(torture_of(&[one, two], 5).await, 0);
}
