//! Requests and answers on the wire, as clients branch on them.

mod agents;
mod documents;
#[path = "../harness/mod.rs"]
mod harness;
mod refusals;

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

    async fn merge(&self, path: &str, body: &Value) -> Answer {
        let merge = ("content-type", "application/merge-patch+json");
        self.send(Method::PATCH, path, &[merge], body.to_string())
            .await
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
