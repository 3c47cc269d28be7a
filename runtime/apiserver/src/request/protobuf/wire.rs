//! The protobuf wire format.

use super::fields::{Field, Shape};
use base64::Engine;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// How deep messages may be nested.
const MAX_DEPTH: usize = 16;

/// The content of a field on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads fields one after the other: number and content.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("it ends inside a number")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number has more than 64 bits".into())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or("it ends inside a field")?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Content<'a>), String> {
        let tag = self.varint()?;
        let content = match tag & 7 {
            0 => Content::Number(self.varint()?),
            1 => Content::Bytes(self.take(8)?),
            2 => {
                let length = self.varint()?;
                Content::Bytes(self.take(length)?)
            }
            5 => Content::Bytes(self.take(4)?),
            other => return Err(format!("wire type {other} is not used")),
        };
        Ok((tag >> 3, content))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Content<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Decodes a message. Unknown fields are skipped: newer clients may have more.
pub(super) fn message(
    bytes: &[u8],
    table: &[Field],
    depth: usize,
) -> Result<Map<String, Value>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH} messages"));
    }
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, content) = field?;
        let Some(field) = table.iter().find(|f| f.number == number) else {
            continue;
        };
        match field.shape {
            Shape::List(shape) => {
                let member =
                    value(content, shape, depth).map_err(|e| format!("{}: {e}", field.name))?;
                let list = object
                    .entry(field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(member);
                }
            }
            Shape::Map(shape) => {
                let (key, member) =
                    entry(content, shape, depth).map_err(|e| format!("{}: {e}", field.name))?;
                let map = object
                    .entry(field.name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, member);
                }
            }
            shape => {
                let value =
                    value(content, &shape, depth).map_err(|e| format!("{}: {e}", field.name))?;
                if field.pointer && !value.is_null() || !is_empty(&value) {
                    object.insert(field.name.into(), value);
                }
            }
        }
    }
    Ok(object)
}

/// An entry of a map: a message of key and value.
fn entry(content: Content<'_>, shape: &Shape, depth: usize) -> Result<(String, Value), String> {
    let Content::Bytes(bytes) = content else {
        return Err("a map entry is a message".into());
    };
    let mut key = String::new();
    let mut member = value(Content::Bytes(&[]), shape, depth)?;
    for field in Fields(bytes) {
        match field? {
            (1, Content::Bytes(bytes)) => key = text(bytes)?,
            (2, content) => member = value(content, shape, depth)?,
            _ => {}
        }
    }
    Ok((key, member))
}

fn value(content: Content<'_>, shape: &Shape, depth: usize) -> Result<Value, String> {
    match (shape, content) {
        (Shape::Text, Content::Bytes(bytes)) => Ok(text(bytes)?.into()),
        (Shape::Bytes, Content::Bytes(bytes)) => Ok(base64::engine::general_purpose::STANDARD
            .encode(bytes)
            .into()),
        (Shape::Json, Content::Bytes([])) => Ok(Value::Null),
        // FieldsV1{Raw: bytes of JSON}
        (Shape::Json, Content::Bytes(bytes)) => match Fields(bytes).next() {
            Some(Ok((1, Content::Bytes(json)))) => {
                serde_json::from_slice(json).map_err(|e| e.to_string())
            }
            _ => Err("no JSON inside".into()),
        },
        (Shape::Message(fields), Content::Bytes(bytes)) => {
            message(bytes, fields, depth + 1).map(Value::Object)
        }
        (Shape::Time, Content::Bytes(bytes)) => time(bytes, 0),
        (Shape::MicroTime, Content::Bytes(bytes)) => time(bytes, 6),
        // Negative numbers are written as their 64-bit two's complement.
        (Shape::Integer, Content::Number(number)) => Ok(number.cast_signed().into()),
        (Shape::Boolean, Content::Number(number)) => Ok((number != 0).into()),
        _ => Err("wrong wire type".into()),
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "text is not UTF-8".into())
}

/// `Time{seconds: 1, nanos: 2}`, as RFC 3339 with so many digits of a second; the zero time is absent.
fn time(bytes: &[u8], digits: i16) -> Result<Value, String> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Content::Number(number)) => seconds = number.cast_signed(),
            (2, Content::Number(number)) => {
                nanos = i32::try_from(number.cast_signed()).unwrap_or_default()
            }
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let time = Timestamp::new(seconds, nanos).map_err(|e| e.to_string())?;
    let digits = usize::try_from(digits).unwrap_or_default();
    Ok(format!("{time:.digits$}").into())
}

/// Is it what Go writes for an absent value?
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(members) => members.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
