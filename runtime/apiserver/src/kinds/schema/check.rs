//! Comparing an object with its schema. Messages read as Kubernetes' do, because people search for them.

use super::node::{Rules, Type};
use super::{ListType, Node, Path, format};
use serde_json::Value;
use skysail_schemas::validate::{Cause, Errors};

pub(super) fn check(node: &Node, value: &Value, path: &mut Path, errors: &mut Errors) {
    if value.is_null() && node.nullable {
        return;
    }
    if !has_type(node, value) {
        let wanted = if node.int_or_string {
            "integer or string"
        } else {
            node.kind.map_or("", Type::as_str)
        };
        let message = format!("Invalid value: {}: must be of type {wanted}", shown(value));
        errors.push(Cause::TypeInvalid, path.text(), message);
        return;
    }
    rules(&node.rules, value, path, errors);
    match value {
        Value::Object(fields) => {
            for name in node
                .required
                .iter()
                .filter(|name| !fields.contains_key(*name))
            {
                path.field(name, |path| {
                    errors.push(Cause::Required, path.text(), "Required value")
                });
            }
            for (key, value) in fields {
                if let Some(child) = node.properties.get(key) {
                    path.field(key, |path| check(child, value, path, errors));
                } else if let Some(child) = &node.additional {
                    path.key(key, |path| check(child, value, path, errors));
                }
            }
        }
        Value::Array(members) => {
            if let Some(items) = &node.items {
                for (i, member) in members.iter().enumerate() {
                    path.index(i, |path| check(items, member, path, errors));
                }
            }
            unique(node, members, path, errors);
        }
        _ => {}
    }
}

fn has_type(node: &Node, value: &Value) -> bool {
    if node.int_or_string {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match node.kind {
        None => true,
        Some(Type::Object) => value.is_object(),
        Some(Type::Array) => value.is_array(),
        Some(Type::String) => value.is_string(),
        Some(Type::Integer) => value.is_i64() || value.is_u64(),
        Some(Type::Number) => value.is_number(),
        Some(Type::Boolean) => value.is_boolean(),
    }
}

fn rules(rules: &Rules, value: &Value, path: &mut Path, errors: &mut Errors) {
    if !rules.enumeration.is_empty() && !rules.enumeration.contains(value) {
        let supported: Vec<_> = rules.enumeration.iter().map(shown).collect();
        let message = format!(
            "Unsupported value: {}: supported values: {}",
            shown(value),
            supported.join(", ")
        );
        errors.push(Cause::NotSupported, path.text(), message);
    }
    let mut invalid = |message: String| {
        errors.push(
            Cause::Invalid,
            path.text(),
            format!("Invalid value: {}: {message}", shown(value)),
        );
    };
    if let Some(format) = rules.format.as_deref().filter(|f| !format::fits(f, value)) {
        invalid(format!("must be of format {format}"));
    }
    match value {
        Value::Number(_) => number(rules, value.as_f64().unwrap_or_default(), &mut invalid),
        Value::String(text) => {
            if let Some(pattern) = rules.pattern.as_ref().filter(|p| !p.is_match(text)) {
                invalid(format!("should match '{pattern}'"));
            }
        }
        _ => {}
    }
    size(rules, value, path, errors);
    combinations(rules, value, path, errors);
}

fn number(rules: &Rules, value: f64, invalid: &mut impl FnMut(String)) {
    if let Some(minimum) = rules.minimum {
        match rules.exclusive_minimum {
            true if value <= minimum => invalid(format!("should be greater than {minimum}")),
            false if value < minimum => {
                invalid(format!("should be greater than or equal to {minimum}"))
            }
            _ => {}
        }
    }
    if let Some(maximum) = rules.maximum {
        match rules.exclusive_maximum {
            true if value >= maximum => invalid(format!("should be less than {maximum}")),
            false if value > maximum => {
                invalid(format!("should be less than or equal to {maximum}"))
            }
            _ => {}
        }
    }
    if let Some(factor) = rules.multiple_of.filter(|factor| value % factor != 0.0) {
        invalid(format!("should be a multiple of {factor}"));
    }
}

fn size(rules: &Rules, value: &Value, path: &mut Path, errors: &mut Errors) {
    let (size, min, max, cause, unit) = match value {
        Value::String(text) => (
            text.chars().count(),
            rules.min_length,
            rules.max_length,
            Cause::TooLong,
            "characters",
        ),
        Value::Array(members) => (
            members.len(),
            rules.min_items,
            rules.max_items,
            Cause::TooMany,
            "items",
        ),
        Value::Object(fields) => (
            fields.len(),
            rules.min_properties,
            rules.max_properties,
            Cause::TooMany,
            "entries",
        ),
        _ => return,
    };
    if let Some(max) = max.filter(|max| size as u64 > *max) {
        let word = if cause == Cause::TooLong {
            "Too long"
        } else {
            "Too many"
        };
        errors.push(
            cause,
            path.text(),
            format!("{word}: {size}: must have at most {max} {unit}"),
        );
    }
    if let Some(min) = min.filter(|min| (size as u64) < *min) {
        let message = format!(
            "Invalid value: {}: must have at least {min} {unit}",
            shown(value)
        );
        errors.push(Cause::Invalid, path.text(), message);
    }
}

fn combinations(rules: &Rules, value: &Value, path: &mut Path, errors: &mut Errors) {
    for node in &rules.all_of {
        check(node, value, path, errors);
    }
    let fits = |node: &Node| {
        let mut errors = Errors::default();
        check(node, value, &mut Path::default(), &mut errors);
        errors.0.is_empty()
    };
    let mut invalid = |message: &str| {
        errors.push(
            Cause::Invalid,
            path.text(),
            format!("Invalid value: {}: {message}", shown(value)),
        );
    };
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(fits) {
        invalid("must validate at least one schema (anyOf)");
    }
    if !rules.one_of.is_empty() && rules.one_of.iter().filter(|n| fits(n)).count() != 1 {
        invalid("must validate one and only one schema (oneOf)");
    }
    if rules.not.as_deref().is_some_and(fits) {
        invalid("must not validate the schema (not)");
    }
}

/// Members of a set or map list stand once.
fn unique(node: &Node, members: &[Value], path: &mut Path, errors: &mut Errors) {
    let key = |member: &Value| match &node.list_type {
        ListType::Map(keys) => Value::Array(
            keys.iter()
                .map(|k| member.get(k).cloned().unwrap_or_default())
                .collect(),
        ),
        _ => member.clone(),
    };
    if node.list_type == ListType::Atomic && !node.rules.unique_items {
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, member) in members.iter().enumerate() {
        let key = key(member);
        if !seen.insert(key.to_string()) {
            let message = format!("Duplicate value: {key}");
            path.index(i, |path| {
                errors.push(Cause::Duplicate, path.text(), message)
            });
        }
    }
}

/// A value as an error shows it: short.
fn shown(value: &Value) -> String {
    const LIMIT: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
