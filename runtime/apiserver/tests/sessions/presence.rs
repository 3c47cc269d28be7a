//! Who is there, who is gone, and what is said about it.

use super::*;

const SILENCE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn an_idle_session_is_pinged_on_both_sides_and_stays() {
    let relay = Relay::start_with(|c| c.session_silence = SILENCE).await;
    let mut offers = relay.offers().await;
    let (mut client, mut agent) = relay.session(&mut offers).await;
    // Longer than a silent side would be borne with.
    let (mut at_client, mut at_agent) = (0, 0);
    while at_client < 6 || at_agent < 6 {
        let ping = async {
            tokio::select! {
                message = client.next() => (message, true),
                message = agent.next() => (message, false),
            }
        };
        match soon("a ping", ping).await {
            (Some(Ok(Message::Ping(_))), true) => at_client += 1,
            (Some(Ok(Message::Ping(_))), false) => at_agent += 1,
            other => panic!("{other:?}"),
        }
    }
    client.send(frame(0, b"still here")).await.expect("sent");
    let arrived = soon("a frame", next(&mut agent)).await;
    assert_eq!(arrived.expect("a frame")[1..], *b"still here");
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_named_to_the_client() {
    let relay = Relay::start_with(|c| c.session_silence = SILENCE).await;
    let mut offers = relay.offers().await;
    // The agent's side is there, but nobody reads it: no ping is answered.
    let (mut client, _agent) = relay.session(&mut offers).await;
    let last = soon("the status", next(&mut client))
        .await
        .expect("a frame");
    let text = String::from_utf8_lossy(&last[1..]).into_owned();
    assert_eq!(last[0], STATUS);
    assert!(
        text.contains("the agent of host h1 was not heard for"),
        "{text}"
    );
    assert_eq!(next(&mut client).await, None);
}

#[tokio::test]
async fn a_client_that_falls_silent_ends_the_session_at_the_agent() {
    let relay = Relay::start_with(|c| c.session_silence = SILENCE).await;
    let mut offers = relay.offers().await;
    let (_client, mut agent) = relay.session(&mut offers).await;
    assert_eq!(soon("the end", next(&mut agent)).await, None);
}

#[tokio::test]
async fn a_client_that_goes_ends_the_session_at_the_agent() {
    let relay = Relay::start().await;
    let mut offers = relay.offers().await;
    let (client, mut agent) = relay.session(&mut offers).await;
    drop(client);
    assert_eq!(soon("the end", next(&mut agent)).await, None);
}

#[tokio::test]
async fn a_container_that_cannot_be_entered_says_where_and_what_to_do() {
    let relay = Relay::start().await;
    let away = relay.connect("exec").await.expect_err("refused");
    assert_eq!(
        away,
        "the agent of host h1 is not connected, so container db cannot be entered; see `kubectl describe host h1`"
    );
    relay.container("new", None).await;
    let unbound = relay.connect_to("new", "exec").await.expect_err("refused");
    assert_eq!(
        unbound,
        "container new has no host yet: see `kubectl describe container -n default new`"
    );
    // An agent that went away is not taken for one that is there.
    drop(relay.offers().await);
    let gone = async {
        while relay.connect("exec").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the agent's going is noticed", gone).await;
}

#[tokio::test]
async fn a_host_without_room_for_another_session_is_named_until_one_ends() {
    let relay = Relay::start().await;
    let mut offers = relay.offers().await;
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(relay.session(&mut offers).await);
    }
    let full = relay.connect("exec").await.expect_err("refused");
    assert!(
        full.starts_with("host h1 has 100 sessions open, and no room for more: end one"),
        "{full}"
    );
    open.pop();
    let again = async {
        loop {
            match relay.connect("exec").await {
                Ok(socket) => return socket,
                Err(text) => assert!(text.contains("no room"), "{text}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("room", again).await;
}
