//! The one list of our kinds. The API server, the generated CRDs and the tests all read it.

use crate::validate::{Cause, Errors, FieldError, Validate};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
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
    let spec = |object: &Value| serde_json::from_value::<S>(object.get("spec").cloned().unwrap_or(Value::Null));
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    match spec(new) {
        Ok(new) => new.validate(name, old.and_then(|old| spec(old).ok()).as_ref(), &mut errors),
        Err(e) => errors.push(Cause::Invalid, "spec", e.to_string()),
    }
    errors.0
}

fn kind<K: CustomResourceExt, S: Validate + DeserializeOwned>() -> Kind {
    Kind { crd: K::crd(), validate: validate::<S> }
}

/// Every kind, in the order in which people read them.
pub fn all() -> Vec<Kind> {
    vec![
        kind::<crate::Cloud, crate::CloudSpec>(),
        kind::<crate::MachineType, crate::MachineTypeSpec>(),
        kind::<crate::Host, crate::HostSpec>(),
        kind::<crate::Image, crate::ImageSpec>(),
        kind::<crate::InstanceType, crate::InstanceTypeSpec>(),
        kind::<crate::Network, crate::NetworkSpec>(),
        kind::<crate::Container, crate::ContainerSpec>(),
        kind::<crate::ContainerSet, crate::ContainerSetSpec>(),
        kind::<crate::Port, crate::PortSpec>(),
        kind::<crate::Segment, crate::SegmentSpec>(),
    ]
}
