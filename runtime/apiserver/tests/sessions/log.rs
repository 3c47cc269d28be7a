//! Logs for clients without WebSocket, such as `kubectl get --raw`.

use super::*;
use tokio::io::AsyncBufReadExt as _;

#[tokio::test]
async fn a_log_that_is_followed_comes_as_it_happens_and_ends_with_its_reader() {
    let relay = Relay::start().await;
    let mut offers = relay.offers().await;
    let path = format!("{CONTAINERS}/db/log?follow=true");
    let mut reader = relay
        .server
        .command(&format!("get --raw {path}"))
        .spawn()
        .expect("kubectl runs");
    let offer = offers.next().await;
    assert_eq!(
        (offer.action.as_str(), offer.query.as_str()),
        ("log", "follow=true")
    );
    let mut agent = relay.dial_back(&offer).await;
    let mut lines = tokio::io::BufReader::new(reader.stdout.take().expect("a pipe")).lines();
    for text in ["first", "second"] {
        agent
            .send(frame(STDOUT, format!("{text}\n").as_bytes()))
            .await
            .expect("sent");
        let line = soon(text, lines.next_line()).await.expect("readable");
        assert_eq!(line.as_deref(), Some(text));
    }
    reader.kill().await.expect("killed");
    assert_eq!(soon("the end", next(&mut agent)).await, None);
}

#[tokio::test]
async fn a_log_that_is_not_followed_ends_with_its_status() {
    let relay = Relay::start().await;
    let mut offers = relay.offers().await;
    let path = format!("get --raw {CONTAINERS}/db/log");
    let reading = relay.server.run(&path);
    let telling = async {
        let mut agent = relay.dial_back(&offers.next().await).await;
        agent
            .send(frame(STDOUT, b"all of it\n"))
            .await
            .expect("sent");
        agent.send(frame(STATUS, b"{}")).await.expect("sent");
        next(&mut agent).await
    };
    let (text, _) = soon("the log", async { tokio::join!(reading, telling) }).await;
    assert_eq!(text, "all of it\n");
}
