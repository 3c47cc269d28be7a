//! What passes between the two sides of a session, once both are there.
//!
//! Each side is pinged, so that no NAT or proxy forgets an idle console, and must be
//! heard from time to time, be it a pong: a side that is gone without a word ends the
//! session for the other. While one side does not take what it is sent, the other is
//! not read (that is the back-pressure, nothing is kept here), so it need not be heard.

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use skysail_schemas::session::{STATUS, STDOUT};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// How long the end of a session may take to be told.
const PARTING: Duration = Duration::from_secs(5);

/// Why frames no longer pass from a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It closed its connection, or the other side did.
    Closed,
    /// It was not heard.
    Silent,
    /// The other side takes no more.
    Unsent,
}

/// Pings at a fourth of `silence`, so that one that is lost does not end a session.
fn pings(silence: Duration) -> Interval {
    let every = silence / 4;
    let mut pings = tokio::time::interval_at(Instant::now() + every, every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

/// Passes frames both ways until one side ends or is not heard for `silence`.
pub(super) async fn join(client: WebSocket, agent: WebSocket, host: &str, silence: Duration) {
    let (mut to_client, from_client) = client.split();
    let (mut to_agent, from_agent) = agent.split();
    let up = async {
        match pass(from_client, &mut to_agent, silence).await {
            // The process may have ended without taking all: its status is on the way.
            End::Unsent => std::future::pending().await,
            end => end,
        }
    };
    let ended = tokio::select! {
        end = up => {
            tracing::debug!(host, ?end, "the client of a session went");
            None
        }
        end = pass(from_agent, &mut to_client, silence) => Some(end),
    };
    let parting = async {
        if ended == Some(End::Silent) {
            let text = format!(
                "the agent of host {host} was not heard for {} s; see `kubectl describe host {host}`",
                silence.as_secs()
            );
            let _ = to_client.send(failure(&text)).await;
        }
        // Who is gone already cannot be told.
        let _ = tokio::join!(to_client.close(), to_agent.close());
    };
    let _ = tokio::time::timeout(PARTING, parting).await;
}

/// Passes frames one way, and pings where they go.
async fn pass(
    mut from: SplitStream<WebSocket>,
    to: &mut SplitSink<WebSocket, Message>,
    silence: Duration,
) -> End {
    let (mut pings, mut heard) = (pings(silence), Instant::now());
    loop {
        let message = tokio::select! {
            biased;
            message = from.next() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Closed,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {
                    heard = Instant::now();
                    continue;
                }
                Some(Ok(message)) => message,
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
            () = tokio::time::sleep_until(heard + silence) => return End::Silent,
        };
        let heard_now = !matches!(message, Message::Ping(_));
        let asked = Instant::now();
        if to.send(message).await.is_err() {
            return End::Unsent;
        }
        // Nobody listened while the other side was slow.
        heard = if heard_now {
            Instant::now()
        } else {
            heard + asked.elapsed()
        };
    }
}

/// A [`STATUS`] frame that ends a session.
fn failure(text: &str) -> Message {
    let status = serde_json::json!({ "metadata": {}, "status": "Failure", "reason": "ServiceUnavailable", "message": text, "code": 502 });
    Message::Binary(
        [&[STATUS][..], status.to_string().as_bytes()]
            .concat()
            .into(),
    )
}

/// Tells a client why there is no session.
pub(super) async fn refuse(mut client: WebSocket, text: &str) {
    let parting = async {
        let _ = client.send(failure(text)).await;
        let _ = client.close().await;
    };
    let _ = tokio::time::timeout(PARTING, parting).await;
}

/// What the agent sends on standard output, for clients without WebSocket. Holds the session's `place`
/// as long as somebody listens.
pub(super) fn output(
    agent: WebSocket,
    place: impl Send,
    silence: Duration,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    let begin = (agent, place, pings(silence));
    futures::stream::unfold(begin, move |(mut agent, place, mut pings)| async move {
        let mut heard = Instant::now();
        let data = loop {
            tokio::select! {
                message = agent.recv() => match message {
                    Some(Ok(Message::Binary(data))) if data.first() == Some(&STDOUT) => break Ok(data.slice(1..)),
                    Some(Ok(Message::Binary(data))) if data.first() == Some(&STATUS) => return None,
                    Some(Ok(Message::Close(_))) | None => return None,
                    Some(Ok(_)) => heard = Instant::now(),
                    Some(Err(e)) => break Err(std::io::Error::other(e)),
                },
                _ = pings.tick() => {
                    if agent.send(Message::Ping(Bytes::new())).await.is_err() {
                        return None;
                    }
                }
                () = tokio::time::sleep_until(heard + silence) => {
                    break Err(std::io::Error::other("the agent is silent"));
                }
            }
        };
        Some((data, (agent, place, pings)))
    })
}
