//! Image: a root filesystem.

use crate::quantity::Bytes;
use crate::validate::{Cause, Errors, Validate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A root filesystem: built from a distribution's packages, or a tar archive.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "skysail.dev",
    version = "v1alpha1",
    kind = "Image",
    plural = "images",
    singular = "image",
    shortname = "img",
    category = "skysail",
    status = "ImageStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(
        name = "Digest",
        type_ = "string",
        json_path = ".status.digest",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Build it from a Debian suite's packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debian: Option<DebianRecipe>,
    /// Take a tar archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tarball: Option<Tarball>,
    /// The program that becomes process 1, with its arguments.
    #[serde(default = "default_init")]
    pub init: Vec<String>,
}

fn default_init() -> Vec<String> {
    vec!["/sbin/init".into()]
}

/// What `mmdebstrap` is asked for.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DebianRecipe {
    /// Suite, for example `trixie`.
    pub suite: String,
    /// Packages besides the essential ones.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Shell commands run inside the new root, in order, after the packages are in.
    #[serde(default)]
    pub run: Vec<String>,
}

/// A tar archive on the control plane's machine or at a URL.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Tarball {
    /// Absolute path where the control plane runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http://` or `https://` address; needs `digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `sha256:` and 64 hexadecimal digits; the archive is refused if it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What is known of an image.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageStatus {
    /// The generation that this status speaks of.
    pub observed_generation: Option<i64>,
    /// `sha256:…` of the archive; containers name the image by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Size of the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// `Built`, and `Ready` derived from it.
    pub conditions: Vec<Condition>,
}

/// Whether `text` is `sha256:` and 64 lower-case hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

impl Validate for ImageSpec {
    fn validate(&self, name: &str, _old: Option<&Self>, errors: &mut Errors) {
        errors.dns_label("metadata.name", name);
        match (&self.debian, &self.tarball) {
            (None, None) => {
                errors.push(Cause::Required, "spec", "needs a source: debian or tarball")
            }
            (Some(_), Some(_)) => errors.push(
                Cause::Forbidden,
                "spec.tarball",
                "cannot stand beside spec.debian: one source per image",
            ),
            _ => {}
        }
        errors.check(
            self.init.first().is_some_and(|p| p.starts_with('/')),
            "spec.init",
            "must begin with an absolute path",
        );
        if let Some(debian) = &self.debian {
            let word = |s: &str| {
                !s.is_empty()
                    && s.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"+-.~:".contains(&b))
                    && !s.starts_with('-')
            };
            errors.check(
                word(&debian.suite),
                "spec.debian.suite",
                format!("{:?} is no suite name, for example trixie", debian.suite),
            );
            for (i, package) in debian.packages.iter().enumerate() {
                errors.check(
                    word(package),
                    &format!("spec.debian.packages[{i}]"),
                    format!("{package:?} is no package name"),
                );
            }
        }
        if let Some(tarball) = &self.tarball {
            match (&tarball.path, &tarball.url) {
                (Some(path), None) => errors.check(
                    path.starts_with('/'),
                    "spec.tarball.path",
                    "must be absolute",
                ),
                (None, Some(url)) => {
                    errors.check(
                        url.starts_with("http://") || url.starts_with("https://"),
                        "spec.tarball.url",
                        "must begin with http:// or https://",
                    );
                    if tarball.digest.is_none() {
                        errors.push(
                            Cause::Required,
                            "spec.tarball.digest",
                            "is needed with a URL, so that nobody can change what is run",
                        );
                    }
                }
                _ => errors.push(Cause::Required, "spec.tarball", "needs either path or url"),
            }
            if let Some(digest) = &tarball.digest {
                errors.check(
                    is_digest(digest),
                    "spec.tarball.digest",
                    "must be sha256: and 64 lower-case hexadecimal digits",
                );
            }
        }
    }
}
