//! Sessions: `exec`, `console`, `logs` and `cp` for containers of this host, and what `skysail net` looks at there.
//!
//! The agent keeps one request open on which the API server offers sessions, and dials
//! back for each (see the API server's module of the same name). Every session is one
//! process here ([`line`] says which), whose streams are the channels ([`process`],
//! [`input`]). When the client goes, what it started is ended ([`ending`]).

mod ending;
mod input;
pub mod line;
mod network;
mod process;
#[cfg(test)]
mod tests;

use futures::{AsyncBufReadExt, TryStreamExt};
use http::Request;
use line::Line;
use skysail_reconcile::CancellationToken;
use skysail_schemas::session::{Offer, SILENCE};
use std::time::Duration;

/// Longer silence than this on the open request means that the server is gone: it writes every 5 s.
const MUTE: Duration = Duration::from_secs(20);
/// Between two tries to reach the server.
const AGAIN: Duration = Duration::from_secs(1);

/// Serves sessions until `shutdown`, each by the process that `serves` says.
pub async fn run(
    client: kube::Client,
    host: String,
    serves: impl Fn(&Offer) -> Line,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let served = tokio::select! {
            () = shutdown.cancelled() => return,
            served = listen(&client, &host, &serves) => served,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "no sessions for now");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Takes offers from one request until it ends.
async fn listen(
    client: &kube::Client,
    host: &str,
    serves: &impl Fn(&Offer) -> Line,
) -> Result<(), String> {
    let path = format!("/apis/skysail.dev/v1alpha1/hosts/{host}/sessions");
    let request = Request::get(&path)
        .body(vec![])
        .map_err(|e| e.to_string())?;
    let mut offers = client
        .request_stream(request)
        .await
        .map_err(|e| e.to_string())?
        .lines();
    loop {
        let line = tokio::time::timeout(MUTE, offers.try_next())
            .await
            .map_err(|_| "the server is silent".to_owned())?;
        let Some(line) = line.map_err(|e| e.to_string())? else {
            return Ok(());
        };
        if line.trim().is_empty() {
            continue;
        }
        let offer: Offer = serde_json::from_str(&line)
            .map_err(|e| format!("an offer that cannot be read: {e}"))?;
        let (client, path, line) = (
            client.clone(),
            format!("{path}/{}", offer.id),
            serves(&offer),
        );
        tokio::spawn(async move {
            if let Err(error) = serve(&client, &path, line).await {
                tracing::warn!(container = format!("{}/{}", offer.namespace, offer.container), action = offer.action, %error, "session failed");
            }
        });
    }
}

async fn serve(client: &kube::Client, path: &str, line: Line) -> Result<(), String> {
    let request = Request::get(path).body(vec![]).map_err(|e| e.to_string())?;
    let socket = client
        .connect(request)
        .await
        .map_err(|e| e.to_string())?
        .into_stream();
    process::run(line, socket, SILENCE).await
}
