//! Requests that kube's typed API has no word for: Tables, options of deletion, watches of either.

use futures::{AsyncBufReadExt as _, Stream, TryStreamExt as _};
use serde_json::Value;
use std::fmt::Write as _;

/// Asks for objects.
pub const JSON: &str = "application/json";
/// Asks for rows as the server lays them out.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// A path with a query; parameters without value are left out.
pub fn url(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut url = path.to_owned();
    let mut mark = '?';
    for (key, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        url.push(mark);
        mark = '&';
        let _ = write!(url, "{key}={}", escaped(value));
    }
    url
}

/// A text as one part of a path or a value of a query.
pub fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}

fn request(
    method: &str,
    url: &str,
    accept: &str,
    body: Vec<u8>,
) -> Result<http::Request<Vec<u8>>, kube::Error> {
    let request = http::Request::builder()
        .method(method)
        .uri(url)
        .header(http::header::ACCEPT, accept);
    request
        .header(http::header::CONTENT_TYPE, JSON)
        .body(body)
        .map_err(kube::Error::HttpError)
}

/// `GET`.
///
/// # Errors
/// The server's refusal, or why it cannot be reached.
pub async fn get(client: &kube::Client, url: &str, accept: &str) -> Result<Value, kube::Error> {
    client.request(request("GET", url, accept, vec![])?).await
}

/// `DELETE` with options.
///
/// # Errors
/// The server's refusal, or why it cannot be reached.
pub async fn delete(
    client: &kube::Client,
    url: &str,
    options: &Value,
) -> Result<Value, kube::Error> {
    client
        .request(request(
            "DELETE",
            url,
            JSON,
            options.to_string().into_bytes(),
        )?)
        .await
}

/// The events of a watch, until the server ends it.
///
/// # Errors
/// The server's refusal, or why it cannot be reached.
pub async fn watch(
    client: &kube::Client,
    url: &str,
    accept: &str,
) -> Result<impl Stream<Item = Result<Value, kube::Error>> + use<>, kube::Error> {
    let lines = client
        .request_stream(request("GET", url, accept, vec![])?)
        .await?
        .lines();
    Ok(lines
        .map_err(kube::Error::ReadEvents)
        .and_then(
            |line| async move { serde_json::from_str(&line).map_err(kube::Error::SerdeError) },
        ))
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn queries_are_escaped_and_empty_parameters_left_out() {
        assert_eq!(
            url("/a", &[("x", "a=b,c d"), ("y", ""), ("z", "1")]),
            "/a?x=a%3Db%2Cc%20d&z=1"
        );
        assert_eq!(url("/a", &[("y", "")]), "/a");
    }
}
