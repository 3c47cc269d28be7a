//! MachineType: a size of machine that a cloud offers.

use crate::quantity::{Bandwidth, Bytes, Cpu};
use crate::validate::{Errors, Validate};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A size of machine with its price.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "MachineType",
    plural = "machinetypes",
    singular = "machinetype",
    shortname = "mt",
    category = "skysail",
    derive = "PartialEq",
    printcolumn(name = "Cloud", type_ = "string", json_path = ".spec.cloud"),
    printcolumn(name = "CPU", type_ = "string", json_path = ".spec.cpu"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory"),
    printcolumn(name = "Disk", type_ = "string", json_path = ".spec.disk"),
    printcolumn(name = "Price/h", type_ = "string", json_path = ".spec.pricePerHour"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MachineTypeSpec {
    /// The Cloud that offers it.
    pub cloud: String,
    /// The provider's own name for it; this object's name where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<String>,
    /// Cores, in Kubernetes notation.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// Network bandwidth, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Price on demand, a decimal number, for example `"0.0416"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<String>,
    /// Price on the spot market.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot_price_per_hour: Option<String>,
}

/// A price as a number, or `None` where the text is not a usable one (negative, NaN, infinite).
pub fn price(text: &str) -> Option<f64> {
    text.parse::<f64>()
        .ok()
        .filter(|p| p.is_finite() && *p >= 0.0)
}

impl Validate for MachineTypeSpec {
    fn validate(&self, _name: &str, old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("spec.cloud", &self.cloud);
        errors.immutable(
            "spec.cloud",
            &self.cloud,
            old.map(|o| &o.cloud),
            "make another MachineType",
        );
        errors.check(self.cpu.0 > 0, "spec.cpu", "must be greater than 0");
        errors.check(
            self.memory.0 >= 64 << 20,
            "spec.memory",
            "must be at least 64Mi",
        );
        errors.check(self.disk.0 > 0, "spec.disk", "must be greater than 0");
        for (field, value) in [
            ("spec.pricePerHour", &self.price_per_hour),
            ("spec.spotPricePerHour", &self.spot_price_per_hour),
        ] {
            if let Some(text) = value {
                errors.check(
                    price(text).is_some(),
                    field,
                    format!(
                        "{text:?} must be a number that is not negative, for example \"0.0416\""
                    ),
                );
            }
        }
    }
}
