//! "Who am I, and may I?": the self-subject reviews that kubectl and dashboards ask.

use crate::answer::Failure;
use crate::identity::{Identity, authorize};
use crate::request::{Call, Query};
use crate::state::State;
use serde_json::{Value, json};

/// Whether a path is that of a review.
pub(crate) fn is_review(path: &str) -> bool {
    matches!(
        path.trim_end_matches('/'),
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
            | "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
            | "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    )
}

/// Answers a review: its body with `status` filled in.
pub(crate) fn answer(
    state: &State,
    identity: &Identity,
    path: &str,
    mut body: Value,
) -> Result<Value, Failure> {
    if !body.is_object() {
        return Err(Failure::bad_request("the body is no object"));
    }
    let (group, kind, status) = if path.contains("selfsubjectaccessreviews") {
        (
            "authorization.k8s.io",
            "SelfSubjectAccessReview",
            access(state, identity, &body["spec"]),
        )
    } else if path.contains("selfsubjectrulesreviews") {
        (
            "authorization.k8s.io",
            "SelfSubjectRulesReview",
            rules(identity),
        )
    } else {
        let info = json!({"userInfo": {"username": identity.user, "groups": identity.groups}});
        ("authentication.k8s.io", "SelfSubjectReview", info)
    };
    body["apiVersion"] = json!(format!("{group}/v1"));
    body["kind"] = json!(kind);
    if !body["metadata"].is_object() {
        body["metadata"] = json!({});
    }
    body["metadata"]["creationTimestamp"] = Value::Null;
    body["status"] = status;
    Ok(body)
}

fn access(state: &State, identity: &Identity, spec: &Value) -> Value {
    if identity.is_admin() {
        return json!({"allowed": true, "reason": "member of system:masters"});
    }
    let asked = &spec["resourceAttributes"];
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    let kind = state
        .kinds
        .all()
        .iter()
        .find(|k| k.group == text("group") && k.plural == text("resource"));
    let verb = crate::kinds::VERBS.iter().find(|v| **v == text("verb"));
    let allowed = match (kind, verb) {
        (Some(kind), Some(verb)) => {
            let query = Query::default();
            let call = Call {
                kind,
                verb,
                namespace: text("namespace"),
                name: text("name"),
                subresource: text("subresource"),
                rest: String::new(),
                query: &query,
            };
            authorize::may(identity, &call, &state.cache)
        }
        _ => false,
    };
    json!({"allowed": allowed})
}

fn rules(identity: &Identity) -> Value {
    let rules = if identity.is_admin() {
        json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}])
    } else {
        json!([])
    };
    let paths = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version"]}]);
    json!({"resourceRules": rules, "nonResourceRules": paths, "incomplete": !identity.is_admin()})
}
