//! What a list, a watch or the deletion of a collection covers: its namespace and selectors.

use crate::answer::Failure;
use crate::kinds::events;
use crate::request::Call;
use crate::request::selector::{Error, FieldSelector, LabelSelector};
use crate::state::cache::Object;

/// What a list or watch lets through.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
    new_events: bool,
}

impl Filter {
    pub(crate) fn of(call: &Call<'_>) -> Result<Self, Failure> {
        let bad = |e: Error| Failure::bad_request(e.to_string());
        let supported: Vec<&str> = call.kind.selectable.iter().map(String::as_str).collect();
        let text = |parameter: &'_ Option<String>| parameter.clone().unwrap_or_default();
        Ok(Self {
            namespace: call.namespace.into(),
            labels: LabelSelector::parse(&text(&call.query.label_selector)).map_err(bad)?,
            fields: FieldSelector::parse(&text(&call.query.field_selector), &supported)
                .map_err(bad)?,
            new_events: call.kind.is_new_event(),
        })
    }

    pub(crate) fn selects(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        if !self.namespace.is_empty() && object.meta("namespace") != self.namespace {
            return false;
        }
        if self.fields.is_empty() || !self.new_events {
            return self.labels.matches(&object.value) && self.fields.matches(&object.value);
        }
        self.labels.matches(&object.value)
            && self
                .fields
                .matches(&events::view(object.value.clone(), true))
    }
}
