//! Bodies to JSON values: JSON and YAML, with duplicate keys reported and hostile input refused.

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`; also server-side apply's `application/apply-patch+yaml` (JSON is YAML).
    Yaml,
}

/// A body that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The last of several equal keys wins, as in Go.
    pub value: Value,
    /// Paths of keys that stand twice, such as `spec.replicas`.
    pub duplicates: Vec<String>,
}

/// A body that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 413.
    #[error("the body has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// 400.
    #[error("{0}")]
    Syntax(String),
}

/// The largest body, in bytes (Kubernetes' limit).
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// How deep maps and lists may be nested.
pub const MAX_DEPTH: usize = 60;
/// The most values of one body, after YAML aliases are expanded.
pub const MAX_VALUES: usize = 500_000;
/// Duplicate keys beyond so many are not named.
const MAX_DUPLICATES: usize = 32;

/// Reads a body.
pub fn parse(format: Format, body: &[u8]) -> Result<Parsed, Error> {
    if body.len() > MAX_BODY {
        return Err(Error::TooLarge {
            size: body.len(),
            limit: MAX_BODY,
        });
    }
    let mut reader = Reader::default();
    let value = match format {
        Format::Json => {
            let mut json = serde_json::Deserializer::from_slice(body);
            let value = Node(&mut reader).deserialize(&mut json);
            value
                .and_then(|value| json.end().map(|()| value))
                .map_err(|e| e.to_string())
        }
        Format::Yaml => yaml(body, &mut reader),
    };
    let value = value.map_err(Error::Syntax)?;
    Ok(Parsed {
        value,
        duplicates: reader.duplicates,
    })
}

fn yaml(body: &[u8], reader: &mut Reader) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_documents: 1, max_aliases: 1_000, max_anchors: 1_000 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
    };
    serde_saphyr::with_deserializer_from_slice_with_options(body, options, |yaml| {
        Node(reader).deserialize(yaml)
    })
    .map_err(|e| e.to_string())
}

/// Where the reading is, and what it found.
#[derive(Default)]
struct Reader {
    path: String,
    depth: usize,
    values: usize,
    duplicates: Vec<String>,
}

/// Reads one value.
struct Node<'a>(&'a mut Reader);

impl Node<'_> {
    /// Reads what is one step deeper.
    fn within<T, E: serde::de::Error>(
        &mut self,
        step: &str,
        read: impl FnOnce(Node<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let length = self.0.path.len();
        self.0.path.push_str(step);
        self.0.depth += 1;
        self.0.values += 1;
        if self.0.depth > MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if self.0.values > MAX_VALUES {
            return Err(E::custom(format!("more than {MAX_VALUES} values")));
        }
        let result = read(Node(self.0))?;
        self.0.depth -= 1;
        self.0.path.truncate(length);
        Ok(result)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("{value} is no JSON number")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        loop {
            let step = format!("[{}]", members.len());
            match self.within(&step, |node| list.next_element_seed(node))? {
                Some(member) => members.push(member),
                None => return Ok(Value::Array(members)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let step = if self.0.path.is_empty() {
                key.clone()
            } else {
                format!(".{key}")
            };
            let value = self.within(&step, |node| map.next_value_seed(node))?;
            if fields.insert(key, value).is_some() && self.0.duplicates.len() < MAX_DUPLICATES {
                self.0.duplicates.push(format!("{}{step}", self.0.path));
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn ok(format: Format, text: &str) -> Parsed {
        parse(format, text.as_bytes()).expect(text)
    }

    fn refused(format: Format, text: &str) -> String {
        parse(format, text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn duplicate_keys_are_named_and_the_last_wins() {
        let json = ok(
            Format::Json,
            r#"{"spec": {"a": 1, "list": [{"b": 1, "b": 2}], "a": 3}, "kind": "K"}"#,
        );
        assert_eq!(json.duplicates, ["spec.list[0].b", "spec.a"]);
        assert_eq!(
            json.value,
            json!({"spec": {"a": 3, "list": [{"b": 2}]}, "kind": "K"})
        );
        let yaml = ok(
            Format::Yaml,
            "spec:\n  a: 1\n  list:\n  - b: 1\n    b: 2\n  a: 3\nkind: K\n",
        );
        assert_eq!((yaml.value, yaml.duplicates), (json.value, json.duplicates));
    }

    #[test]
    fn yaml_reads_scalars_as_json_has_them() {
        let parsed = ok(
            Format::Yaml,
            "a: 1\nb: -2\nc: 1.5\nd: true\ne: null\nf: '1'\ng: text\nh: [x, {y: z}]\ni:\n1: one\n",
        );
        let value = json!({"a": 1, "b": -2, "c": 1.5, "d": true, "e": null, "f": "1", "g": "text",
            "h": ["x", {"y": "z"}], "i": null, "1": "one"});
        assert_eq!(
            parsed,
            Parsed {
                value,
                duplicates: Vec::new()
            }
        );
    }

    #[test]
    fn json_is_yaml() {
        let text = r#"{"apiVersion": "v1", "metadata": {"name": "x", "labels": {}}, "data": {"k": "a\nb"}}"#;
        assert_eq!(ok(Format::Json, text), ok(Format::Yaml, text));
    }

    #[test]
    fn hostile_bodies_are_refused() {
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH + 2), "]".repeat(MAX_DEPTH + 2));
        assert!(refused(Format::Json, &deep).contains("nested deeper"));
        refused(Format::Yaml, &deep);
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let alias = format!("*a{}, ", i - 1).repeat(9);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", alias.trim_end_matches(", ")));
        }
        refused(Format::Yaml, &bomb);
        let large = format!("\"{}\"", "x".repeat(MAX_BODY));
        assert!(matches!(
            parse(Format::Json, large.as_bytes()),
            Err(Error::TooLarge { .. })
        ));
        refused(Format::Yaml, "a: 1\n---\nb: 2\n");
        refused(Format::Json, "{} {}");
        refused(Format::Json, "{\"a\": }");
        refused(Format::Json, "");
        refused(Format::Yaml, "a: .nan\n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Format::Json, &bytes);
            let _ = parse(Format::Yaml, &bytes);
        }

        #[test]
        fn what_json_prints_is_read_back(keys in prop::collection::btree_map("[a-z.\\[]{1,5}", any::<i64>(), 0..6)) {
            let value = json!({"data": keys});
            let parsed = ok(Format::Json, &value.to_string());
            prop_assert_eq!(parsed, Parsed { value, duplicates: Vec::new() });
        }
    }
}
