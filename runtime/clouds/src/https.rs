//! Connections to the APIs of clouds.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::time::Duration;

/// How long one exchange may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const LONGEST: usize = 64 << 20;

/// A client that keeps its connections.
pub type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes a client that trusts this machine's certificate authorities.
///
/// # Errors
/// When this machine has none.
pub fn client() -> Result<Https, String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_secs(5)));
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|e| {
            format!("no CA certificates on this machine: install ca-certificates ({e})")
        })?;
    let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// One exchange: the whole answer.
///
/// # Errors
/// With the reason why none came.
pub async fn exchange(
    https: &Https,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, HeaderMap, String), String> {
    let exchanged = async {
        let answer = https.request(request).await;
        let (head, body) = answer.map_err(|e| deepest(&e))?.into_parts();
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok((head.status, head.headers, text))
    };
    tokio::time::timeout(DEADLINE, exchanged)
        .await
        .unwrap_or_else(|_| Err(format!("nothing came within {} s", DEADLINE.as_secs())))
}

/// What is at the bottom of an error: `connection refused` rather than `client error`.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
