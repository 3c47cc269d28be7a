//! ContainerSet: a template and a count.

use crate::container::ContainerSpec;
use crate::validate::{Errors, Validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Annotation of a ContainerSet: how many of its Containers may be away at once when they are moved; 1 where absent.
pub const MAX_UNAVAILABLE: &str = "skysail.dev/max-unavailable";

/// `replicas` Containers made from one template, named `<set>-0`, `<set>-1`, …
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "ContainerSet",
    plural = "containersets",
    singular = "containerset",
    namespaced,
    shortname = "cs",
    category = "all",
    category = "skysail",
    status = "ContainerSetStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas"
    ),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSetSpec {
    /// How many.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Place all of them or none: those that wait get hosts only when there is room for every one at once.
    #[serde(default)]
    pub all_or_none: bool,
    /// What each is made from. A fixed address is possible with one replica only.
    pub template: ContainerTemplate,
}

fn one() -> u32 {
    1
}

/// What a set's containers are made from.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ContainerTemplate {
    /// Labels and annotations of each container.
    #[serde(default)]
    pub metadata: TemplateMeta,
    /// Spec of each container.
    pub spec: ContainerSpec,
}

/// The part of a container's metadata that a template can give.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateMeta {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What is known of a set.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerSetStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// Containers that exist.
    pub replicas: u32,
    /// Containers that are ready.
    pub ready_replicas: u32,
    /// `Complete`, and `Ready` derived from it.
    pub conditions: Vec<Condition>,
}

impl Validate for ContainerSetSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        errors.check(
            name.len() <= 57,
            "metadata.name",
            "must have at most 57 characters: each container's name is it, '-' and a number",
        );
        errors.check(
            self.replicas <= 10_000,
            "spec.replicas",
            "must be at most 10000",
        );
        let mut inner = Errors::default();
        self.template.spec.validate(
            "x",
            old.map(|o| &o.template.spec).filter(|_| false),
            &mut inner,
        );
        errors.0.extend(inner.0.into_iter().map(|mut e| {
            e.field = format!("spec.template.{}", e.field);
            e
        }));
        if self.replicas > 1 {
            for (i, n) in self.template.spec.networks.iter().enumerate() {
                errors.check(
                    n.address.is_none(),
                    &format!("spec.template.spec.networks[{i}].address"),
                    "a fixed address is possible with replicas: 1 only",
                );
            }
        }
    }
}
