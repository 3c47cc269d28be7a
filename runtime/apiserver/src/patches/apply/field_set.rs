//! Sets of fields and their wire form, `FieldsV1`.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// One step of a path to a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// `f:replicas`
    Field(String),
    /// `k:{"name":"x"}`: the list member with these keys, as JSON text with sorted keys.
    Key(String),
    /// `v:"x"`: a set's member, as JSON text.
    Value(String),
    /// `i:3`
    Index(usize),
}

/// From the object's root to a field.
pub(super) type FieldPath = Vec<Step>;

impl Step {
    /// The step to the member of a keyed list that has these key fields.
    pub(super) fn key(fields: BTreeMap<&str, &Value>) -> Self {
        Self::Key(serde_json::to_string(&fields).unwrap_or_default())
    }

    /// The key fields of a [`Step::Key`].
    pub(super) fn key_fields(text: &str) -> BTreeMap<String, Value> {
        serde_json::from_str(text).unwrap_or_default()
    }

    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(json) => format!("k:{json}"),
            Self::Value(json) => format!("v:{json}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        Some(match kind {
            "f" => Self::Field(rest.to_owned()),
            // Written anew, so that equal keys are equal texts.
            "k" => Self::Key(
                serde_json::to_string(&serde_json::from_str::<BTreeMap<String, Value>>(rest).ok()?)
                    .ok()?,
            ),
            "v" => Self::Value(serde_json::from_str::<Value>(rest).ok()?.to_string()),
            "i" => Self::Index(rest.parse().ok()?),
            _ => return None,
        })
    }
}

/// A path as conflicts show it: `.spec.networks[name="a"].address`.
pub(super) fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        // Writing to a string cannot fail.
        let _ = match step {
            Step::Field(name) => write!(text, ".{name}"),
            Step::Value(json) => write!(text, "[={json}]"),
            Step::Index(index) => write!(text, "[{index}]"),
            Step::Key(json) => {
                let keys: Vec<_> = Step::key_fields(json)
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect();
                write!(text, "[{}]", keys.join(","))
            }
        };
    }
    text
}

/// Fields, by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet(pub(super) BTreeSet<FieldPath>);

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, path: &[Step]) -> bool {
        self.0.contains(path)
    }

    /// Is there a field below this one?
    pub(super) fn has_below(&self, path: &[Step]) -> bool {
        // What is below comes right after, in order.
        let after = self
            .0
            .range::<[Step], _>((std::ops::Bound::Excluded(path), std::ops::Bound::Unbounded))
            .next();
        after.is_some_and(|next| next.starts_with(path))
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        self.0.retain(|path| !other.0.contains(path));
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).cloned().collect())
    }

    /// As `FieldsV1`.
    pub(super) fn encode(&self) -> Value {
        let mut root = Tree::default();
        for path in &self.0 {
            let leaf = path.iter().fold(&mut root, |tree, step| {
                tree.children.entry(step.clone()).or_default()
            });
            leaf.member = true;
        }
        root.encode()
    }

    /// From `FieldsV1`; `None` if it is none.
    pub(super) fn decode(fields: &Value) -> Option<Self> {
        let mut set = Self::default();
        set.decode_below(fields.as_object()?, &mut Vec::new())?;
        Some(set)
    }

    fn decode_below(&mut self, fields: &Map<String, Value>, path: &mut FieldPath) -> Option<()> {
        if fields.is_empty() && !path.is_empty() {
            self.0.insert(path.clone());
        }
        for (key, below) in fields {
            if key == "." {
                self.0.insert(path.clone());
                continue;
            }
            path.push(Step::decode(key)?);
            self.decode_below(below.as_object()?, path)?;
            path.pop();
        }
        Some(())
    }
}

#[derive(Default)]
struct Tree {
    member: bool,
    children: BTreeMap<Step, Tree>,
}

impl Tree {
    fn encode(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".into(), Value::Object(Map::new()));
        }
        for (step, below) in &self.children {
            fields.insert(step.encode(), below.encode());
        }
        Value::Object(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_wire_form_is_kubernetes_own() {
        let wire = json!({"f:spec": {"f:list": {".": {}, "k:{\"name\":\"x\"}": {".": {}, "f:a": {}}},
            "f:set": {"v:\"p\"": {}}, "f:replicas": {}}});
        let set = FieldSet::decode(&wire).expect("decodes");
        assert_eq!(set.encode(), wire);
        let shown: Vec<_> = set.0.iter().map(|path| shown(path)).collect();
        let expected = [
            ".spec.list",
            ".spec.list[name=\"x\"]",
            ".spec.list[name=\"x\"].a",
            ".spec.replicas",
            ".spec.set[=\"p\"]",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn nonsense_is_no_field_set() {
        for wire in [
            json!(1),
            json!({"f:a": 1}),
            json!({"x:a": {}}),
            json!({"k:{": {}}),
            json!({"a": {}}),
        ] {
            assert_eq!(FieldSet::decode(&wire), None, "{wire}");
        }
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            "[a-c:.]{1,2}".prop_map(Step::Field),
            "[a-b]".prop_map(|v| Step::key(BTreeMap::from([("k", &Value::from(v))]))),
            any::<u8>().prop_map(|v| Step::Value(v.to_string())),
            (0..9usize).prop_map(Step::Index),
        ]
    }

    proptest! {
        #[test]
        fn any_set_survives_the_wire(paths in prop::collection::btree_set(prop::collection::vec(any_step(), 1..4), 0..8)) {
            let set = FieldSet(paths);
            prop_assert_eq!(FieldSet::decode(&set.encode()), Some(set));
        }

        #[test]
        fn below_is_found_by_order(
            paths in prop::collection::btree_set(prop::collection::vec(any_step(), 1..4), 0..8),
            path in prop::collection::vec(any_step(), 1..3),
        ) {
            let below = paths.iter().any(|p| p.len() > path.len() && p.starts_with(&path));
            prop_assert_eq!(FieldSet(paths).has_below(&path), below);
        }
    }
}
