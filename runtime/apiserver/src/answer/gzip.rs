//! Large answers, packed for clients that take them so, as the API server of Kubernetes does.

use super::json;
use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, header};
use std::io::Write;

/// Smaller answers are not worth the time.
const LARGE: usize = 128 << 10;
/// Most of the gain for little of the time.
const LEVEL: u32 = 4;

/// JSON with status 200; packed, if it is large and `headers` ask for it.
pub(crate) async fn json_packed(headers: &HeaderMap, text: Bytes) -> Response<Body> {
    if text.len() < LARGE || !accepts(headers) {
        return json(200, text);
    }
    let packed = {
        let text = text.clone();
        tokio::task::spawn_blocking(move || pack(&text)).await
    };
    let mut response = match packed {
        Ok(Ok(packed)) => {
            let mut response = json(200, packed);
            let gzip = HeaderValue::from_static("gzip");
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, gzip);
            response
        }
        _ => json(200, text),
    };
    let vary = HeaderValue::from_static("accept-encoding");
    response.headers_mut().insert(header::VARY, vary);
    response
}

fn pack(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::new(LEVEL));
    packer.write_all(text)?;
    packer.finish()
}

/// Whether `Accept-Encoding` lists gzip, and not as something that is not wanted.
fn accepts(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings = all
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|p| p.strip_prefix("q="));
        is_gzip && weight.is_none_or(|q| q.parse::<f32>().is_ok_and(|q| q > 0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn asking(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, text.parse().expect("a header"));
        headers
    }

    #[test]
    fn gzip_is_used_where_it_is_asked_for() {
        for yes in ["gzip", "deflate, gzip;q=0.5, *", "GZIP"] {
            assert!(accepts(&asking(yes)), "{yes}");
        }
        for no in ["identity", "gzip;q=0", "x-gzip", ""] {
            assert!(!accepts(&asking(no)), "{no}");
        }
        assert!(!accepts(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_large_answer_is_packed_and_a_small_one_is_not() {
        let large = Bytes::from("[1,2,3]".repeat(LARGE));
        let answer = json_packed(&asking("gzip"), large.clone()).await;
        assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
        let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
        let body = body.expect("a body");
        assert!(body.len() < large.len() / 20, "{}", body.len());
        let mut text = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(&body[..]);
        reader.read_to_end(&mut text).expect("unpacked");
        assert!(text == large);
        let small = json_packed(&asking("gzip"), Bytes::from("[]")).await;
        assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
        let plain = json_packed(&HeaderMap::new(), large).await;
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
    }
}
