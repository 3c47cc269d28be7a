//! The bytes of an image.

use crate::answer::Failure;
use crate::request::Call;
use crate::state::State;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use std::io::SeekFrom;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// `GET images/<name>/blob`: the built image, named by the digest in its status. `Range: bytes=<n>-` resumes.
pub(crate) async fn send(
    state: &State,
    data_dir: &Path,
    call: &Call<'_>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    let image = state.current(call.kind, "", call.name).await?;
    let digest = image.value["status"]["digest"].as_str().unwrap_or_default();
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        let text = format!(
            "image {:?} is not built yet: its status has no digest",
            call.name
        );
        return Err(Failure::unavailable(text));
    }
    let path = data_dir.join("images").join(format!("sha256-{hex}.tar"));
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
