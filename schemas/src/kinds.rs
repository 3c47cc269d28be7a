//! The one list of our kinds. The API server, the generated CRDs and the tests all read it.

use crate::validate::{Cause, Errors, FieldError, Validate};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::CustomResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A kind, as data.
pub struct Kind {
    /// Names, scope, columns, schema, subresources, selectable fields.
    pub crd: CustomResourceDefinition,
    /// Every mistake in an object (already valid by its schema); the second argument is the object before an update.
    pub validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
}

fn validate<S: Validate + DeserializeOwned>(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = |object: &Value| {
        serde_json::from_value::<S>(object.get("spec").cloned().unwrap_or(Value::Null))
    };
    let name = new
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match spec(new) {
        Ok(new) => new.validate(
            name,
            old.and_then(|old| spec(old).ok()).as_ref(),
            &mut errors,
        ),
        Err(e) => errors.push(Cause::Invalid, "spec", e.to_string()),
    }
    errors.0
}

fn kind<K: CustomResourceExt, S: Validate + DeserializeOwned>() -> Kind {
    let mut crd = K::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        {
            finish(schema);
        }
    }
    Kind {
        crd,
        validate: validate::<S>,
    }
}

/// What the derived schema of an object leaves out: the kind's own description, and that conditions are told apart
/// by their type.
fn finish(schema: &mut JSONSchemaProps) {
    let properties = schema.properties.get_or_insert_default();
    schema.description = properties
        .get("spec")
        .and_then(|spec| spec.description.clone());
    let status = properties
        .get_mut("status")
        .and_then(|status| status.properties.as_mut());
    if let Some(conditions) = status.and_then(|status| status.get_mut("conditions")) {
        conditions.x_kubernetes_list_type = Some("map".into());
        conditions.x_kubernetes_list_map_keys = Some(vec!["type".into()]);
    }
}

/// Every kind, in the order in which people read them.
pub fn all() -> Vec<Kind> {
    vec![
        kind::<crate::Cloud, crate::CloudSpec>(),
        kind::<crate::MachineType, crate::MachineTypeSpec>(),
        kind::<crate::Host, crate::HostSpec>(),
        kind::<crate::HostPool, crate::HostPoolSpec>(),
        kind::<crate::RebalancePolicy, crate::RebalancePolicySpec>(),
        kind::<crate::Image, crate::ImageSpec>(),
        kind::<crate::InstanceType, crate::InstanceTypeSpec>(),
        kind::<crate::Network, crate::NetworkSpec>(),
        kind::<crate::SecurityPolicy, crate::SecurityPolicySpec>(),
        kind::<crate::Container, crate::ContainerSpec>(),
        kind::<crate::ContainerSet, crate::ContainerSetSpec>(),
        kind::<crate::Migration, crate::MigrationSpec>(),
        kind::<crate::MigrationGroup, crate::MigrationGroupSpec>(),
        kind::<crate::Port, crate::PortSpec>(),
        kind::<crate::Segment, crate::SegmentSpec>(),
    ]
}
