//! Label and field selectors of lists and watches.

use crate::kinds::metadata;
use serde_json::Value;
use std::collections::BTreeSet;

/// A selector that cannot be used: 400, with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// `app=web,tier in (a,b),!canary`: all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    test: LabelTest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTest {
    Exists,
    Absent,
    In(BTreeSet<String>),
    /// Also true where the label is missing.
    NotIn(BTreeSet<String>),
}

impl LabelSelector {
    /// Parses the query parameter `labelSelector`; empty matches everything.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: String| {
            Error(format!(
                "unable to parse requirement: {why} in label selector {text:?}"
            ))
        };
        let mut tokens = Tokens {
            tokens: tokens(text),
            next: 0,
        };
        let mut requirements = Vec::new();
        while tokens.peek().is_some() {
            if !requirements.is_empty() {
                tokens.expect(",").map_err(&wrong)?;
            }
            requirements.push(tokens.requirement().map_err(&wrong)?);
        }
        Ok(Self { requirements })
    }

    /// Matches everything?
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Does an object match, by its `metadata.labels`?
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.requirements.iter().all(|requirement| {
            let value = labels
                .and_then(|l| l.get(&requirement.key))
                .and_then(Value::as_str);
            match &requirement.test {
                LabelTest::Exists => value.is_some(),
                LabelTest::Absent => value.is_none(),
                LabelTest::In(values) => value.is_some_and(|v| values.contains(v)),
                LabelTest::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            }
        })
    }
}

/// Splits into words and the symbols `( ) , ! = == !=`.
fn tokens(text: &str) -> Vec<&str> {
    let special = |c: char| "(),!=".contains(c) || c.is_whitespace();
    let mut rest = text.trim();
    let mut tokens = Vec::new();
    while !rest.is_empty() {
        let length = if rest.starts_with("==") || rest.starts_with("!=") {
            2
        } else {
            rest.find(special).unwrap_or(rest.len()).max(1)
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

struct Tokens<'a> {
    tokens: Vec<&'a str>,
    next: usize,
}

impl<'a> Tokens<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.next).copied()
    }

    fn take(&mut self) -> Option<&'a str> {
        self.next += 1;
        self.tokens.get(self.next - 1).copied()
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        match self.take() {
            Some(token) if token == wanted => Ok(()),
            other => Err(format!(
                "found '{}', expected '{wanted}'",
                other.unwrap_or_default()
            )),
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = self
            .peek()
            .filter(|t| !t.starts_with(['(', ')', ',', '!', '=']))?;
        self.next += 1;
        Some(word)
    }

    fn requirement(&mut self) -> Result<LabelRequirement, String> {
        let absent = self.peek() == Some("!");
        if absent {
            self.next += 1;
        }
        let found = self.peek().unwrap_or_default();
        let key = self
            .word()
            .ok_or_else(|| format!("found '{found}', expected: a label key"))?;
        metadata::qualified_name(key).map_err(|why| format!("invalid label key {key:?}: {why}"))?;
        let test = if absent {
            LabelTest::Absent
        } else {
            self.test()?
        };
        Ok(LabelRequirement {
            key: key.to_owned(),
            test,
        })
    }

    fn test(&mut self) -> Result<LabelTest, String> {
        match self.peek() {
            None | Some(",") => Ok(LabelTest::Exists),
            Some(operator) => {
                self.next += 1;
                match operator {
                    "=" | "==" => Ok(LabelTest::In(BTreeSet::from([self.value()?]))),
                    "!=" => Ok(LabelTest::NotIn(BTreeSet::from([self.value()?]))),
                    "in" => Ok(LabelTest::In(self.values()?)),
                    "notin" => Ok(LabelTest::NotIn(self.values()?)),
                    other => Err(format!("found '{other}', expected: in, notin, =, ==, !=")),
                }
            }
        }
    }

    /// A word, or nothing, which is the empty value.
    fn value(&mut self) -> Result<String, String> {
        let value = self.word().unwrap_or_default();
        metadata::label_value(value)
            .map_err(|why| format!("invalid label value {value:?}: {why}"))?;
        Ok(value.to_owned())
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        self.expect("(")?;
        if self.peek() == Some(")") {
            return Err("for 'in', 'notin' operators, values set can't be empty".into());
        }
        let mut values = BTreeSet::from([self.value()?]);
        while self.peek() == Some(",") {
            self.next += 1;
            values.insert(self.value()?);
        }
        self.expect(")")?;
        Ok(values)
    }
}

/// `status.host=h1,metadata.name!=x`: all must hold. Values are compared as text; an absent field is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    path: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses the query parameter `fieldSelector`; empty matches everything. `supported` lists the kind's own
    /// paths (`status.host`); `metadata.name` and `metadata.namespace` always are.
    pub fn parse(text: &str, supported: &[impl AsRef<str>]) -> Result<Self, Error> {
        let mut requirements = Vec::new();
        for term in terms(text).filter(|term| !term.is_empty()) {
            let requirement = field_requirement(term).ok_or_else(|| {
                Error(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                ))
            })?;
            let path = requirement.path.as_str();
            let known = matches!(path, "metadata.name" | "metadata.namespace")
                || supported.iter().any(|s| s.as_ref() == path);
            if !known {
                return Err(Error(format!("field label not supported: {path}")));
            }
            requirements.push(requirement);
        }
        Ok(Self { requirements })
    }

    /// Matches everything?
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that a path must equal, if the selector says so.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.equal && r.path == path)
            .map(|r| r.value.as_str())
    }

    /// Does an object match?
    pub fn matches(&self, object: &Value) -> bool {
        self.requirements
            .iter()
            .all(|r| (field(object, &r.path) == r.value) == r.equal)
    }
}

/// Splits at commas that no backslash escapes.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let separates = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

fn field_requirement(term: &str) -> Option<FieldRequirement> {
    let at = term.find(['=', '!'])?;
    let (path, rest) = term.split_at(at);
    let (equal, value) = [("==", true), ("!=", false), ("=", true)]
        .into_iter()
        .find_map(|(operator, equal)| rest.strip_prefix(operator).map(|value| (equal, value)))?;
    Some(FieldRequirement {
        path: path.trim().to_owned(),
        equal,
        value: unescape(value)?,
    })
}

/// Takes the backslashes off `\\`, `\,` and `\=`; any other use of them, or a bare `=`, is a mistake.
fn unescape(value: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => text.push(characters.next().filter(|c| "\\,=".contains(*c))?),
            '=' | ',' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

/// The field at a dotted path, as text.
fn field(object: &Value, path: &str) -> String {
    let value = path
        .split('.')
        .try_fold(object, |value, name| value.get(name));
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn labels(text: &str) -> LabelSelector {
        LabelSelector::parse(text).expect(text)
    }

    #[test]
    fn label_operators_mean_what_kubernetes_means() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "a", "empty": ""}}});
        for (selector, matches) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=a", true),
            ("app=web,tier=b", false),
            ("app!=db", true),
            ("missing!=x", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db)", true),
            ("missing notin (x)", true),
            ("app", true),
            ("!app", false),
            ("! missing , app", true),
            ("missing", false),
            ("empty=", true),
            ("empty in (,x)", true),
            ("skysail.dev/net!=x,app in(web)", true),
        ] {
            assert_eq!(labels(selector).matches(&object), matches, "{selector}");
        }
        assert!(labels("a!=b").matches(&json!({"metadata": {}})));
        assert!(labels(" ").is_empty());
    }

    #[test]
    fn mistakes_in_label_selectors_are_refused() {
        for text in [
            "a=b,", ",a", "a b", "a in b", "a in ()", "a in (b", "=b", "!", "a=b=c", "a/b/c=d",
            "a=-x", "-a=b", "!a=b", "()",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn field_selectors_compare_text() {
        let object = json!({"metadata": {"name": "x"}, "spec": {"vni": 7, "on": true}, "status": {"host": "h,1"}});
        let supported = ["spec.vni", "spec.on", "status.host", "status.gone"];
        for (selector, matches) in [
            ("", true),
            ("metadata.name=x", true),
            ("metadata.name==x,spec.vni=7", true),
            ("metadata.name!=x", false),
            ("spec.on=true", true),
            ("status.host=h\\,1", true),
            ("status.gone=", true),
            ("metadata.namespace=", true),
            ("status.gone!=h", true),
        ] {
            let parsed = FieldSelector::parse(selector, &supported).expect(selector);
            assert_eq!(parsed.matches(&object), matches, "{selector}");
        }
        let parsed = FieldSelector::parse("spec.vni=7,status.host!=h", &supported).expect("parses");
        assert_eq!(
            (parsed.exact("spec.vni"), parsed.exact("status.host")),
            (Some("7"), None)
        );
    }

    #[test]
    fn unsupported_and_malformed_field_selectors_are_refused() {
        let refused = |text: &str| {
            FieldSelector::parse(text, &["spec.a"])
                .expect_err(text)
                .to_string()
        };
        assert_eq!(refused("spec.bad=1"), "field label not supported: spec.bad");
        assert!(refused("spec.a").contains("can't understand 'spec.a'"));
        assert!(refused("spec.a=x=y").contains("can't understand"));
        assert!(refused("spec.a=x\\y").contains("can't understand"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-c=!,() inot\\\\./-]{0,20}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text, &["a"]);
        }

        #[test]
        fn a_test_and_its_negation_never_agree(key in "[a-c]", value in "[x-z]", has in prop::option::of("[x-z]")) {
            let object = match has {
                Some(label) => json!({"metadata": {"labels": {&key: label}}}),
                None => json!({"metadata": {}}),
            };
            let holds = |text: String| labels(&text).matches(&object);
            let equal = holds(format!("{key}={value}"));
            prop_assert_ne!(equal, holds(format!("{key}!={value}")));
            prop_assert_eq!(equal, holds(format!("{key} in ({value})")));
            prop_assert_ne!(equal, holds(format!("{key} notin ({value})")));
            let exists = holds(key.clone());
            prop_assert_ne!(exists, holds(format!("!{key}")));
        }
    }
}
