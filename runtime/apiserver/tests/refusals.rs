//! Refusals on the wire: code, reason and details, as clients branch on them.

mod harness;

use axum::body::Body;
use harness::Running;
use http::{Method, Request, header};
use serde_json::{Value, json};
use skysail_apiserver::Identity;
use tower::ServiceExt;

const CONTAINERS: &str = "/apis/skysail.dev/v1alpha1/namespaces/default/containers";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Answer {
    code: u16,
    headers: http::HeaderMap,
    body: Value,
}

struct Ask<'a> {
    running: &'a Running,
    identity: Option<Identity>,
}

impl Ask<'_> {
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.into()).expect("a request");
        request.extensions_mut().extend(
            self.identity
                .clone()
                .map(|identity| {
                    let mut extensions = http::Extensions::new();
                    extensions.insert(identity);
                    extensions
                })
                .unwrap_or_default(),
        );
        let response = self
            .running
            .server
            .router()
            .oneshot(request)
            .await
            .expect("an answer");
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .expect("a body");
        Answer {
            code,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Body::empty()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[], body.to_string()).await
    }
}

fn admin(running: &Running) -> Ask<'_> {
    Ask {
        running,
        identity: Some(Identity::admin("test")),
    }
}

fn container(name: &str) -> Value {
    json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Container", "metadata": {"name": name},
        "spec": {"image": "debian", "instanceType": "small"}})
}

fn expect(answer: &Answer, code: u16, reason: &str, message: &str, details: Value) {
    let mut wanted = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    if !details.is_null() {
        wanted["details"] = details;
    }
    assert_eq!(answer.body, wanted);
    assert_eq!(answer.code, code);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
}

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
async fn only_an_administrator_gets_credentials_for_a_host() {
    let running = Running::start().await;
    let ask = admin(&running);
    let hosts = "/apis/skysail.dev/v1alpha1/hosts";
    let host = json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Host", "metadata": {"name": "h1"},
        "spec": {"cloud": "east", "machineType": "small"}});
    let made = ask.post(hosts, &host).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let given = ask
        .post(&format!("{hosts}/h1/credential"), &json!({}))
        .await;
    assert!(
        given.body["kubeconfig"]
            .as_str()
            .is_some_and(|k| k.contains("skysail:host:h1")),
        "{}",
        given.body
    );
    let agent = Ask {
        running: &running,
        identity: Some(Identity::host("h1")),
    };
    assert_eq!(
        agent
            .post(&format!("{hosts}/h1/credential"), &json!({}))
            .await
            .code,
        403
    );
    assert_eq!(
        ask.post(&format!("{hosts}/h2/credential"), &json!({}))
            .await
            .code,
        404
    );
}

#[tokio::test]
async fn an_agent_sees_the_ports_of_networks_that_it_carries_and_renews_its_own_lease_only() {
    let running = Running::start().await;
    let ask = admin(&running);
    let port = |name: &str, vni: u32, host: &str| {
        json!({"apiVersion": "skysail.dev/v1alpha1", "kind": "Port", "metadata": {"name": name},
            "spec": {"container": "c", "network": "n", "interface": 0, "vni": vni, "address": name.trim_start_matches("n."),
                "cidr": "10.0.0.0/24", "gateway": "10.0.0.1", "mac": "02:00:0a:00:00:05", "dnsDomain": "n.internal",
                "location": {"host": host, "epoch": 1}}})
    };
    let ports = "/apis/skysail.dev/v1alpha1/namespaces/default/ports";
    for (name, vni, host) in [
        ("n.10.0.0.5", 7, "h1"),
        ("n.10.0.0.6", 7, "h2"),
        ("n.10.0.0.7", 8, "h2"),
    ] {
        let made = ask.post(ports, &port(name, vni, host)).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    let agent = Ask {
        running: &running,
        identity: Some(Identity::host("h1")),
    };
    let all = "/apis/skysail.dev/v1alpha1/ports?fieldSelector=";
    let carried = agent.get(&format!("{all}spec.vni%3D7")).await;
    assert_eq!(
        carried.body["items"].as_array().map(Vec::len),
        Some(2),
        "{}",
        carried.body
    );
    assert_eq!(
        agent
            .get(&format!("{all}spec.location.host%3Dh1"))
            .await
            .code,
        200
    );
    for foreign in [
        "spec.vni%3D8",
        "spec.location.host%3Dh2",
        "metadata.name%3Dn.10.0.0.6",
    ] {
        assert_eq!(
            agent.get(&format!("{all}{foreign}")).await.code,
            403,
            "{foreign}"
        );
    }
    let leases = "/apis/coordination.k8s.io/v1/namespaces/skysail-system/leases";
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    assert_eq!(agent.post(leases, &lease("h1")).await.code, 201);
    assert_eq!(agent.get(&format!("{leases}/h1")).await.code, 200);
    assert_eq!(agent.post(leases, &lease("h2")).await.code, 403);
    assert_eq!(agent.get(leases).await.code, 403);
}
