//! What callers may do.
//!
//! The rules are few and fixed: administrators may do everything, a host's agent
//! only what concerns its host, everybody else nothing.

use super::{Identity, moving};
use crate::answer::Failure;
use crate::kinds::Kind;
use crate::request::Call;
use crate::request::selector::FieldSelector;
use crate::state::cache::Cache;
use serde_json::Value;
use skysail_schemas::SYSTEM_NAMESPACE;

/// May `identity` make this call? The answer of a refusal says what was asked.
pub(crate) fn may(identity: &Identity, call: &Call<'_>, cache: &Cache) -> bool {
    if identity.is_admin() {
        return true;
    }
    let Some(host) = identity.host_name() else {
        return false;
    };
    match (call.kind.group.as_str(), call.kind.plural.as_str()) {
        ("skysail.dev", "containers") => container(host, call, cache),
        ("skysail.dev", "ports") => port(host, call, cache),
        ("skysail.dev", "securitypolicies") => policy(host, call, cache),
        ("skysail.dev", "migrations") => migration(host, call, cache),
        ("skysail.dev", "images") => image(call),
        ("skysail.dev", "hosts") => own_host(host, call),
        ("coordination.k8s.io", "leases") => {
            call.subresource.is_empty()
                && call.namespace == SYSTEM_NAMESPACE
                && match call.verb {
                    // The name stands in the body, which is checked again when it is known.
                    "create" => call.name.is_empty() || call.name == host,
                    "get" | "update" | "patch" => call.name == host,
                    _ => false,
                }
        }
        ("" | "events.k8s.io", "events") => matches!(call.verb, "create" | "patch" | "update"),
        _ => false,
    }
}

/// The refusal of a call, in the words that Kubernetes uses.
pub(crate) fn forbidden(identity: &Identity, call: &Call<'_>) -> Failure {
    let sub = if call.subresource.is_empty() {
        String::new()
    } else {
        format!("/{}", call.subresource)
    };
    let scope = if call.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", call.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource \"{}{sub}\" in API group {:?} {scope}",
        identity.user, call.verb, call.kind.plural, call.kind.group
    );
    Failure::forbidden_object(call.kind, call.name, &why)
}

/// May `identity` create an object of this name? Asked once the body is read.
pub(crate) fn may_create_named(identity: &Identity, kind: &Kind, name: &str) -> bool {
    match identity.host_name() {
        Some(host) if !identity.is_admin() && kind.plural == "leases" => name == host,
        _ => true,
    }
}

/// Migrations from and to the host; of them only how far they are (see [`may_change`]).
fn migration(host: &str, call: &Call<'_>, cache: &Cache) -> bool {
    match (call.verb, call.subresource) {
        ("list" | "watch", "") => {
            field_is(call, "status.source", host) || field_is(call, "status.target", host)
        }
        ("get", "" | "status") | ("update" | "patch", "status") => {
            let object = cache.get(&call.kind.key(call.namespace, call.name));
            object.is_some_and(|o| moving::is_of(&o.value, host))
        }
        _ => false,
    }
}

/// Containers: those bound to the host, and of them only status and finalizers (see [`may_change`]); and to read,
/// those that are on their way from or to it.
fn container(host: &str, call: &Call<'_>, cache: &Cache) -> bool {
    match call.verb {
        "list" | "watch" => field_is(call, "status.host", host),
        "get"
            if call.subresource.is_empty()
                && moving::concerns(cache, call.namespace, call.name, host) =>
        {
            true
        }
        "get" | "update" | "patch" if matches!(call.subresource, "" | "status") => {
            let object = cache.get(&call.kind.key(call.namespace, call.name));
            object.is_some_and(|o| o.value["status"]["host"] == host)
        }
        _ => false,
    }
}

/// Whether an agent's write touches only what it may: through the main endpoint finalizers; of a status what is
/// the agent's to say.
pub(crate) fn may_change(
    identity: &Identity,
    kind: &Kind,
    subresource: &str,
    (old, new): (&Value, &Value),
    cache: &Cache,
) -> bool {
    if identity.is_admin() {
        return true;
    }
    let host = identity.host_name().unwrap_or_default();
    match (kind.plural.as_str(), subresource) {
        ("containers", "status") => {
            return moving::may_change_container(cache, host, old, new);
        }
        ("migrations", "status") => return moving::may_change_migration(host, old, new),
        ("containers", _) => {}
        _ => return true,
    }
    let strip = |object: &Value| {
        let mut object = object.clone();
        for field in [
            "finalizers",
            "managedFields",
            "generation",
            "resourceVersion",
        ] {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove(field);
            }
        }
        object
    };
    strip(old) == strip(new)
}

fn port(host: &str, call: &Call<'_>, cache: &Cache) -> bool {
    if !matches!(call.verb, "list" | "watch") || !call.subresource.is_empty() {
        return false;
    }
    if field_is(call, "spec.location.host", host) {
        return true;
    }
    if let Some(container) = exact(call, "spec.container") {
        return moving::arrives(cache, call.namespace, &container, host);
    }
    let Some(vni) = exact(call, "spec.vni").and_then(|vni| vni.parse::<u64>().ok()) else {
        return false;
    };
    let ports = cache.range(&call.kind.prefix());
    let carried = ports
        .iter()
        .any(|p| p.value["spec"]["location"]["host"] == host && p.value["spec"]["vni"] == vni);
    carried || moving::brings(cache, vni, host)
}

/// Policies of tenants that have a container on the host, or on its way there.
fn policy(host: &str, call: &Call<'_>, cache: &Cache) -> bool {
    let reads = matches!(call.verb, "list" | "watch") && call.subresource.is_empty();
    if !reads || call.namespace.is_empty() {
        return false;
    }
    let ports = cache.range(&format!("{}{}/", moving::PORTS, call.namespace));
    let carried = ports
        .iter()
        .any(|p| p.value["spec"]["location"]["host"] == host);
    carried || moving::visits(cache, call.namespace, host)
}

fn image(call: &Call<'_>) -> bool {
    matches!(
        (call.verb, call.subresource),
        ("get" | "list" | "watch", "") | ("get", "blob")
    )
}

fn own_host(host: &str, call: &Call<'_>) -> bool {
    match (call.verb, call.subresource) {
        ("get", "" | "status" | "sessions")
        | ("update" | "patch", "status")
        | ("create", "credential") => call.name == host,
        ("watch" | "list", "") => field_is(call, "metadata.name", host),
        _ => false,
    }
}

fn exact(call: &Call<'_>, path: &str) -> Option<String> {
    let supported: Vec<&str> = call.kind.selectable.iter().map(String::as_str).collect();
    let selector = FieldSelector::parse(call.query.field_selector.as_deref()?, &supported).ok()?;
    selector.exact(path).map(str::to_owned)
}

fn field_is(call: &Call<'_>, path: &str, wanted: &str) -> bool {
    exact(call, path).is_some_and(|value| value == wanted)
}
