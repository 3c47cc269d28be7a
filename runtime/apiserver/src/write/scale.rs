//! `/scale`: two numbers of an object as an autoscaling/v1 Scale.

use super::modify::{Modify, modify};
use super::options::Options;
use super::outcome::Outcome;
use crate::answer::Failure;
use crate::identity::Identity;
use crate::kinds::ScalePaths;
use crate::patches;
use crate::request::Call;
use crate::request::body;
use crate::state::{State, view};
use http::HeaderMap;
use serde_json::{Value, json};

fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

fn paths<'a>(call: &Call<'a>) -> Result<&'a ScalePaths, Failure> {
    call.kind.scale.as_ref().ok_or_else(Failure::no_such_path)
}

/// The Scale of an object.
fn of(paths: &ScalePaths, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let at = |path: &str| object.pointer(&pointer(path)).cloned().unwrap_or(json!(0));
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": at(&paths.spec)},
        "status": {"replicas": at(&paths.status)},
    });
    if let Some(selector) = paths
        .selector
        .as_deref()
        .and_then(|p| object.pointer(&pointer(p)))
    {
        scale["status"]["selector"] = selector.clone();
    }
    scale
}

/// `GET …/scale`.
pub(crate) async fn get(state: &State, call: &Call<'_>) -> Result<Value, Failure> {
    let paths = paths(call)?;
    let object = state.current(call.kind, call.namespace, call.name).await?;
    Ok(of(paths, &view(call.kind, &object)))
}

/// `PUT` and `PATCH …/scale`.
pub(crate) async fn change(
    state: &State,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    headers: &HeaderMap,
    text: &[u8],
) -> Result<Outcome, Failure> {
    let paths = paths(call)?;
    let media = body::media_type(headers);
    let document = match call.verb {
        "update" => body::read(headers, text)?,
        _ => body::parse(crate::request::strict::Format::Json, text)?,
    };
    let make = |old: &Value| {
        let before = of(paths, old);
        let after = match (call.verb, media) {
            ("update", _) => document.value.clone(),
            (_, "application/merge-patch+json") => patches::merge(&before, &document.value),
            (_, "application/json-patch+json") => patches::json(&before, &document.value)
                .map_err(|e| Failure::bad_request(e.to_string()))?,
            _ => {
                return Err(Failure::unsupported_media_type(
                    "scale takes a merge patch or a JSON patch",
                ));
            }
        };
        let replicas = after["spec"]["replicas"]
            .as_i64()
            .filter(|n| (0..=i64::from(i32::MAX)).contains(n));
        let replicas = replicas
            .ok_or_else(|| Failure::bad_request("spec.replicas must be a number from 0"))?;
        let mut new = old.clone();
        set(&mut new, &paths.spec, json!(replicas));
        new["metadata"]["resourceVersion"] = after["metadata"]["resourceVersion"].clone();
        Ok(new)
    };
    let how = Modify {
        options,
        identity,
        duplicates: &document.duplicates,
    };
    let main = Call {
        subresource: "",
        ..call.clone()
    };
    let mut outcome = modify(state, &main, &how, &make).await?;
    outcome.value = of(paths, &outcome.value);
    Ok(outcome)
}

fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for part in path.split('.').filter(|p| !p.is_empty()) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    *at = value;
}
