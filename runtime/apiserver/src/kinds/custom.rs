//! The rows of Skysail's own kinds, read out of their CRDs.

use super::kind::{Kind, Origin, ScalePaths};
use super::schema::{CompileError, Schema};
use crate::table::Columns;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use skysail_schemas::validate::FieldError;

/// The rows of Skysail's kinds, in reading order.
pub(crate) fn all() -> Result<Vec<Kind>, CompileError> {
    let mut all = Vec::new();
    for kind in skysail_schemas::kinds::all() {
        all.extend(from_crd(&kind.crd, kind.validate)?);
    }
    Ok(all)
}

/// The row of a CRD's stored version; `None` if it stores none.
fn from_crd(
    crd: &CustomResourceDefinition,
    validate: fn(&Value, Option<&Value>) -> Vec<FieldError>,
) -> Result<Option<Kind>, CompileError> {
    let (spec, names) = (&crd.spec, &crd.spec.names);
    let Some(version) = spec.versions.iter().find(|v| v.storage) else {
        return Ok(None);
    };
    let schema = version
        .schema
        .as_ref()
        .and_then(|s| s.open_api_v3_schema.as_ref());
    let open_api = schema
        .and_then(|s| serde_json::to_value(s).ok())
        .unwrap_or_else(|| json!({"type": "object"}));
    let columns = serde_json::to_value(&version.additional_printer_columns).unwrap_or_default();
    let subresources = version.subresources.as_ref();
    let scale = subresources
        .and_then(|s| s.scale.as_ref())
        .map(|s| ScalePaths {
            spec: s.spec_replicas_path.clone(),
            status: s.status_replicas_path.clone(),
            selector: s.label_selector_path.clone(),
        });
    let selectable = version.selectable_fields.iter().flatten();
    Ok(Some(Kind {
        group: spec.group.clone(),
        version: version.name.clone(),
        plural: names.plural.clone(),
        singular: names
            .singular
            .clone()
            .unwrap_or_else(|| names.kind.to_lowercase()),
        kind: names.kind.clone(),
        short_names: names.short_names.clone().unwrap_or_default(),
        categories: names.categories.clone().unwrap_or_default(),
        namespaced: spec.scope == "Namespaced",
        status: subresources.is_some_and(|s| s.status.is_some()),
        scale,
        subresources: extra_subresources(&names.plural),
        schema: Schema::compile(&open_api)?,
        open_api,
        columns: Columns::from_crd(&columns),
        selectable: selectable
            .map(|f| f.json_path.trim_start_matches('.').to_owned())
            .collect(),
        origin: Origin::Custom,
        stored: (spec.group.clone(), names.plural.clone()),
        validate,
    }))
}

/// Subresources that are no views of the object: transfers and sessions.
fn extra_subresources(plural: &str) -> Vec<(&'static str, &'static [&'static str])> {
    match plural {
        "images" => vec![("blob", &["get"])],
        "hosts" => vec![("credential", &["create"]), ("sessions", &["get"])],
        "containers" => vec![
            ("exec", &["create", "get"]),
            ("console", &["create", "get"]),
            ("log", &["get"]),
            ("files", &["get", "update"]),
            ("trace", &["get"]),
            ("probe", &["get"]),
        ],
        _ => Vec::new(),
    }
}
