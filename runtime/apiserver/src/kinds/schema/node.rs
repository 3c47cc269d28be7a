//! A compiled schema node.

use super::CompileError;
use regex::Regex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A JSON type, as schemas name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Self::Object,
            Self::Array,
            Self::String,
            Self::Integer,
            Self::Number,
            Self::Boolean,
        ]
        .into_iter()
        .find(|t| t.as_str() == text)
    }
}

/// How a list is merged by server-side apply, and what makes its members unique.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    /// Replaced whole.
    #[default]
    Atomic,
    /// Members are scalars, each at most once.
    Set,
    /// Members are objects, told apart by these fields.
    Map(Vec<String>),
}

/// One level of a schema.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) kind: Option<Type>,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Node>,
    pub(crate) required: Vec<String>,
    /// What the values of keys outside `properties` look like, if such keys are allowed.
    pub(crate) additional: Option<Box<Node>>,
    pub(crate) items: Option<Box<Node>>,
    /// Unknown fields stay.
    pub(crate) preserve_unknown: bool,
    pub(crate) int_or_string: bool,
    pub(crate) list_type: ListType,
    /// An object that server-side apply replaces whole.
    pub(crate) atomic_map: bool,
    pub(crate) rules: Rules,
}

/// What a value must satisfy beyond its type.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) enumeration: Vec<Value>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) format: Option<String>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) all_of: Vec<Node>,
    pub(crate) any_of: Vec<Node>,
    pub(crate) one_of: Vec<Node>,
    pub(crate) not: Option<Box<Node>>,
}

impl Node {
    /// Compiles a schema; `path` is where it stands, for errors.
    pub(crate) fn compile(schema: &Value, path: &str) -> Result<Self, CompileError> {
        let mut node = Self::default();
        let mut map_keys = Vec::new();
        let mut list_type = "atomic";
        match schema {
            // `true`: anything; schemars writes it for an unconstrained value.
            Value::Bool(true) => node.preserve_unknown = true,
            Value::Object(keywords) => {
                for (keyword, value) in keywords {
                    let wrong = |message: String| CompileError {
                        path: format!("{path}.{keyword}"),
                        message,
                    };
                    match keyword.as_str() {
                        "x-kubernetes-list-map-keys" => map_keys = strings(value),
                        "x-kubernetes-list-type" => list_type = value.as_str().unwrap_or("atomic"),
                        _ => {
                            let known = node.shape(keyword, value, path)?
                                || node.rules.keyword(keyword, value, path).map_err(wrong)?
                                || is_note(keyword);
                            if !known {
                                return Err(wrong("keyword not understood".into()));
                            }
                        }
                    }
                }
            }
            _ => {
                return Err(CompileError {
                    path: path.into(),
                    message: "a schema is an object".into(),
                });
            }
        }
        node.list_type = match list_type {
            "set" => ListType::Set,
            "map" => ListType::Map(map_keys),
            _ => ListType::Atomic,
        };
        // Without a type there is nothing to prune by.
        node.preserve_unknown |=
            node.kind.is_none() && node.properties.is_empty() && !node.int_or_string;
        Ok(node)
    }

    /// A keyword that says what there is; false if it is another one.
    fn shape(&mut self, keyword: &str, value: &Value, path: &str) -> Result<bool, CompileError> {
        match keyword {
            "type" => {
                let kind = value.as_str().and_then(Type::parse);
                self.kind = Some(kind.ok_or_else(|| CompileError {
                    path: format!("{path}.type"),
                    message: format!("{value} is no type"),
                })?);
            }
            "nullable" => self.nullable = value == &Value::Bool(true),
            "default" => self.default = Some(value.clone()),
            "properties" => {
                for (name, schema) in value.as_object().unwrap_or(&Map::new()) {
                    let node = Self::compile(schema, &format!("{path}.{name}"))?;
                    self.properties.insert(name.clone(), node);
                }
            }
            "required" => self.required = strings(value),
            "additionalProperties" if value == &Value::Bool(false) => {}
            "additionalProperties" => {
                self.additional = Some(Box::new(Self::compile(value, &format!("{path}[*]"))?));
            }
            "items" => self.items = Some(Box::new(Self::compile(value, &format!("{path}[]"))?)),
            "x-kubernetes-preserve-unknown-fields" => {
                self.preserve_unknown = value == &Value::Bool(true)
            }
            "x-kubernetes-int-or-string" => self.int_or_string = value == &Value::Bool(true),
            "x-kubernetes-map-type" => self.atomic_map = value == "atomic",
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The schema of the value under a key, if the key is known.
    pub(crate) fn child(&self, key: &str) -> Option<&Self> {
        self.properties.get(key).or(self.additional.as_deref())
    }
}

impl Rules {
    /// A keyword that constrains; false if it is another one.
    fn keyword(&mut self, keyword: &str, value: &Value, path: &str) -> Result<bool, String> {
        let nodes = |value: &Value| -> Result<Vec<Node>, String> {
            let alternatives = value.as_array().map(Vec::as_slice).unwrap_or_default();
            alternatives
                .iter()
                .map(|s| Node::compile(s, path).map_err(|e| e.to_string()))
                .collect()
        };
        let number = || {
            value
                .as_f64()
                .ok_or_else(|| format!("{value} is no number"))
        };
        // Numbers of CRDs may be written as floats.
        let count = || number().map(|n| Some(n as u64));
        let flag = || {
            value
                .as_bool()
                .ok_or_else(|| format!("{value} is no boolean"))
        };
        match keyword {
            "enum" => self.enumeration = value.as_array().cloned().unwrap_or_default(),
            "pattern" => {
                let text = value.as_str().unwrap_or_default();
                self.pattern = Some(Regex::new(text).map_err(|e| e.to_string())?);
            }
            "format" => self.format = value.as_str().map(str::to_owned),
            "minimum" => self.minimum = Some(number()?),
            "maximum" => self.maximum = Some(number()?),
            "exclusiveMinimum" => self.exclusive_minimum = flag()?,
            "exclusiveMaximum" => self.exclusive_maximum = flag()?,
            "multipleOf" => self.multiple_of = Some(number()?),
            "minLength" => self.min_length = count()?,
            "maxLength" => self.max_length = count()?,
            "minItems" => self.min_items = count()?,
            "maxItems" => self.max_items = count()?,
            "minProperties" => self.min_properties = count()?,
            "maxProperties" => self.max_properties = count()?,
            "uniqueItems" => self.unique_items = flag()?,
            "allOf" => self.all_of = nodes(value)?,
            "anyOf" => self.any_of = nodes(value)?,
            "oneOf" => self.one_of = nodes(value)?,
            "not" => {
                self.not = Some(Box::new(
                    Node::compile(value, path).map_err(|e| e.to_string())?,
                ))
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Keywords for people and clients, without a meaning here.
fn is_note(keyword: &str) -> bool {
    matches!(
        keyword,
        "description"
            | "title"
            | "example"
            | "externalDocs"
            | "$schema"
            | "x-kubernetes-embedded-resource"
            | "x-kubernetes-patch-merge-key"
            | "x-kubernetes-patch-strategy"
    )
}

fn strings(value: &Value) -> Vec<String> {
    let members = value.as_array().map(Vec::as_slice).unwrap_or_default();
    members
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}
