//! Objects as trees of fields: which fields there are, merging by schema, removal.

use super::field_set::{FieldPath, FieldSet, Step};
use crate::kinds::schema::{ListType, Node};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Content<'a> {
    /// Something that is merged no further: a scalar, an atomic list or map, an empty one.
    Leaf(&'a Value),
    /// A list member or map entry with fields below it.
    Branch,
}

pub(super) type Contents<'a> = BTreeMap<FieldPath, Content<'a>>;

/// Every field of an object that can be owned.
pub(super) fn contents<'a>(node: &Node, object: &'a Value) -> Contents<'a> {
    let mut found = Contents::new();
    collect(Some(node), object, &mut Vec::new(), &mut found);
    found
}

fn collect<'a>(
    node: Option<&Node>,
    value: &'a Value,
    path: &mut FieldPath,
    found: &mut Contents<'a>,
) {
    match value {
        Value::Object(fields) if is_granular(node) && !fields.is_empty() => {
            for (name, value) in fields {
                path.push(Step::Field(name.clone()));
                collect(child(node, name), value, path, found);
                let declared = node.is_some_and(|node| node.properties.contains_key(name));
                if !declared {
                    found.entry(path.clone()).or_insert(Content::Branch);
                }
                path.pop();
            }
        }
        Value::Array(members) if is_associative(node) && !members.is_empty() => {
            for (i, member) in members.iter().enumerate() {
                path.push(step(node, member, i));
                collect(items(node), member, path, found);
                found.entry(path.clone()).or_insert(Content::Branch);
                path.pop();
            }
        }
        leaf => {
            found.insert(path.clone(), Content::Leaf(leaf));
        }
    }
}

fn is_granular(node: Option<&Node>) -> bool {
    node.is_none_or(|node| !node.atomic_map)
}

fn is_associative(node: Option<&Node>) -> bool {
    node.is_some_and(|node| node.list_type != ListType::Atomic)
}

fn child<'n>(node: Option<&'n Node>, name: &str) -> Option<&'n Node> {
    node.and_then(|node| node.child(name))
}

fn items(node: Option<&Node>) -> Option<&Node> {
    node.and_then(|node| node.items.as_deref())
}

/// The step to a member of an associative list.
fn step(node: Option<&Node>, member: &Value, index: usize) -> Step {
    match node.map(|node| &node.list_type) {
        Some(ListType::Set) => Step::Value(member.to_string()),
        Some(ListType::Map(keys)) => {
            let default = |key: &str| {
                items(node)
                    .and_then(|n| n.properties.get(key))
                    .and_then(|n| n.default.as_ref())
            };
            let fields = keys
                .iter()
                .filter_map(|key| Some((key.as_str(), member.get(key).or_else(|| default(key))?)));
            Step::key(fields.collect())
        }
        _ => Step::Index(index),
    }
}

/// Lays a manifest over an object: maps are merged, lists of type map and set too, all else is replaced.
pub(super) fn merge(node: Option<&Node>, live: &Value, applied: &Value) -> Value {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) if is_granular(node) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let below = live.get(name).map_or_else(
                    || value.clone(),
                    |live| merge(child(node, name), live, value),
                );
                merged.insert(name.clone(), below);
            }
            Value::Object(merged)
        }
        (Value::Array(live), Value::Array(applied)) if is_associative(node) => {
            let mut merged = live.clone();
            let steps: Vec<_> = live
                .iter()
                .enumerate()
                .map(|(i, member)| step(node, member, i))
                .collect();
            for (i, member) in applied.iter().enumerate() {
                let wanted = step(node, member, i);
                match steps.iter().position(|step| *step == wanted) {
                    Some(at) => merged[at] = merge(items(node), &merged[at], member),
                    None => merged.push(member.clone()),
                }
            }
            Value::Array(merged)
        }
        _ => applied.clone(),
    }
}

/// Removes the fields in `gone` from an object, and the maps and lists that this leaves empty, except at its root
/// and where they are themselves `owned`.
pub(super) fn remove(object: &mut Value, gone: &FieldSet, owned: &FieldSet) {
    for path in &gone.0 {
        if !owned.has_below(path) && !is_key_field(path) {
            remove_path(object, path, 0, owned);
        }
    }
}

/// Key fields go with their list member, not alone.
fn is_key_field(path: &[Step]) -> bool {
    match path {
        [.., Step::Key(key), Step::Field(name)] => Step::key_fields(key).contains_key(name),
        _ => false,
    }
}

fn remove_path(value: &mut Value, path: &[Step], depth: usize, owned: &FieldSet) -> bool {
    let step = &path[depth];
    if depth + 1 == path.len() {
        return remove_step(value, step);
    }
    let Some(below) = find(value, step) else {
        return false;
    };
    let removed = remove_path(below, path, depth + 1, owned);
    let emptied = match below {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(members) => members.is_empty(),
        _ => false,
    };
    if removed && emptied && depth > 0 && !owned.contains(&path[..=depth]) {
        remove_step(value, step);
    }
    removed
}

fn find<'v>(value: &'v mut Value, step: &Step) -> Option<&'v mut Value> {
    match (value, step) {
        (Value::Object(fields), Step::Field(name)) => fields.get_mut(name),
        (Value::Array(members), step) => {
            let at = position(members, step)?;
            members.get_mut(at)
        }
        _ => None,
    }
}

fn remove_step(value: &mut Value, step: &Step) -> bool {
    match (value, step) {
        (Value::Object(fields), Step::Field(name)) => fields.remove(name).is_some(),
        (Value::Array(members), step) => position(members, step)
            .map(|at| members.remove(at))
            .is_some(),
        _ => false,
    }
}

fn position(members: &[Value], step: &Step) -> Option<usize> {
    match step {
        Step::Value(json) => {
            let wanted: Value = serde_json::from_str(json).ok()?;
            members.iter().position(|member| *member == wanted)
        }
        Step::Index(index) => Some(*index).filter(|index| *index < members.len()),
        Step::Key(json) => {
            let keys: Map<_, _> = Step::key_fields(json).into_iter().collect();
            members.iter().position(|member| {
                keys.iter()
                    .all(|(key, value)| member.get(key) == Some(value))
            })
        }
        Step::Field(_) => None,
    }
}

/// What differs between two states of an object.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Fields that are new or have another value.
    pub(super) set: FieldSet,
    pub(super) removed: FieldSet,
}

/// Compares two states of an object; what is equal is not looked into.
pub(super) fn compare(node: &Node, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    let root = Some(node);
    differ(
        root,
        [Some(old), Some(new)],
        false,
        &mut Vec::new(),
        &mut difference,
    );
    difference
}

/// `member`: is this path one that is owned as such, whatever is below?
fn differ(
    node: Option<&Node>,
    states: [Option<&Value>; 2],
    member: bool,
    path: &mut FieldPath,
    difference: &mut Difference,
) {
    match states {
        [old, new] if old == new => {}
        [Some(Value::Object(old)), Some(Value::Object(new))]
            if is_granular(node) && !old.is_empty() && !new.is_empty() =>
        {
            let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for name in names {
                path.push(Step::Field(name.clone()));
                let declared = node.is_some_and(|node| node.properties.contains_key(name));
                differ(
                    child(node, name),
                    [old.get(name), new.get(name)],
                    !declared,
                    path,
                    difference,
                );
                path.pop();
            }
        }
        [Some(Value::Array(old)), Some(Value::Array(new))]
            if is_associative(node) && !old.is_empty() && !new.is_empty() =>
        {
            let members = |list: &'_ [Value]| -> BTreeMap<Step, usize> {
                list.iter()
                    .enumerate()
                    .map(|(i, member)| (step(node, member, i), i))
                    .collect()
            };
            let (before, after) = (members(old), members(new));
            let steps: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            for step in steps {
                path.push(step.clone());
                let states = [
                    before.get(step).map(|i| &old[*i]),
                    after.get(step).map(|i| &new[*i]),
                ];
                differ(items(node), states, true, path, difference);
                path.pop();
            }
        }
        [old, new] => {
            let mut contents = |state: Option<&'_ Value>| {
                let mut found = Contents::new();
                if let Some(value) = state {
                    collect(node, value, path, &mut found);
                    if member {
                        found.entry(path.clone()).or_insert(Content::Branch);
                    }
                }
                found
                    .into_iter()
                    .map(|(path, content)| (path, content == Content::Branch))
                    .collect()
            };
            let (old, new): (BTreeMap<FieldPath, bool>, BTreeMap<FieldPath, bool>) =
                (contents(old), contents(new));
            let gone = old.keys().filter(|path| !new.contains_key(*path)).cloned();
            difference.removed.0.extend(gone);
            // Leaves stand here only where they differ.
            let set = new
                .into_iter()
                .filter(|(path, branch)| !branch || old.get(path) != Some(&true));
            difference.set.0.extend(set.map(|(path, _)| path));
        }
    }
}
