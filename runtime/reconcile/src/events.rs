//! Notable steps, as events that `kubectl describe` and `kubectl events` show.

use crate::Resource;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use sha2::{Digest, Sha256};

/// One notable step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether people should look.
    pub warning: bool,
    /// A CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Note {
    /// Something went as it should.
    pub fn normal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason: reason.into(),
            message: message.into(),
        }
    }
    /// Something went wrong.
    pub fn warning(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Writes the note as an event of `object`. The same note again raises the count of
/// the one event. An event that cannot be written is logged, nothing more.
pub async fn publish<K: Resource>(
    client: &Client,
    reporter: &str,
    object: &K,
    note: &Note,
    now: Timestamp,
) {
    let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
    let event = event(reporter, object, note, &namespace, now);
    let name = event.metadata.name.clone().unwrap_or_default();
    let api = Api::<Event>::namespaced(client.clone(), &namespace);
    let result = match api.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            match api.get(&name).await {
                Ok(there) => {
                    let again = json!({ "count": there.count.unwrap_or(1) + 1, "lastTimestamp": Time(now) });
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(again))
                        .await
                        .map(drop)
                }
                Err(e) => Err(e),
            }
        }
        other => other.map(drop),
    };
    if let Err(e) = result {
        tracing::debug!(event = %note.reason, error = %e, "an event could not be written");
    }
}

/// The event, named after all that makes it the same one.
fn event<K: Resource>(
    reporter: &str,
    object: &K,
    note: &Note,
    namespace: &str,
    now: Timestamp,
) -> Event {
    let uid = object.uid().unwrap_or_default();
    let mut hash = Sha256::new();
    for part in [reporter, &uid, &note.reason, &note.message] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    let mut involved = object.object_ref(&());
    involved.resource_version = None;
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{hex}", object.name_any())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: involved,
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(note.reason.clone()),
        message: Some(note.message.chars().take(1024).collect()),
        source: Some(EventSource {
            component: Some(reporter.to_owned()),
            host: None,
        }),
        reporting_component: Some(reporter.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}
