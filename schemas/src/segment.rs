//! Segment: the claim on one VXLAN network identifier.
//!
//! Made by Skysail. Its name is `vni-<number>`: creating it is the allocation.

use crate::validate::{Errors, Validate};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A claimed VNI.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "Segment",
    plural = "segments",
    singular = "segment",
    category = "skysail",
    derive = "PartialEq",
    printcolumn(name = "VNI", type_ = "integer", json_path = ".spec.vni"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SegmentSpec {
    /// The identifier (RFC 7348): 24 bits.
    pub vni: u32,
    /// Namespace of the Network that has it.
    pub namespace: String,
    /// Name of the Network that has it.
    pub network: String,
    /// Uid of the Network that has it; a new network of the same name is another owner.
    pub network_uid: String,
}

/// The name of the Segment that claims `vni`.
pub fn name(vni: u32) -> String {
    format!("vni-{vni}")
}

impl Validate for SegmentSpec {
    fn validate(&self, name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.check(
            name == self::name(self.vni),
            "metadata.name",
            "must be vni-<number>",
        );
        errors.check(
            (1..1 << 24).contains(&self.vni),
            "spec.vni",
            "must be between 1 and 16777215",
        );
        errors.immutable("spec", self, old, "delete the Segment");
    }
}
