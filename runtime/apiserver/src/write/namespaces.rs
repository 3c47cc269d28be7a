//! Rules of namespaces: two always exist, and creating needs a live one.

use crate::answer::Failure;
use crate::kinds::Kind;
use crate::state::State;
use serde_json::json;
use skysail_schemas::SYSTEM_NAMESPACE;

/// Namespaces that always exist.
pub(crate) const ALWAYS: [&str; 2] = ["default", SYSTEM_NAMESPACE];

/// The kind Namespace.
pub(crate) fn kind(state: &State) -> Option<&Kind> {
    state.kinds.find("", "v1", "namespaces")
}

/// Whether objects may be created in a namespace: 404 if it does not exist, 403 while it is being deleted.
pub(crate) fn admits(
    state: &State,
    what: &Kind,
    namespace: &str,
    name: &str,
) -> Result<(), Failure> {
    let Some(kind) = kind(state) else {
        return Ok(());
    };
    let Some(object) = state.cache.get(&kind.key("", namespace)) else {
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
