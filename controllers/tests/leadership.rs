//! Several processes over one store: one works, another takes over.

#![allow(clippy::unwrap_used)] // A test says by panicking what went wrong.

mod world;

use skysail_reconcile::{CancellationToken, lead};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use world::*;

/// Counts who leads, and fails if two do.
#[derive(Default)]
struct Chair {
    now: AtomicUsize,
    ever: AtomicUsize,
}

struct Seat(Arc<Chair>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

fn candidate(
    world: &World,
    chair: &Arc<Chair>,
    name: &'static str,
) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let (client, chair, stop) = (
        world.client.clone(),
        chair.clone(),
        CancellationToken::new(),
    );
    let shutdown = stop.clone();
    let task = tokio::spawn(async move {
        lead(&client, "test", name, shutdown, |stop| {
            let chair = chair.clone();
            async move {
                assert_eq!(
                    chair.now.fetch_add(1, Ordering::SeqCst),
                    0,
                    "two lead at once"
                );
                let _seat = Seat(chair.clone());
                chair.ever.fetch_add(1, Ordering::SeqCst);
                stop.cancelled().await;
            }
        })
        .await;
    });
    (task, stop)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let poll = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while !holds() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), poll)
        .await
        .unwrap_or_else(|_| panic!("not {what} in time"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_another_follows_when_it_leaves_or_dies() {
    let world = World::new().await;
    let chair = Arc::new(Chair::default());
    let (first, stop) = candidate(&world, &chair, "a");
    until("led", || chair.ever.load(Ordering::SeqCst) == 1).await;
    let (second, _) = candidate(&world, &chair, "b");
    stop.cancel();
    first.await.unwrap();
    until("led by the second after the first gave it back", || {
        chair.ever.load(Ordering::SeqCst) == 2
    })
    .await;
    let (_third, _) = candidate(&world, &chair, "c");
    second.abort();
    until("led by the third after the second died", || {
        chair.ever.load(Ordering::SeqCst) == 3
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_are_asked_to_stop_end() {
    let world = World::new().await;
    let controllers = world.controllers(&[]);
    world.network("web", "10.0.0.0/24").await;
    world
        .container("c1", serde_json::json!([{ "name": "web" }]))
        .await;
    let containers = world.tenant::<skysail_schemas::Container>();
    wait(&containers, "c1", "networked", |c| {
        networked(c).is_some_and(|n| n.0)
    })
    .await;
    tokio::time::timeout(Duration::from_secs(10), controllers.stop())
        .await
        .expect("controllers end when asked to");
}
