//! Server-side apply and `metadata.managedFields`: who owns which field.
//!
//! Each manager has a set of fields per way of writing (apply or update) and subresource. An apply merges its
//! manifest over the object by the schema, refuses to change what others own unless forced, and removes what its
//! manager applied before, applies no longer and nobody else owns. Any other write takes ownership of exactly what
//! it changed.

mod field_set;
mod managers;
mod object;
#[cfg(test)]
mod tests;

use crate::kinds::schema::Schema;
use field_set::{FieldSet, Step};
use jiff::Timestamp;
use managers::{Entry, Operation};
use object::Contents;
use serde_json::Value;

/// A field that another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The other manager.
    pub manager: String,
    /// For example `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 409, with one cause of reason `FieldManagerConflict` for each.
    #[error("Apply failed with {} conflict(s)", .0.len())]
    Conflicts(Vec<Conflict>),
    /// 400.
    #[error("{0}")]
    Invalid(String),
}

/// Who writes, where, when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The query parameter `fieldManager`.
    pub manager: &'a str,
    /// `status`, or empty for the main endpoint.
    pub subresource: &'a str,
    /// Of the endpoint, for example `skysail.dev/v1alpha1`.
    pub api_version: &'a str,
    /// When.
    pub now: Timestamp,
}

/// Owns what an object held before ownership was recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Applies a manifest to the live object (`None`: creates it). The result has its `managedFields`. Where nothing
/// changes, it is the live object, also in its times.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    writer: Writer<'_>,
    force: bool,
    schema: &Schema,
) -> Result<Value, Error> {
    let manifest = manifest(applied, writer)?;
    let mut wanted = Entry::new(writer.manager, Operation::Apply, writer);
    wanted.fields = fields(&object::contents(&schema.root, &manifest), writer);
    let Some(live) = live else {
        let mut created = manifest;
        managers::encode(&mut created, vec![wanted]);
        return Ok(created);
    };
    let mut entries = managers::decode(live);
    if entries.is_empty() {
        let mut before = Entry::new(
            BEFORE_FIRST_APPLY,
            Operation::Update,
            Writer {
                subresource: "",
                ..writer
            },
        );
        before.fields = fields(&object::contents(&schema.root, live), writer);
        entries.push(before);
    }
    let last = entries
        .iter()
        .position(|entry| entry.is_of(writer, Operation::Apply))
        .map(|at| entries.remove(at));
    let mut merged = object::merge(Some(&schema.root), live, &manifest);

    let changed = changes(live, &merged, writer, schema).set;
    let conflicts = conflicts(&entries, &changed);
    if !force && !conflicts.is_empty() {
        return Err(Error::Conflicts(conflicts));
    }
    for entry in &mut entries {
        entry.fields.subtract(&changed);
    }

    let mut owned = wanted.fields.clone();
    entries.iter().for_each(|entry| owned.add(&entry.fields));
    let mut gone = last
        .as_ref()
        .map(|last| last.fields.clone())
        .unwrap_or_default();
    gone.subtract(&owned);
    object::remove(&mut merged, &gone, &owned);

    if let Some(last) = last.filter(|last| last.fields == wanted.fields && same(&merged, live)) {
        wanted.time = last.time;
    }
    entries.push(wanted);
    managers::encode(&mut merged, entries);
    Ok(merged)
}

/// Records in `new`'s `managedFields` what an update (PUT, or any other patch) changed since `old` (`None`: it is
/// created). Entries that the client rewrote are taken as it wrote them; `[{}]` forgets all. An object without
/// entries stays without, until it is applied.
pub fn track_update(old: Option<&Value>, new: &mut Value, writer: Writer<'_>, schema: &Schema) {
    if managers::is_reset(new) {
        return managers::forget(new);
    }
    let mut entries = managers::decode(new);
    if entries.is_empty() {
        entries = old.map(managers::decode).unwrap_or_default();
    }
    if old.is_some() && entries.is_empty() {
        return managers::forget(new);
    }
    let change = changes(old.unwrap_or(&Value::Null), new, writer, schema);
    let own = entries
        .iter()
        .position(|entry| entry.is_of(writer, Operation::Update));
    let own = own.map(|at| entries.remove(at));
    for entry in &mut entries {
        entry.fields.subtract(&change.set);
        entry.fields.subtract(&change.removed);
    }
    let mut entry = own.unwrap_or_else(|| Entry::new(writer.manager, Operation::Update, writer));
    if !change.set.is_empty() || !change.removed.is_empty() {
        entry.fields.subtract(&change.removed);
        entry.fields.add(&change.set);
        entry.time = format!("{:.0}", writer.now);
    }
    entries.push(entry);
    managers::encode(new, entries);
}

/// The manifest without what only the server sets.
fn manifest(applied: &Value, writer: Writer<'_>) -> Result<Value, Error> {
    if writer.manager.is_empty() {
        return Err(Error::Invalid("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch".into()));
    }
    if !applied.is_object() {
        return Err(Error::Invalid("an apply patch is an object".into()));
    }
    let mut manifest = applied.clone();
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        let entries = metadata.remove("managedFields").unwrap_or_default();
        if !entries.is_null() && entries.as_array().is_none_or(|entries| !entries.is_empty()) {
            return Err(Error::Invalid("metadata.managedFields must be nil".into()));
        }
        for field in [
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "selfLink",
        ] {
            metadata.remove(field);
        }
    }
    Ok(manifest)
}

/// The fields that a writer may own.
fn fields(contents: &Contents<'_>, writer: Writer<'_>) -> FieldSet {
    FieldSet(
        contents
            .keys()
            .filter(|path| counts(path, writer.subresource))
            .cloned()
            .collect(),
    )
}

/// Identity and what the server sets belong to nobody; status only to writers of `/status`, all else not to them.
fn counts(path: &[Step], subresource: &str) -> bool {
    let field = |at: usize| match path.get(at) {
        Some(Step::Field(name)) => name.as_str(),
        _ => "",
    };
    match (field(0), subresource) {
        ("apiVersion" | "kind" | "", _) => false,
        ("status", "") => false,
        ("status", _) => true,
        (_, "status") => false,
        ("metadata", _) => !matches!(
            field(1),
            "" | "name"
                | "namespace"
                | "uid"
                | "resourceVersion"
                | "generation"
                | "creationTimestamp"
                | "deletionTimestamp"
                | "deletionGracePeriodSeconds"
                | "selfLink"
                | "managedFields"
        ),
        _ => true,
    }
}

/// What differs between two states, of what the writer may own.
fn changes(old: &Value, new: &Value, writer: Writer<'_>, schema: &Schema) -> object::Difference {
    let mut difference = object::compare(&schema.root, old, new);
    difference
        .set
        .0
        .retain(|path| counts(path, writer.subresource));
    difference
        .removed
        .0
        .retain(|path| counts(path, writer.subresource));
    difference
}

fn conflicts(entries: &[Entry], changed: &FieldSet) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for entry in entries {
        for path in &entry.fields.intersection(changed).0 {
            conflicts.push(Conflict {
                manager: entry.manager.clone(),
                field: field_set::shown(path),
            });
        }
    }
    conflicts.sort();
    conflicts.dedup();
    conflicts
}

/// Are they equal but for `managedFields`?
fn same(a: &Value, b: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        managers::forget(&mut object);
        object
    };
    without(a) == without(b)
}
