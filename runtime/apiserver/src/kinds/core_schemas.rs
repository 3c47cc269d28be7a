//! Schemas of what Kubernetes defines: the core kinds and the metadata of objects and lists.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret};
use k8s_openapi::api::events::v1::Event as NewEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

/// The structural schema of a core kind that we serve: Namespace, Secret, ConfigMap, Event (core and
/// events.k8s.io, as `group`), Lease.
pub fn core_schema(group: &str, kind: &str) -> Option<Value> {
    let mut schema = match (group, kind) {
        ("", "Namespace") => schema_of::<Namespace>(),
        ("", "Secret") => schema_of::<Secret>(),
        ("", "ConfigMap") => schema_of::<ConfigMap>(),
        ("", "Event") => schema_of::<Event>(),
        ("events.k8s.io", "Event") => schema_of::<NewEvent>(),
        ("coordination.k8s.io", "Lease") => schema_of::<Lease>(),
        _ => return None,
    };
    if let Some(conditions) = schema.pointer_mut("/properties/status/properties/conditions") {
        keyed_list(conditions, "type");
    }
    Some(schema)
}

/// The schema of `metadata`, with the list types that server-side apply needs.
pub(crate) fn object_meta() -> Value {
    let mut schema = schema_of::<ObjectMeta>();
    let properties = &mut schema["properties"];
    properties["finalizers"]["x-kubernetes-list-type"] = "set".into();
    keyed_list(&mut properties["ownerReferences"], "uid");
    properties["ownerReferences"]["items"]["x-kubernetes-map-type"] = "atomic".into();
    properties["managedFields"]["x-kubernetes-list-type"] = "atomic".into();
    properties["managedFields"]["items"]["properties"]["fieldsV1"]["x-kubernetes-preserve-unknown-fields"] =
        true.into();
    schema
}

/// The schema of a list's `metadata`.
pub(crate) fn list_meta() -> Value {
    schema_of::<ListMeta>()
}

fn keyed_list(list: &mut Value, key: &str) {
    list["x-kubernetes-list-type"] = "map".into();
    list["x-kubernetes-list-map-keys"] = json!([key]);
}

fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("title");
    }
    schema
}
