//! Namespaces: two always exist, creating needs a live one, deleting one sweeps it.

use crate::admission;
use crate::collector::{MAX_PARALLEL, kind_of};
use crate::delete::{DeleteOptions, delete};
use crate::failure::Failure;
use crate::kinds::Kind;
use crate::server::Inner;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use skysail_schemas::SYSTEM_NAMESPACE;
use skysail_store::Error;
use std::collections::{BTreeMap, HashSet};

const ALWAYS: [&str; 2] = ["default", SYSTEM_NAMESPACE];

fn kind(server: &Inner) -> Option<&Kind> {
    server.kinds.find("", "v1", "namespaces")
}

/// Whether objects may be created in a namespace: 404 if it does not exist, 403 while it is being deleted.
pub(crate) fn admits(
    server: &Inner,
    what: &Kind,
    namespace: &str,
    name: &str,
) -> Result<(), Failure> {
    let Some(kind) = kind(server) else {
        return Ok(());
    };
    let Some(object) = server.cache.get(&kind.key("", namespace)) else {
        return Err(Failure::not_found(kind, namespace));
    };
    if object.value["metadata"].get("deletionTimestamp").is_none() {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut failure = Failure::forbidden_object(what, name, &why);
    failure.details["causes"] = json!([{
        "reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {namespace} is being terminated"),
    }]);
    Err(failure)
}

/// Refuses to delete the namespaces that always exist.
pub(crate) fn may_be_deleted(kind: &Kind, name: &str) -> Result<(), Failure> {
    if kind.group.is_empty() && kind.plural == "namespaces" && ALWAYS.contains(&name) {
        return Err(Failure::forbidden_object(
            kind,
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}

/// Makes the namespaces that always exist.
pub(crate) async fn ensure(server: &Inner) -> Result<(), Failure> {
    let Some(kind) = kind(server) else {
        return Ok(());
    };
    for name in ALWAYS {
        let mut object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        admission::begin(kind, &mut object)?;
        admission::complete(kind, None, &mut object)?;
        match server
            .store
            .create(&kind.key("", name), Bytes::from(object.to_string()))
            .await
        {
            Ok(revision) => {
                server.cache.caught_up(revision).await;
            }
            Err(Error::Exists { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

/// Deletes what is in namespaces that are being deleted or do not exist, then the empty namespaces. Returns
/// whether something failed and has to be tried again.
pub(crate) async fn sweep(server: &Inner) -> bool {
    let Some(kind) = kind(server) else {
        return false;
    };
    let (mut live, mut ending) = (HashSet::new(), BTreeMap::new());
    for object in server.cache.range(&kind.prefix()) {
        if object.value["metadata"].get("deletionTimestamp").is_some() {
            ending.insert(object.meta("name").to_owned(), object);
        } else {
            live.insert(object.meta("name").to_owned());
        }
    }
    let mut doomed = Vec::new();
    let mut occupied = HashSet::new();
    for what in server
        .kinds
        .all()
        .iter()
        .filter(|k| k.namespaced && !k.is_new_event())
    {
        for object in server.cache.range(&what.prefix()) {
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
        let Some(what) = kind_of(server, &object) else { return false };
        let options = DeleteOptions {
            uid: Some(object.meta("uid").into()),
            ..DeleteOptions::default()
        };
        let (namespace, name) = (object.meta("namespace"), object.meta("name"));
        match delete(server, what, namespace, name, &options).await {
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
            again |= !release(server, &object.key, &object.value, object.revision).await;
        }
    }
    again
}

/// Removes `spec.finalizers`, and the namespace if nothing else holds it.
async fn release(server: &Inner, key: &str, value: &Value, revision: u64) -> bool {
    let held = value["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty());
    let written = if !held {
        server.store.delete(key, revision).await
    } else if value["spec"]
        .get("finalizers")
        .is_some_and(|f| f != &json!([]))
    {
        let mut value = value.clone();
        value["spec"]["finalizers"] = json!([]);
        value["metadata"]
            .as_object_mut()
            .map(|m| m.remove("resourceVersion"));
        server
            .store
            .update(key, Bytes::from(value.to_string()), revision)
            .await
    } else {
        return true;
    };
    match written {
        Ok(revision) => server.cache.caught_up(revision).await,
        Err(error) => {
            tracing::debug!(key, %error, "namespace not released yet");
            false
        }
    }
}
