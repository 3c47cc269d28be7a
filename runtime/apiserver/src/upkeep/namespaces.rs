//! The namespaces that always exist are made; those that are deleted are swept.

use super::garbage::MAX_PARALLEL;
use crate::answer::Failure;
use crate::state::State;
use crate::write::admission;
use crate::write::delete::{DeleteOptions, delete};
use crate::write::namespaces::{ALWAYS, kind};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use skysail_store::Error;
use std::collections::{BTreeMap, HashSet};

/// Makes the namespaces that always exist.
pub(crate) async fn ensure(state: &State) -> Result<(), Failure> {
    let Some(kind) = kind(state) else {
        return Ok(());
    };
    for name in ALWAYS {
        let mut object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        admission::begin(kind, &mut object)?;
        admission::complete(kind, None, &mut object)?;
        match state
            .store
            .create(&kind.key("", name), Bytes::from(object.to_string()))
            .await
        {
            Ok(revision) => {
                state.cache.caught_up(revision).await;
            }
            Err(Error::Exists { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

/// Deletes what is in namespaces that are being deleted or do not exist, then the empty namespaces. Returns
/// whether something failed and has to be tried again.
pub(crate) async fn sweep(state: &State) -> bool {
    let Some(kind) = kind(state) else {
        return false;
    };
    let (mut live, mut ending) = (HashSet::new(), BTreeMap::new());
    for object in state.cache.range(&kind.prefix()) {
        if object.value["metadata"].get("deletionTimestamp").is_some() {
            ending.insert(object.meta("name").to_owned(), object);
        } else {
            live.insert(object.meta("name").to_owned());
        }
    }
    let mut doomed = Vec::new();
    let mut occupied = HashSet::new();
    for what in state
        .kinds
        .all()
        .iter()
        .filter(|k| k.namespaced && !k.is_new_event())
    {
        for object in state.cache.range(&what.prefix()) {
            let namespace = object.meta("namespace").to_owned();
            if live.contains(&namespace) {
                continue;
            }
            occupied.insert(namespace);
            if object.value["metadata"].get("deletionTimestamp").is_none() {
                doomed.push(object);
            }
        }
    }
    let failed = stream::iter(doomed).map(|object| async move {
        let Some(what) = state.kind_of(&object) else { return false };
        let options = DeleteOptions {
            uid: Some(object.meta("uid").into()),
            ..DeleteOptions::default()
        };
        let (namespace, name) = (object.meta("namespace"), object.meta("name"));
        match delete(state, what, namespace, name, &options).await {
            Ok(_) => false,
            Err(failure) if failure.code == 404 => false,
            Err(failure) => {
                tracing::warn!(key = object.key, %failure, "cannot sweep an object of a deleted namespace");
                true
            }
        }
    });
    let failed: Vec<bool> = failed.buffer_unordered(MAX_PARALLEL).collect().await;
    // What is held by finalizers wakes the sweep when it goes; only failures have to be tried again.
    let mut again = failed.contains(&true);
    for (name, object) in ending {
        if !occupied.contains(&name) {
            again |= !release(state, &object.key, &object.value, object.revision).await;
        }
    }
    again
}

/// Removes `spec.finalizers`, and the namespace if nothing else holds it.
async fn release(state: &State, key: &str, value: &Value, revision: u64) -> bool {
    let held = value["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty());
    let written = if !held {
        state.store.delete(key, revision).await
    } else if value["spec"]
        .get("finalizers")
        .is_some_and(|f| f != &json!([]))
    {
        let mut value = value.clone();
        value["spec"]["finalizers"] = json!([]);
        value["metadata"]
            .as_object_mut()
            .map(|m| m.remove("resourceVersion"));
        state
            .store
            .update(key, Bytes::from(value.to_string()), revision)
            .await
    } else {
        return true;
    };
    match written {
        Ok(revision) => state.cache.caught_up(revision).await,
        Err(error) => {
            tracing::debug!(key, %error, "namespace not released yet");
            false
        }
    }
}
