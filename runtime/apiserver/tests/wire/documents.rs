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
