//! Garbage collection by owner references: what nobody owns any more goes.
//!
//! Follows the cache's log. A pass looks at the objects that changed and at the
//! dependents of those that went; everything is looked at again from time to time,
//! so that a lost step costs time only.

use crate::answer::Failure;
use crate::state::State;
use crate::state::cache::Object;
use crate::write::delete::{DeleteOptions, FOREGROUND, ORPHAN, delete};
use crate::write::finalizers::finalizers;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// How many objects are worked on at once.
pub(crate) const MAX_PARALLEL: usize = 16;

/// What has to happen to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// No owner is left.
    Delete,
    /// Its owner is deleted in the foreground: it goes first.
    DeleteForeground,
    /// Its owner leaves it behind: references to these uids go.
    Disown(Vec<String>),
    /// Nothing depends on it any more: this finalizer goes.
    Release(&'static str),
}

fn owners(object: &Object) -> impl Iterator<Item = &Value> {
    object.value["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
}

fn is_deleting(object: &Object) -> bool {
    object.value["metadata"].get("deletionTimestamp").is_some()
}

fn has(object: &Object, finalizer: &str) -> bool {
    finalizers(&object.value).iter().any(|f| f == finalizer)
}

/// What has to happen now, from everything there is. An owner exists if its uid does, in the same namespace or
/// for the whole cluster.
pub(crate) fn plan(objects: &[Arc<Object>]) -> Vec<(Arc<Object>, Step)> {
    let by_uid: HashMap<&str, &Arc<Object>> = objects.iter().map(|o| (o.meta("uid"), o)).collect();
    let mut dependents: HashMap<&str, Vec<&Arc<Object>>> = HashMap::new();
    let mut steps = Vec::new();
    for object in objects {
        let mut solid = 0;
        let (mut disown, mut foreground) = (Vec::new(), false);
        for reference in owners(object) {
            let uid = reference["uid"].as_str().unwrap_or_default();
            let owner = by_uid.get(uid).filter(|owner| {
                owner.meta("namespace").is_empty()
                    || owner.meta("namespace") == object.meta("namespace")
            });
            let Some(owner) = owner else { continue };
            dependents.entry(uid).or_default().push(object);
            if is_deleting(owner) && has(owner, ORPHAN) {
                disown.push(uid.to_owned());
                solid += 1;
            } else if is_deleting(owner) && has(owner, FOREGROUND) {
                foreground = true;
            } else {
                solid += 1;
            }
        }
        if !disown.is_empty() {
            steps.push((object.clone(), Step::Disown(disown)));
        } else if owners(object).next().is_some() && solid == 0 && !is_deleting(object) {
            steps.push((
                object.clone(),
                if foreground {
                    Step::DeleteForeground
                } else {
                    Step::Delete
                },
            ));
        }
    }
    for object in objects.iter().filter(|o| is_deleting(o)) {
        let mine = dependents
            .get(object.meta("uid"))
            .map(Vec::as_slice)
            .unwrap_or_default();
        if has(object, ORPHAN) && mine.is_empty() {
            steps.push((object.clone(), Step::Release(ORPHAN)));
        } else if has(object, FOREGROUND) && !mine.iter().any(|d| blocks(d, object.meta("uid"))) {
            steps.push((object.clone(), Step::Release(FOREGROUND)));
        }
    }
    steps
}

/// Whether a dependent holds up the foreground deletion of its owner.
fn blocks(dependent: &Object, uid: &str) -> bool {
    owners(dependent).any(|r| r["uid"] == uid && r["blockOwnerDeletion"] == true)
}

/// One pass over everything. Returns whether something failed and has to be tried again.
pub(crate) async fn collect(state: &State) -> bool {
    let steps = plan(&state.cache.range(crate::state::cache::PREFIX));
    let failed = stream::iter(steps).map(|(object, step)| async move {
        match apply(state, &object, &step).await {
            Ok(()) => false,
            Err(failure) if failure.code == 404 => false,
            // Somebody was faster: look again.
            Err(failure) if failure.code == 409 => true,
            Err(failure) => {
                tracing::warn!(key = object.key, ?step, %failure, "garbage collection failed; trying again");
                true
            }
        }
    });
    let failed: Vec<bool> = failed.buffer_unordered(MAX_PARALLEL).collect().await;
    failed.contains(&true)
}

async fn apply(state: &State, object: &Object, step: &Step) -> Result<(), Failure> {
    let Some(kind) = state.kind_of(object) else {
        return Ok(());
    };
    match step {
        Step::Delete | Step::DeleteForeground => {
            let policy = if *step == Step::Delete {
                "Background"
            } else {
                "Foreground"
            };
            let options = DeleteOptions {
                policy: Some(policy.into()),
                uid: Some(object.meta("uid").into()),
                resource_version: Some(object.meta("resourceVersion").into()),
                dry_run: false,
            };
            delete(
                state,
                kind,
                object.meta("namespace"),
                object.meta("name"),
                &options,
            )
            .await
            .map(|_| ())
        }
        Step::Disown(uids) => {
            let mut value = object.value.clone();
            if let Some(list) = value["metadata"]["ownerReferences"].as_array_mut() {
                list.retain(|r| !uids.iter().any(|uid| r["uid"] == *uid));
            }
            write(state, object, value).await
        }
        Step::Release(finalizer) => {
            let mut value = object.value.clone();
            let left: Vec<String> = finalizers(&value)
                .into_iter()
                .filter(|f| f != finalizer)
                .collect();
            let finished = left.is_empty() && kind.plural != "namespaces";
            value["metadata"]["finalizers"] = json!(left);
            if finished {
                let revision = state.store.delete(&object.key, object.revision).await;
                return seen(state, revision).await;
            }
            write(state, object, value).await
        }
    }
}

async fn write(state: &State, object: &Object, mut value: Value) -> Result<(), Failure> {
    value["metadata"]
        .as_object_mut()
        .map(|m| m.remove("resourceVersion"));
    let written = state
        .store
        .update(&object.key, Bytes::from(value.to_string()), object.revision)
        .await;
    seen(state, written).await
}

async fn seen(state: &State, written: Result<u64, skysail_store::Error>) -> Result<(), Failure> {
    match written {
        Ok(revision) => {
            state.cache.caught_up(revision).await;
            Ok(())
        }
        Err(skysail_store::Error::Conflict { .. }) => {
            Err(Failure::new(409, "Conflict", "somebody was faster"))
        }
        Err(other) => Err(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(
        name: &str,
        owner: Option<&str>,
        deleting: bool,
        finalizer: Option<&str>,
    ) -> Arc<Object> {
        let mut value = json!({"metadata": {"name": name, "uid": name, "namespace": "n"}});
        if let Some(owner) = owner {
            value["metadata"]["ownerReferences"] =
                json!([{"uid": owner, "blockOwnerDeletion": true}]);
        }
        if deleting {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if let Some(finalizer) = finalizer {
            value["metadata"]["finalizers"] = json!([finalizer]);
        }
        Arc::new(Object::new(format!("/k/n/{name}"), value, 1))
    }

    fn steps(objects: &[Arc<Object>]) -> Vec<(String, Step)> {
        plan(objects)
            .into_iter()
            .map(|(o, s)| (o.meta("name").to_owned(), s))
            .collect()
    }

    #[test]
    fn what_is_owned_by_something_that_exists_stays() {
        assert_eq!(
            steps(&[
                object("a", None, false, None),
                object("b", Some("a"), false, None)
            ]),
            []
        );
    }

    #[test]
    fn what_lost_its_owner_goes() {
        assert_eq!(
            steps(&[object("b", Some("a"), false, None)]),
            [("b".into(), Step::Delete)]
        );
    }

    #[test]
    fn in_the_foreground_dependents_go_first_and_then_the_owner_is_released() {
        let owner = object("a", None, true, Some(FOREGROUND));
        let both = [owner.clone(), object("b", Some("a"), false, None)];
        assert_eq!(steps(&both), [("b".into(), Step::DeleteForeground)]);
        assert_eq!(steps(&[owner]), [("a".into(), Step::Release(FOREGROUND))]);
    }

    #[test]
    fn orphans_lose_the_reference_before_the_owner_goes() {
        let owner = object("a", None, true, Some(ORPHAN));
        let both = [owner.clone(), object("b", Some("a"), false, None)];
        assert_eq!(steps(&both), [("b".into(), Step::Disown(vec!["a".into()]))]);
        assert_eq!(steps(&[owner]), [("a".into(), Step::Release(ORPHAN))]);
    }
}
