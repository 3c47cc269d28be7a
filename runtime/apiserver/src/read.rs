//! `get` and `list`: answers from the cache.

use crate::accept::{self, Form};
use crate::cache::Object;
use crate::events;
use crate::failure::Failure;
use crate::kinds::Kind;
use crate::request::{Call, Query};
use crate::selector::{FieldSelector, LabelSelector};
use crate::server::Inner;
use crate::table::{self, IncludeObject};
use axum::body::Body;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use skysail_store::Revision;
use std::borrow::Cow;
use std::sync::Arc;

/// JSON with a status code.
pub(crate) fn json_response(code: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// An object in the view of a kind: Events of the newer group are converted, all else is shared.
pub(crate) fn view<'a>(kind: &Kind, object: &'a Object) -> Cow<'a, Value> {
    if kind.is_new_event() {
        Cow::Owned(events::view(object.value.clone(), true))
    } else {
        Cow::Borrowed(&object.value)
    }
}

/// The same as JSON text.
fn view_text(kind: &Kind, object: &Object) -> Bytes {
    if kind.is_new_event() {
        Bytes::from(view(kind, object).to_string())
    } else {
        object.text.clone()
    }
}

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
        let bad = |e: crate::selector::Error| Failure::bad_request(e.to_string());
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

/// The store prefix of what a call covers.
pub(crate) fn prefix(call: &Call<'_>) -> String {
    let prefix = call.kind.prefix();
    if call.namespace.is_empty() {
        prefix
    } else {
        format!("{prefix}{}/", call.namespace)
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

    fn list(&self, objects: &[Arc<Object>], metadata: Value) -> Bytes {
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

/// A number in a parameter.
pub(crate) fn number(name: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => {
            let bad =
                |_| Failure::bad_request(format!("{name}: invalid value {text:?}: not a number"));
            text.parse().map(Some).map_err(bad)
        }
    }
}

/// Waits until the cache is at least as new as the caller may expect. 504 if it is not in time.
pub(crate) async fn catch_up(
    server: &Inner,
    resource_version: Option<&str>,
) -> Result<(), Failure> {
    let wanted = match number("resourceVersion", resource_version)? {
        Some(0) => return Ok(()),
        Some(revision) => revision,
        None => server.store.revision().await?,
    };
    if server.cache.caught_up(wanted).await {
        return Ok(());
    }
    let current = server.cache.revision();
    let mut failure = Failure::timeout(format!(
        "Too large resource version: {wanted}, current: {current}"
    ));
    failure.details["causes"] =
        json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
    Err(failure)
}

/// `GET` of one object.
pub(crate) async fn get(
    server: &Inner,
    call: &Call<'_>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    let renderer = Renderer::new(call.kind, headers, call.query)?;
    catch_up(server, call.query.resource_version.as_deref()).await?;
    let object = server.cache.get(&call.kind.key(call.namespace, call.name));
    let object = object.ok_or_else(|| Failure::not_found(call.kind, call.name))?;
    Ok(json_response(200, renderer.one(&object, true)))
}

/// Where a paged list goes on.
#[derive(Debug, PartialEq)]
struct Position {
    revision: Revision,
    after: String,
}

impl Position {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"rv": self.revision, "start": self.after}).to_string())
    }

    fn decode(token: &str) -> Result<Self, Failure> {
        let parse = || {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            Some(Self {
                revision: value["rv"].as_u64()?,
                after: value["start"].as_str()?.to_owned(),
            })
        };
        parse().ok_or_else(|| Failure::bad_request("continue key is not valid"))
    }
}

/// What a list shows: all objects that the caller may page through and their revision.
async fn objects_for(
    server: &Inner,
    call: &Call<'_>,
    position: Option<&Position>,
) -> Result<(Vec<Arc<Object>>, Revision), Failure> {
    let prefix = prefix(call);
    let query = call.query;
    if let Some(position) = position {
        // A token whose revision is 0 goes on in the present: the way out of an expired one.
        if position.revision == 0 {
            return Ok(server.cache.snapshot(&prefix));
        }
        catch_up(server, Some(&position.revision.to_string())).await?;
        let old = server.cache.at(&prefix, position.revision);
        return old
            .map(|objects| (objects, position.revision))
            .map_err(|_| expired_page(position));
    }
    let version = number("resourceVersion", query.resource_version.as_deref())?;
    catch_up(server, query.resource_version.as_deref()).await?;
    match (query.resource_version_match.as_deref(), version) {
        (Some("Exact"), None | Some(0)) => Err(Failure::bad_request(
            "resourceVersionMatch=Exact needs a resourceVersion other than \"0\"",
        )),
        (Some("Exact"), Some(revision)) => match server.cache.at(&prefix, revision) {
            Ok(objects) => Ok((objects, revision)),
            Err(gone) => Err(Failure::expired(format!(
                "The resourceVersion for the provided list is too old: {revision} ({})",
                gone.floor
            ))),
        },
        (Some("NotOlderThan"), None) => Err(Failure::bad_request(
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (None | Some("" | "NotOlderThan"), _) => Ok(server.cache.snapshot(&prefix)),
        (Some(other), _) => Err(Failure::bad_request(format!(
            "unknown resourceVersionMatch {other:?}"
        ))),
    }
}

/// 410 with a token that goes on in the present, inconsistently.
fn expired_page(position: &Position) -> Failure {
    let text = "The provided continue parameter is too old to display a consistent list result. Start again without \
                it, or go on inconsistently with the token in this answer's metadata.continue.";
    let mut failure = Failure::expired(text);
    failure.details =
        json!({"continue": Position { revision: 0, after: position.after.clone() }.encode()});
    failure
}

/// `GET` of a collection.
pub(crate) async fn list(
    server: &Inner,
    call: &Call<'_>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Failure> {
    let renderer = Renderer::new(call.kind, headers, call.query)?;
    let filter = Filter::of(call)?;
    let limit = number("limit", call.query.limit.as_deref())?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let position = match call.query.continue_.as_deref() {
        None | Some("") => None,
        Some(token) => Some(Position::decode(token)?),
    };
    let (mut objects, revision) = match objects_for(server, call, position.as_ref()).await {
        Ok(found) => found,
        Err(failure) if failure.code == 410 && failure.details.get("continue").is_some() => {
            let mut status = failure.status();
            status["metadata"]["continue"] = failure.details["continue"].clone();
            status.as_object_mut().map(|s| s.remove("details"));
            return Ok(json_response(410, status.to_string()));
        }
        Err(failure) => return Err(failure),
    };
    if let Some(position) = &position {
        objects.retain(|o| o.key > position.after);
    }
    objects.retain(|o| filter.matches(o));
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if limit > 0 && objects.len() > limit {
        let remaining = objects.len() - limit;
        objects.truncate(limit);
        let after = objects.last().map(|o| o.key.clone()).unwrap_or_default();
        metadata["continue"] = Value::String(Position { revision, after }.encode());
        if !filter.selects() {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    Ok(json_response(200, renderer.list(&objects, metadata)))
}
