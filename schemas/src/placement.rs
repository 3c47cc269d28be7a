//! Rules for a Container's place: what must hold, what is better, and over what it is counted.

use crate::machine_type::price;
use crate::validate::{Cause, Errors};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a container may run, and where it runs best.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PlacementRules {
    /// Only this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Only hosts with these labels. Every host carries `skysail.dev/cloud`, `skysail.dev/region`, `skysail.dev/zone`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub host_selector: BTreeMap<String, String>,
    /// Only these clouds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clouds: Vec<String>,
    /// Only clouds in these regions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Only clouds in these zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Taints that do not keep it away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Keep apart from others over a topology.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<Spread>,
    /// Near which containers of the same namespace it must, or should, run.
    #[serde(skip_serializing_if = "Affinity::is_empty")]
    pub affinity: Affinity,
    /// Away from which containers of the same namespace it must, or should, run. What must be kept apart is kept
    /// apart from either side, whichever is placed first.
    #[serde(skip_serializing_if = "Affinity::is_empty")]
    pub anti_affinity: Affinity,
    /// Only hosts whose machine costs at most this per hour, a decimal number, for example `"0.05"`. Machines that
    /// were not bought from a cloud cost nothing; a bought one whose price is not known is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_price_per_hour: Option<String>,
    /// Only hosts whose kernel is at least this, for example `"6.1"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_kernel: Option<String>,
    /// Which of the possible hosts is filled first.
    #[serde(skip_serializing_if = "Strategy::is_default")]
    pub strategy: Strategy,
}

/// Which of the possible hosts is filled first.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The emptiest: room for bursts everywhere.
    #[default]
    Spread,
    /// The fullest: few machines.
    Pack,
}

impl Strategy {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A taint that is tolerated.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key.
    pub key: String,
    /// The taint's value; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Spread over hosts, clouds, regions or zones.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// Over what.
    pub topology: Topology,
    /// Among which containers of the same namespace.
    pub selector: LabelSelector,
    /// How far the fullest may be ahead of the emptiest.
    #[serde(default = "one")]
    pub max_skew: u32,
}

fn one() -> u32 {
    1
}

/// What containers can be spread over, kept together in or apart in; the smaller before what holds it.
#[derive(
    Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Hosts.
    Host,
    /// Clouds.
    Cloud,
    /// Zones, as their Clouds say.
    Zone,
    /// Regions, as their Clouds say.
    Region,
}

impl Topology {
    /// Every topology.
    pub const ALL: [Self; 4] = [Self::Host, Self::Cloud, Self::Zone, Self::Region];

    /// The word of manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Cloud => "cloud",
            Self::Region => "region",
            Self::Zone => "zone",
        }
    }
}

/// Containers to be near to, or away from.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// What must hold when a host is chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<AffinityTerm>,
    /// What is better.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferred: Vec<Preference>,
}

impl Affinity {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.preferred.is_empty()
    }
}

/// Containers, and what counts as near them.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AffinityTerm {
    /// The same host, cloud, region or zone is near.
    pub topology: Topology,
    /// Which containers of the same namespace. A container that must be near its own kind may be the first of it
    /// anywhere.
    pub selector: LabelSelector,
}

/// A term that is better kept than not.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Preference {
    /// The same host, cloud, region or zone is near.
    pub topology: Topology,
    /// Which containers of the same namespace.
    pub selector: LabelSelector,
    /// How much it matters beside other preferences, from 1 to 100.
    #[serde(default = "one")]
    pub weight: u32,
}

/// The numbers of a kernel release: `6.1.0-18-amd64` is 6, 1.
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().ok());
    let major = numbers.next()??;
    Some((major, numbers.next().flatten().unwrap_or(0)))
}

impl PlacementRules {
    /// Adds every mistake; `at` is the path of the rules.
    pub(crate) fn validate(&self, at: &str, errors: &mut Errors) {
        for (i, spread) in self.spread.iter().enumerate() {
            let at = format!("{at}.spread[{i}]");
            errors.check(
                spread.max_skew >= 1,
                &format!("{at}.maxSkew"),
                "must be at least 1",
            );
            selector(&spread.selector, &at, errors);
        }
        for (name, affinity) in [
            ("affinity", &self.affinity),
            ("antiAffinity", &self.anti_affinity),
        ] {
            for (i, term) in affinity.required.iter().enumerate() {
                selector(
                    &term.selector,
                    &format!("{at}.{name}.required[{i}]"),
                    errors,
                );
            }
            for (i, term) in affinity.preferred.iter().enumerate() {
                let at = format!("{at}.{name}.preferred[{i}]");
                selector(&term.selector, &at, errors);
                errors.check(
                    (1..=100).contains(&term.weight),
                    &format!("{at}.weight"),
                    "must be from 1 to 100",
                );
            }
        }
        self.contradictions(at, errors);
        if let Some(text) = &self.max_price_per_hour {
            errors.check(
                price(text).is_some(),
                &format!("{at}.maxPricePerHour"),
                format!("{text:?} must be a number that is not negative, for example \"0.05\""),
            );
        }
        if let Some(text) = &self.min_kernel {
            errors.check(
                kernel_version(text).is_some(),
                &format!("{at}.minKernel"),
                format!("{text:?} must be a version, for example \"6.1\""),
            );
        }
    }

    /// What no host could ever satisfy.
    fn contradictions(&self, at: &str, errors: &mut Errors) {
        for (i, near) in self.affinity.required.iter().enumerate() {
            let apart = &self.anti_affinity.required;
            let same =
                |t: &AffinityTerm| t.selector == near.selector && t.topology >= near.topology;
            if let Some(j) = apart.iter().position(same) {
                errors.push(
                    Cause::Invalid,
                    format!("{at}.affinity.required[{i}]"),
                    format!("contradicts {at}.antiAffinity.required[{j}]: the same containers cannot be both near and away; remove one"),
                );
            }
        }
        let selected = self.host_selector.get("skysail.dev/cloud");
        if let Some(cloud) =
            selected.filter(|c| !self.clouds.is_empty() && !self.clouds.contains(c))
        {
            errors.push(
                Cause::Invalid,
                format!("{at}.clouds"),
                format!("does not name {cloud:?}, which {at}.hostSelector asks for"),
            );
        }
    }
}

fn selector(selector: &LabelSelector, at: &str, errors: &mut Errors) {
    if let Err(e) = Selector::try_from(selector.clone()) {
        errors.push(Cause::Invalid, format!("{at}.selector"), e.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn mistakes(rules: Value) -> Vec<String> {
        let rules: PlacementRules = serde_json::from_value(rules).unwrap();
        let mut errors = Errors::default();
        rules.validate("spec.placement", &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_that_contradict_each_other_are_refused_with_both_places() {
        let term = json!([{"topology": "host", "selector": {"matchLabels": {"app": "db"}}}]);
        let said =
            mistakes(json!({"affinity": {"required": term}, "antiAffinity": {"required": term}}));
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("spec.placement.affinity.required[0]: contradicts spec.placement.antiAffinity.required[0]"));
        let said =
            mistakes(json!({"clouds": ["west"], "hostSelector": {"skysail.dev/cloud": "east"}}));
        assert!(said[0].starts_with("spec.placement.clouds: "), "{said:?}");
    }

    #[test]
    fn a_price_that_is_no_price_and_a_kernel_that_is_no_version_are_refused() {
        for bad in ["NaN", "-1", "inf", "cheap"] {
            assert_eq!(mistakes(json!({"maxPricePerHour": bad})).len(), 1, "{bad}");
        }
        assert_eq!(mistakes(json!({"minKernel": "new"})).len(), 1);
        assert!(mistakes(json!({"minKernel": "6.1", "maxPricePerHour": "0.05"})).is_empty());
        assert_eq!(kernel_version("6.1.0-18-amd64"), Some((6, 1)));
    }

    #[test]
    fn a_selector_with_an_unknown_operator_is_refused() {
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        let said = mistakes(
            json!({"affinity": {"preferred": [{"topology": "zone", "selector": bad, "weight": 0}]}}),
        );
        assert_eq!(said.len(), 2, "{said:?}");
    }
}
