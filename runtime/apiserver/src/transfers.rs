//! Subresources that carry no object: an image's bytes, a host's credential.

use crate::auth::Identity;
use crate::failure::Failure;
use crate::kubeconfig::kubeconfig;
use crate::read::json_response;
use crate::request::Call;
use crate::server::Inner;
use crate::write::current;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;
use std::io::SeekFrom;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// `GET images/<name>/blob`: the built image, named by the digest in its status. `Range: bytes=<n>-` resumes.
pub(crate) async fn blob(
    server: &Inner,
    call: &Call<'_>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    let image = current(server, call.kind, "", call.name).await?;
    let digest = image.value["status"]["digest"].as_str().unwrap_or_default();
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        let text = format!(
            "image {:?} is not built yet: its status has no digest",
            call.name
        );
        return Err(Failure::unavailable(text));
    }
    let path = server
        .config
        .data_dir
        .join("images")
        .join(format!("sha256-{hex}.tar"));
    let failed = |e: std::io::Error| Failure::unavailable(format!("{}: {e}", path.display()));
    let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    let range = headers.get(header::RANGE).and_then(|v| v.to_str().ok());
    let start = range
        .and_then(|r| {
            r.strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0);
    if start > size {
        return Err(Failure::new(
            416,
            "BadRequest",
            format!("the image has only {size} bytes"),
        ));
    }
    file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
    let stream = ReaderStream::with_capacity(file.take(size - start), 256 * 1024);
    let mut response = Response::new(Body::from_stream(stream));
    if start > 0 {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let value = format!("bytes {start}-{}/{size}", size.saturating_sub(1));
        response.headers_mut().extend(
            HeaderValue::from_str(&value)
                .ok()
                .map(|v| (header::CONTENT_RANGE, v)),
        );
    }
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-tar"),
    );
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(size - start));
    response.headers_mut().extend(
        HeaderValue::from_str(&format!("\"{digest}\""))
            .ok()
            .map(|v| (header::ETAG, v)),
    );
    Ok(response)
}

/// `POST hosts/<name>/credential`: a kubeconfig with a fresh certificate for the host's agent.
pub(crate) async fn credential(server: &Inner, call: &Call<'_>) -> Result<Response<Body>, Failure> {
    current(server, call.kind, "", call.name).await?;
    let identity = Identity::host(call.name);
    let credential = server
        .pki
        .client(&identity)
        .map_err(|e| Failure::internal(e.to_string()))?;
    let text = kubeconfig(
        &server.config.advertise_url,
        server.pki.ca(),
        &identity.user,
        &credential,
    );
    Ok(json_response(201, json!({"kubeconfig": text}).to_string()))
}
