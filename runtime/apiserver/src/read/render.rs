//! Objects as bytes, in the form that the client accepts: whole, as rows of a Table, or metadata only.

use crate::answer::Failure;
use crate::answer::accept::{self, Form};
use crate::kinds::{Kind, events};
use crate::request::Query;
use crate::state::cache::Object;
use crate::state::view;
use crate::table::{self, IncludeObject};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// The same as JSON text.
fn view_text(kind: &Kind, object: &Object) -> Bytes {
    if kind.is_new_event() {
        Bytes::from(view(kind, object).to_string())
    } else {
        object.text.clone()
    }
}

fn include(query: &Query) -> Result<IncludeObject, Failure> {
    let text = query.include_object.as_deref().unwrap_or_default();
    if text.is_empty() {
        return Ok(IncludeObject::default());
    }
    IncludeObject::parse(text)
        .ok_or_else(|| Failure::bad_request(format!("unknown includeObject {text:?}")))
}

/// Renders objects of one kind in the wanted form.
pub(crate) struct Renderer<'a> {
    kind: &'a Kind,
    form: Form,
    include: IncludeObject,
}

impl<'a> Renderer<'a> {
    pub(crate) fn new(kind: &'a Kind, headers: &HeaderMap, query: &Query) -> Result<Self, Failure> {
        Ok(Self {
            kind,
            form: accept::form(headers)?,
            include: include(query)?,
        })
    }

    /// One object. `headers`: whether a Table names its columns.
    pub(crate) fn one(&self, object: &Object, headers: bool) -> Bytes {
        match self.form {
            Form::Plain => view_text(self.kind, object),
            _ => self.value(&view(self.kind, object), headers),
        }
    }

    /// One object that is in the view of its kind already.
    pub(crate) fn value(&self, value: &Value, headers: bool) -> Bytes {
        match self.form {
            Form::Plain => Bytes::from(value.to_string()),
            Form::Partial => Bytes::from(table::partial(value).to_string()),
            Form::Table => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let columns = &self.kind.columns;
                Bytes::from(
                    columns
                        .table([value], metadata, self.include, headers, Timestamp::now())
                        .to_string(),
                )
            }
        }
    }

    /// Objects of one kind with the `metadata` of their list.
    pub(crate) fn list(&self, objects: &[Arc<Object>], metadata: Value) -> Bytes {
        if self.form == Form::Plain {
            return self.plain_list(objects, &metadata);
        }
        let values: Vec<Value>;
        let shown: Vec<&Value> = if self.kind.is_new_event() {
            values = objects
                .iter()
                .map(|o| events::view(o.value.clone(), true))
                .collect();
            values.iter().collect()
        } else {
            objects.iter().map(|o| &o.value).collect()
        };
        let document = match self.form {
            Form::Table => {
                self.kind
                    .columns
                    .table(shown, metadata, self.include, true, Timestamp::now())
            }
            _ => table::partial_list(shown, metadata),
        };
        Bytes::from(document.to_string())
    }

    fn plain_list(&self, objects: &[Arc<Object>], metadata: &Value) -> Bytes {
        let head = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            self.kind.kind,
            self.kind.api_version()
        );
        let mut out = BytesMut::with_capacity(
            head.len() + objects.iter().map(|o| o.text.len() + 1).sum::<usize>(),
        );
        out.extend_from_slice(head.as_bytes());
        for (i, object) in objects.iter().enumerate() {
            if i > 0 {
                out.extend_from_slice(b",");
            }
            if self.kind.is_new_event() {
                out.extend_from_slice(&view_text(self.kind, object));
            } else {
                out.extend_from_slice(&object.text);
            }
        }
        out.extend_from_slice(b"]}");
        out.freeze()
    }
}
