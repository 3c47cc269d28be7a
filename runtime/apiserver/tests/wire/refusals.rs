//! Refusals: code, reason and details.

use super::*;

#[tokio::test]
async fn each_reason_has_the_shape_that_kubernetes_gives_it() {
    let running = Running::start().await;
    let ask = admin(&running);
    let about = json!({"name": "c1", "group": "skysail.dev", "kind": "containers"});
    let missing = ask.get(&format!("{CONTAINERS}/c1")).await;
    expect(
        &missing,
        404,
        "NotFound",
        "containers.skysail.dev \"c1\" not found",
        about.clone(),
    );
    let core = json!({"name": "m", "kind": "configmaps"});
    expect(
        &ask.get(&format!("{MAPS}/m")).await,
        404,
        "NotFound",
        "configmaps \"m\" not found",
        core,
    );
    assert_eq!(ask.post(CONTAINERS, &container("c1")).await.code, 201);
    let again = ask.post(CONTAINERS, &container("c1")).await;
    expect(
        &again,
        409,
        "AlreadyExists",
        "containers.skysail.dev \"c1\" already exists",
        about.clone(),
    );
    let mut stale = container("c1");
    stale["metadata"]["resourceVersion"] = json!("1");
    let stale = ask
        .send(
            Method::PUT,
            &format!("{CONTAINERS}/c1"),
            &[],
            stale.to_string(),
        )
        .await;
    let text = "Operation cannot be fulfilled on containers.skysail.dev \"c1\": the object has been modified; please \
                apply your changes to the latest version and try again";
    expect(&stale, 409, "Conflict", text, about);
    let blind = ask
        .send(
            Method::PUT,
            &format!("{CONTAINERS}/c1"),
            &[],
            container("c1").to_string(),
        )
        .await;
    assert_eq!(
        (
            blind.code,
            blind.body["details"]["causes"][0]["field"].as_str()
        ),
        (422, Some("metadata.resourceVersion"))
    );
    let nowhere = ask.get("/apis/skysail.dev/v1alpha1/nothing").await;
    expect(
        &nowhere,
        404,
        "NotFound",
        "the server could not find the requested resource",
        json!({}),
    );
    let wrong = ask
        .send(Method::POST, &format!("{CONTAINERS}/c1"), &[], "{}")
        .await;
    assert_eq!(
        (wrong.code, wrong.body["reason"].as_str()),
        (405, Some("MethodNotAllowed"))
    );
    let nobody = Ask {
        running: &running,
        identity: None,
    }
    .get(CONTAINERS)
    .await;
    assert_eq!(
        (nobody.code, nobody.body["reason"].as_str()),
        (401, Some("Unauthorized"))
    );
    let agent = Ask {
        running: &running,
        identity: Some(Identity::host("h1")),
    }
    .get("/api/v1/secrets")
    .await;
    let text = "secrets \"\" is forbidden: User \"skysail:host:h1\" cannot list resource \"secrets\" in API group \"\" \
                at the cluster scope";
    expect(
        &agent,
        403,
        "Forbidden",
        text,
        json!({"name": "", "kind": "secrets"}),
    );
}

#[tokio::test]
async fn media_types_that_cannot_be_read_or_given_are_refused() {
    let running = Running::start().await;
    let ask = admin(&running);
    let html = ask
        .send(
            Method::GET,
            CONTAINERS,
            &[("accept", "text/html")],
            Body::empty(),
        )
        .await;
    assert_eq!(
        (html.code, html.body["reason"].as_str()),
        (406, Some("NotAcceptable"))
    );
    let xml = ask
        .send(
            Method::POST,
            CONTAINERS,
            &[("content-type", "text/xml")],
            "<a/>",
        )
        .await;
    assert_eq!(
        (xml.code, xml.body["reason"].as_str()),
        (415, Some("UnsupportedMediaType"))
    );
    ask.post(CONTAINERS, &container("c1")).await;
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let patched = ask
        .send(Method::PATCH, &format!("{CONTAINERS}/c1"), &strategic, "{}")
        .await;
    assert_eq!(patched.code, 415);
    let yaml = [("content-type", "application/yaml")];
    let made = ask
        .send(
            Method::POST,
            MAPS,
            &yaml,
            "metadata: {name: m}\ndata: {a: b}\n",
        )
        .await;
    assert_eq!(
        (made.code, made.body["data"]["a"].as_str()),
        (201, Some("b"))
    );
}

#[tokio::test]
async fn bodies_too_large_too_deep_or_broken_are_refused() {
    let running = Running::start().await;
    let ask = admin(&running);
    let huge = ask
        .send(Method::POST, MAPS, &[], vec![b' '; 10 << 20])
        .await;
    assert_eq!(
        (huge.code, huge.body["reason"].as_str()),
        (413, Some("RequestEntityTooLarge"))
    );
    let fat = json!({"metadata": {"name": "fat"}, "data": {"a": "x".repeat(2 << 20)}});
    assert_eq!(
        ask.post(MAPS, &fat).await.code,
        413,
        "more than the store takes"
    );
    let broken = ask.send(Method::POST, MAPS, &[], "{").await;
    assert_eq!(
        (broken.code, broken.body["reason"].as_str()),
        (400, Some("BadRequest"))
    );
    let deep = ask.send(Method::POST, MAPS, &[], "[".repeat(100_000)).await;
    assert_eq!(deep.code, 400);
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let below = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", [below.as_str(); 9].join(","));
    }
    let bomb = ask
        .send(
            Method::POST,
            MAPS,
            &[("content-type", "application/yaml")],
            bomb,
        )
        .await;
    assert!(matches!(bomb.code, 400 | 413), "{}", bomb.body);
    assert_eq!(ask.get(MAPS).await.body["items"], json!([]));
}

#[tokio::test]
async fn pages_and_revisions_that_are_too_old_are_expired() {
    let running = Running::start_with(|c| c.log_length = 4).await;
    let ask = admin(&running);
    for i in 0..4 {
        ask.post(MAPS, &json!({"metadata": {"name": format!("m{i}")}}))
            .await;
    }
    let page = ask.get(&format!("{MAPS}?limit=2")).await.body;
    for i in 4..12 {
        ask.post(MAPS, &json!({"metadata": {"name": format!("m{i}")}}))
            .await;
    }
    let token = page["metadata"]["continue"].as_str().expect("a token");
    let expired = ask.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(
        (expired.code, expired.body["reason"].as_str()),
        (410, Some("Expired"))
    );
    let onward = expired.body["metadata"]["continue"]
        .as_str()
        .expect("a way on");
    let next = ask.get(&format!("{MAPS}?limit=2&continue={onward}")).await;
    assert_eq!(next.code, 200);
    assert_ne!(
        next.body["items"][0]["metadata"]["name"],
        page["items"][1]["metadata"]["name"]
    );

    let old = page["metadata"]["resourceVersion"]
        .as_str()
        .expect("a revision");
    let watch = ask
        .get(&format!("{MAPS}?watch=true&resourceVersion={old}"))
        .await;
    assert_eq!(watch.code, 200, "kube-rs looks for it in the stream");
    assert_eq!(
        (
            watch.body["type"].as_str(),
            watch.body["object"]["code"].as_u64()
        ),
        (Some("ERROR"), Some(410))
    );
    let exact = ask
        .get(&format!(
            "{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact"
        ))
        .await;
    assert_eq!(exact.code, 410);
    let future = ask.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!(
        (future.code, future.headers[header::RETRY_AFTER].as_bytes()),
        (504, b"1".as_slice())
    );
}

#[tokio::test]
async fn finalizers_cannot_be_added_to_what_is_being_deleted_nor_deletion_undone() {
    let running = Running::start().await;
    let ask = admin(&running);
    let mut object = container("c1");
    object["metadata"]["finalizers"] = json!(["skysail.dev/a"]);
    ask.post(CONTAINERS, &object).await;
    let path = format!("{CONTAINERS}/c1");
    let marked = ask
        .send(Method::DELETE, &path, &[], Body::empty())
        .await
        .body;
    assert_eq!(
        marked["metadata"]["generation"], 2,
        "beginning to go is a change"
    );
    let merge = [("content-type", "application/merge-patch+json")];
    let more = json!({"metadata": {"finalizers": ["skysail.dev/a", "skysail.dev/b"]}}).to_string();
    let refused = ask.send(Method::PATCH, &path, &merge, more).await;
    let field = refused.body["details"]["causes"][0]["field"]
        .as_str()
        .unwrap_or_default();
    assert!(
        refused.code == 422 && field.starts_with("metadata.finalizers"),
        "{}",
        refused.body
    );
    let undo = json!({"metadata": {"deletionTimestamp": null}}).to_string();
    let kept = ask.send(Method::PATCH, &path, &merge, undo).await;
    assert_eq!(
        kept.body["metadata"]["deletionTimestamp"],
        marked["metadata"]["deletionTimestamp"]
    );
    let stranger = json!({"preconditions": {"uid": "someone-else"}}).to_string();
    assert_eq!(
        ask.send(Method::DELETE, &path, &[], stranger).await.code,
        409
    );
}

#[tokio::test]
async fn acting_as_somebody_else_is_refused_and_not_ignored() {
    let running = Running::start().await;
    for header in [
        "Impersonate-User",
        "Impersonate-Group",
        "Impersonate-Uid",
        "Impersonate-Extra-scopes",
    ] {
        for path in [MAPS, "/apis"] {
            let answer = admin(&running)
                .send(Method::GET, path, &[(header, "bob")], Body::empty())
                .await;
            assert_eq!(answer.code, 403, "{header} {path}: {}", answer.body);
            let text = answer.body["message"].as_str().unwrap_or_default();
            assert!(text.contains("no impersonation"), "{text}");
        }
    }
}
