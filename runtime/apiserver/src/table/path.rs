//! The part of JSONPath that printer columns use: `.a.b`, `['a']`, `[0]`, `[*]`, `[?(@.type=="Ready")]`.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// Negative ones count from the end.
    Index(i64),
    All,
    /// Members whose field (dotted path) is, or is not, equal to a value.
    Where {
        path: Vec<String>,
        equal: bool,
        value: String,
    },
}

impl JsonPath {
    /// Parses a path; `None` if it is beyond this subset.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut rest = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(text);
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            rest = if let Some(after) = rest.strip_prefix('[') {
                let end = bracket_end(after)?;
                steps.push(bracket(after[..end].trim())?);
                &after[end + 1..]
            } else {
                let (name, after) = field(rest.strip_prefix('.')?)?;
                steps.push(if name == "*" {
                    Step::All
                } else {
                    Step::Field(name)
                });
                after
            };
        }
        Some(Self(steps))
    }

    /// Every value at this path.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![object], |found, step| {
            found
                .into_iter()
                .flat_map(|value| step.find(value))
                .collect()
        })
    }
}

impl Step {
    fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let members = || match value {
            Value::Array(members) => members.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            _ => Vec::new(),
        };
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                let at = if *index < 0 { length + index } else { *index };
                usize::try_from(at)
                    .ok()
                    .and_then(|at| list.get(at))
                    .into_iter()
                    .collect()
            }
            Self::All => members(),
            Self::Where {
                path,
                equal,
                value: wanted,
            } => {
                let is = |member: &Value| {
                    let found = path.iter().try_fold(member, |value, name| value.get(name));
                    found.and_then(super::shown).as_deref() == Some(wanted)
                };
                members()
                    .into_iter()
                    .filter(|member| is(member) == *equal)
                    .collect()
            }
        }
    }
}

/// A field name and what follows it; `\.` is a dot in the name.
fn field(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => name.push(characters.next()?.1),
            '.' | '[' if !name.is_empty() => return Some((name, &text[at..])),
            '.' | '[' => return None,
            c => name.push(c),
        }
    }
    (!name.is_empty()).then_some((name, ""))
}

/// Where the bracket closes that was opened before `text`; quoted text does not count.
fn bracket_end(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ']') => return Some(at),
            _ => {}
        }
        None
    })
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(condition) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (path, equal, value) = match condition.split_once("==") {
            Some((path, value)) => (path, true, value),
            None => condition
                .split_once("!=")
                .map(|(path, value)| (path, false, value))?,
        };
        let path = path
            .trim()
            .strip_prefix("@.")?
            .split('.')
            .map(str::to_owned)
            .collect();
        let value = value.trim();
        return Some(Step::Where {
            path,
            equal,
            value: quoted(value).unwrap_or(value).to_owned(),
        });
    }
    match quoted(text) {
        Some(name) => Some(Step::Field(name.to_owned())),
        None => text.parse().ok().map(Step::Index),
    }
}

fn quoted(text: &str) -> Option<&str> {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_they_name() {
        let object =
            json!({"a": {"b.c": 1}, "l": [{"t": "x", "s": {"v": 1}}, {"t": "y", "s": {"v": 2}}]});
        for (path, found) in [
            (".a['b.c']", json!([1])),
            (".a.b\\.c", json!([1])),
            ("{.l[0].t}", json!(["x"])),
            ("$.l[-1].t", json!(["y"])),
            (".l[*].s.v", json!([1, 2])),
            (".l[?(@.t==\"y\")].s.v", json!([2])),
            (".l[?(@.t != 'y')].s.v", json!([1])),
            (".l[?(@.s.v==2)].t", json!(["y"])),
            (".l[9].t", json!([])),
            (".missing.deeper", json!([])),
        ] {
            let parsed = JsonPath::parse(path).expect(path);
            assert_eq!(json!(parsed.find(&object)), found, "{path}");
        }
    }

    #[test]
    fn what_is_beyond_the_subset_is_refused() {
        for path in ["a", "..a", ".a[", ".a[x]", ".a[?(@.b>1)]", ".a.[0]", ".a["] {
            assert_eq!(JsonPath::parse(path), None, "{path}");
        }
    }
}
