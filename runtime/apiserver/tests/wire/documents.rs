//! What is no object: documents about the API, the bytes of an image.

use super::*;

#[tokio::test]
async fn documents_are_tagged_and_not_sent_twice() {
    let running = Running::start().await;
    let ask = admin(&running);
    let index = ask.get("/openapi/v3").await.body;
    let path = index["paths"]["apis/skysail.dev/v1alpha1"]["serverRelativeURL"]
        .as_str()
        .expect("a path")
        .to_owned();
    let document = ask.get(&path).await;
    let tag = document.headers[header::ETAG]
        .to_str()
        .expect("text")
        .to_owned();
    let again = ask
        .send(
            Method::GET,
            &path,
            &[("if-none-match", &tag)],
            Body::empty(),
        )
        .await;
    assert_eq!(again.code, 304);
    assert_eq!(ask.get("/version").await.body["major"], "1");
    assert_eq!(ask.get("/").await.code, 200);
}

#[tokio::test]
async fn an_image_is_sent_by_the_digest_in_its_status_and_resumed() {
    let running = Running::start().await;
    let ask = admin(&running);
    let image = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Image", "metadata": {"name": "debian"},
        "spec": {"debian": {"suite": "trixie"}}});
    let images = "/apis/skysail.dev/v1alpha1/images";
    let made = ask.post(images, &image).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let early = ask.get(&format!("{images}/debian/blob")).await;
    assert_eq!(early.code, 503, "not built yet: {}", early.body);
    let hex = "ab".repeat(32);
    std::fs::create_dir_all(running.dir.path().join("images")).expect("made");
    std::fs::write(
        running.dir.path().join(format!("images/sha256-{hex}.tar")),
        "0123456789",
    )
    .expect("written");
    let status = json!({"status": {"digest": format!("sha256:{hex}")}}).to_string();
    let merge = [("content-type", "application/merge-patch+json")];
    let patched = ask
        .send(
            Method::PATCH,
            &format!("{images}/debian/status"),
            &merge,
            status,
        )
        .await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let agent = Ask {
        running: &running,
        identity: Some(Identity::host("h1")),
    };
    let whole = agent.get(&format!("{images}/debian/blob")).await;
    assert_eq!(
        (whole.code, &whole.headers[header::CONTENT_LENGTH]),
        (200, &"10".parse().expect("a header"))
    );
    let rest = agent
        .send(
            Method::GET,
            &format!("{images}/debian/blob"),
            &[("range", "bytes=7-")],
            Body::empty(),
        )
        .await;
    assert_eq!((rest.code, rest.body), (206, json!(789)));
}

#[tokio::test]
async fn a_large_list_is_packed_for_who_takes_it_so() {
    let running = Running::start().await;
    let ask = admin(&running);
    for i in 0..40 {
        let map =
            json!({"metadata": {"name": format!("m{i}")}, "data": {"text": "words ".repeat(1000)}});
        assert_eq!(ask.post(MAPS, &map).await.code, 201);
    }
    let gzip = [("accept-encoding", "gzip")];
    let packed = ask.send(Method::GET, MAPS, &gzip, Body::empty()).await;
    assert_eq!(packed.headers[header::CONTENT_ENCODING], "gzip");
    assert_eq!(packed.headers[header::CONTENT_TYPE], "application/json");
    let plain = ask.get(MAPS).await;
    assert!(!plain.headers.contains_key(header::CONTENT_ENCODING));
    let one = format!("{MAPS}?limit=1");
    let small = ask.send(Method::GET, &one, &gzip, Body::empty()).await;
    assert!(!small.headers.contains_key(header::CONTENT_ENCODING));
}
