use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    Schema::compile(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "integer"},
            "b": {"type": "object", "properties": {"c": {"type": "integer"}, "d": {"type": "integer"}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {
                    "k": {"type": "string"}, "v": {"type": "integer"}, "w": {"type": "integer"}}}},
            "list": {"type": "array", "items": {"type": "integer"}},
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "integer"}},
        }},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
    }}))
    .expect("compiles")
});

fn schema() -> &'static Schema {
    &SCHEMA
}

fn writer(manager: &str, second: i64) -> Writer<'_> {
    let now = Timestamp::from_second(1_800_000_000 + second).expect("a time");
    Writer {
        manager,
        subresource: "",
        api_version: "t/v1",
        now,
    }
}

fn manifest(spec: Value) -> Value {
    json!({"apiVersion": "t/v1", "kind": "T", "metadata": {"name": "x"}, "spec": spec})
}

fn create(manager: &str, spec: Value) -> Value {
    apply(None, &manifest(spec), writer(manager, 0), false, schema()).expect("creates")
}

fn again(live: &Value, manager: &str, spec: Value) -> Result<Value, Error> {
    apply(
        Some(live),
        &manifest(spec),
        writer(manager, 1),
        false,
        schema(),
    )
}

fn forced(live: &Value, manager: &str, spec: Value) -> Value {
    apply(
        Some(live),
        &manifest(spec),
        writer(manager, 1),
        true,
        schema(),
    )
    .expect("forced")
}

fn update(old: &Value, manager: &str, edit: impl Fn(&mut Value)) -> Value {
    let mut new = old.clone();
    edit(&mut new);
    track_update(Some(old), &mut new, writer(manager, 2), schema());
    new
}

/// manager and operation → FieldsV1 of spec
fn owners(object: &Value) -> Value {
    let mut owners = json!({});
    for entry in object["metadata"]["managedFields"]
        .as_array()
        .expect("entries")
    {
        let name = format!(
            "{} {}",
            entry["manager"].as_str().unwrap(),
            entry["operation"].as_str().unwrap()
        );
        owners[name] = entry["fieldsV1"]["f:spec"].clone();
    }
    owners
}

#[test]
fn what_is_no_longer_applied_goes() {
    let live = create(
        "m",
        json!({"a": 1, "b": {"c": 1}, "labels": {"x": "1", "y": "2"}, "set": ["p", "q"],
        "keyed": [{"k": "1", "v": 1}, {"k": "2", "v": 2}]}),
    );
    let next = again(
        &live,
        "m",
        json!({"labels": {"y": "2"}, "set": ["q"], "keyed": [{"k": "2"}]}),
    )
    .expect("applies");
    assert_eq!(
        next["spec"],
        json!({"labels": {"y": "2"}, "set": ["q"], "keyed": [{"k": "2"}]})
    );
    assert_eq!(
        owners(&next)["m Apply"],
        json!({"f:labels": {"f:y": {}}, "f:set": {"v:\"q\"": {}},
        "f:keyed": {"k:{\"k\":\"2\"}": {".": {}, "f:k": {}}}})
    );
}

#[test]
fn what_others_set_stays() {
    let live = create("m", json!({"a": 1, "keyed": [{"k": "1", "v": 1}]}));
    let live = update(&live, "controller", |o| {
        o["spec"]["b"] = json!({"c": 7});
        o["spec"]["keyed"][0]["w"] = json!(9);
    });
    let next = again(&live, "m", json!({"a": 2})).expect("applies");
    // The list member stays, because somebody else owns a part of it.
    assert_eq!(
        next["spec"],
        json!({"a": 2, "b": {"c": 7}, "keyed": [{"k": "1", "w": 9}]})
    );
}

#[test]
fn fields_that_nobody_owns_go_only_with_the_list_member_around_them() {
    let mut live = create("m", json!({"b": {"c": 1}, "keyed": [{"k": "1"}]}));
    // As defaulting does.
    live["spec"]["b"]["d"] = json!(5);
    live["spec"]["keyed"][0]["w"] = json!(5);
    let next = again(&live, "m", json!({"a": 1})).expect("applies");
    assert_eq!(next["spec"], json!({"a": 1, "b": {"d": 5}}));
}

#[test]
fn equal_values_are_owned_together_and_others_conflict() {
    let live = create("one", json!({"a": 1, "list": [1]}));
    let shared = again(&live, "two", json!({"a": 1})).expect("equal values do not conflict");
    assert_eq!(
        owners(&shared),
        json!({"one Apply": {"f:a": {}, "f:list": {}}, "two Apply": {"f:a": {}}})
    );
    let refused = again(&shared, "two", json!({"a": 2, "list": [2]}));
    let conflict = |field: &str| Conflict {
        manager: "one".into(),
        field: field.into(),
    };
    assert_eq!(
        refused,
        Err(Error::Conflicts(vec![
            conflict(".spec.a"),
            conflict(".spec.list")
        ]))
    );
    // One of two owners leaves: the value stays.
    let left = again(&shared, "two", json!({"b": {"c": 1}})).expect("applies");
    assert_eq!(left["spec"], json!({"a": 1, "list": [1], "b": {"c": 1}}));
}

#[test]
fn force_takes_ownership() {
    let live = create("one", json!({"a": 1, "b": {"c": 1}}));
    let taken = forced(&live, "two", json!({"a": 2}));
    assert_eq!(taken["spec"], json!({"a": 2, "b": {"c": 1}}));
    assert_eq!(
        owners(&taken),
        json!({"one Apply": {"f:b": {"f:c": {}}}, "two Apply": {"f:a": {}}})
    );
    // The former owner stops applying it: it is not his any more.
    let next = again(&taken, "one", json!({"b": {"c": 1}})).expect("applies");
    assert_eq!(next["spec"], json!({"a": 2, "b": {"c": 1}}));
}

#[test]
fn an_update_owns_exactly_what_it_changed() {
    let live = create("m", json!({"a": 1, "b": {"c": 1}, "set": ["p"]}));
    let edited = update(&live, "edit", |o| {
        o["spec"]["a"] = json!(2);
        o["spec"]["set"] = json!(["p", "q"]);
        o["spec"].as_object_mut().unwrap().remove("b");
        o["status"] = json!({"phase": "Running"});
    });
    let expected = json!({"m Apply": {"f:set": {"v:\"p\"": {}}}, "edit Update": {"f:a": {}, "f:set": {"v:\"q\"": {}}}});
    assert_eq!(owners(&edited), expected);
    let entries = edited["metadata"]["managedFields"].as_array().unwrap();
    assert!(
        entries
            .iter()
            .all(|e| e["fieldsV1"].get("f:status").is_none()),
        "status is not written here"
    );
    let refused = again(&edited, "m", json!({"a": 1, "set": ["p"]}));
    let conflict = Conflict {
        manager: "edit".into(),
        field: ".spec.a".into(),
    };
    assert_eq!(refused, Err(Error::Conflicts(vec![conflict])));
    // An update that changes nothing changes nothing.
    assert_eq!(update(&edited, "other", |_| {}), edited);
}

#[test]
fn status_belongs_to_the_status_endpoint() {
    let live = create("m", json!({"a": 1}));
    let mut new = live.clone();
    new["status"] = json!({"phase": "Running"});
    track_update(
        Some(&live),
        &mut new,
        Writer {
            subresource: "status",
            ..writer("agent", 3)
        },
        schema(),
    );
    let entry = new["metadata"]["managedFields"][1].clone();
    assert_eq!(
        (&entry["subresource"], &entry["manager"]),
        (&json!("status"), &json!("agent"))
    );
    assert_eq!(entry["fieldsV1"], json!({"f:status": {"f:phase": {}}}));
    // And an apply at the main endpoint does not touch it.
    let next = again(&new, "m", json!({"a": 2})).expect("applies");
    assert_eq!(next["status"], json!({"phase": "Running"}));
}

#[test]
fn an_object_without_owners_is_tracked_from_its_first_apply() {
    let old = manifest(json!({"a": 1}));
    let same = update(&old, "edit", |o| o["spec"]["a"] = json!(2));
    assert_eq!(same["metadata"].get("managedFields"), None);
    let applied = again(&old, "m", json!({"a": 1, "list": [1]})).expect("applies");
    let expected =
        json!({"m Apply": {"f:a": {}, "f:list": {}}, "before-first-apply Update": {"f:a": {}}});
    assert_eq!(owners(&applied), expected);
    let refused = again(&old, "m", json!({"a": 3}));
    let conflict = Conflict {
        manager: "before-first-apply".into(),
        field: ".spec.a".into(),
    };
    assert_eq!(refused, Err(Error::Conflicts(vec![conflict])));
}

#[test]
fn clients_may_rewrite_or_forget_owners_but_not_lose_them_by_accident() {
    let live = create("m", json!({"a": 1}));
    let lost = update(&live, "edit", |o| {
        o["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
    });
    assert_eq!(lost, live);
    let forgotten = update(&live, "edit", |o| {
        o["metadata"]["managedFields"] = json!([{}])
    });
    assert_eq!(forgotten["metadata"].get("managedFields"), None);
    let renamed = update(&live, "edit", |o| {
        o["metadata"]["managedFields"][0]["manager"] = json!("n")
    });
    assert_eq!(owners(&renamed), json!({"n Apply": {"f:a": {}}}));
}

#[test]
fn the_oldest_of_many_updaters_become_one() {
    let mut live = json!({"metadata": {"name": "x"}, "spec": {"labels": {"k": "0"}}});
    track_update(None, &mut live, writer("m0", 0), schema());
    for i in 1..15 {
        let key = format!("k{i}");
        live = update(&live, &format!("m{i}"), |o| {
            o["spec"]["labels"][&key] = json!("1")
        });
    }
    let owners = owners(&live);
    assert_eq!(owners.as_object().map(|o| o.len()), Some(10));
    assert!(owners["ancient-changes Update"]["f:labels"]["f:k"].is_object());
    assert!(owners["m14 Update"].is_object());
}

#[test]
fn what_cannot_be_applied_is_refused() {
    let refused = |object: Value, manager: &str| {
        matches!(
            apply(None, &object, writer(manager, 0), false, schema()),
            Err(Error::Invalid(_))
        )
    };
    assert!(refused(manifest(json!({})), ""));
    assert!(refused(json!([]), "m"));
    assert!(refused(json!({"metadata": {"managedFields": [{}]}}), "m"));
    assert!(!refused(json!({"metadata": {"managedFields": null}}), "m"));
}

fn any_spec() -> impl Strategy<Value = Value> {
    let number = || prop::option::of(0..3i64);
    let keyed =
        prop::collection::btree_map("[x-z]", (number(), number()), 0..3).prop_map(|members| {
            let member = |(k, (v, w)): (String, (Option<i64>, Option<i64>))| {
                present(json!({"k": k, "v": v, "w": w}))
            };
            members.into_iter().map(member).collect::<Vec<_>>()
        });
    let labels = prop::collection::btree_map("[x-z]", "[0-1]", 0..3);
    let set = prop::collection::btree_set("[p-r]", 0..3);
    let (c, d) = (number(), number());
    let b = prop::option::of((c, d).prop_map(|(c, d)| present(json!({"c": c, "d": d}))));
    (
        number(),
        b,
        prop::option::of(labels),
        prop::option::of(set),
        prop::option::of(keyed),
        number(),
    )
        .prop_map(|(a, b, labels, set, keyed, list)| {
            let list = list.map(|n| json!([n]));
            present(
                json!({"a": a, "b": b, "labels": labels, "set": set, "keyed": keyed, "list": list}),
            )
        })
}

fn present(mut object: Value) -> Value {
    object
        .as_object_mut()
        .expect("object")
        .retain(|_, value| !value.is_null());
    object
}

/// The fields of an object's spec and their values.
fn state(object: &Value) -> std::collections::BTreeMap<String, String> {
    let schema = schema();
    let contents = object::contents(&schema.root, object);
    let spec = contents
        .iter()
        .filter(|(path, _)| path.len() > 1 && path[0] == Step::Field("spec".into()));
    spec.map(|(path, content)| (field_set::shown(path), format!("{content:?}")))
        .collect()
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(first in any_spec(), second in any_spec()) {
        let live = create("m", first);
        let once = again(&live, "m", second.clone()).expect("applies");
        let twice = apply(Some(&once), &manifest(second), writer("m", 60), false, schema()).expect("applies");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_sole_manager_gets_exactly_what_it_applies(first in any_spec(), second in any_spec()) {
        let next = again(&create("m", first), "m", second.clone()).expect("applies");
        prop_assert_eq!(state(&next), state(&manifest(second)));
    }

    #[test]
    fn no_apply_takes_away_what_another_owns(ours in any_spec(), theirs in any_spec(), next in any_spec()) {
        let live = forced(&create("one", ours), "two", theirs.clone());
        let wanted = state(&manifest(theirs));
        for spec in [next, json!({})] {
            let result = match again(&live, "one", spec.clone()) {
                Ok(result) => state(&result),
                Err(_) => continue,
            };
            for (path, value) in &wanted {
                let kept = result.get(path);
                // An empty map or list of theirs may be filled by others.
                let empty = value.ends_with("{})") || value.ends_with("[])");
                prop_assert!(kept == Some(value) || empty, "{path}: {value} became {kept:?}");
            }
        }
    }

    #[test]
    fn force_always_succeeds_and_brings_every_value(ours in any_spec(), theirs in any_spec()) {
        let result = state(&forced(&create("one", ours), "two", theirs.clone()));
        for (path, value) in state(&manifest(theirs)) {
            let empty = value.ends_with("{})") || value.ends_with("[])");
            prop_assert!(result.get(&path) == Some(&value) || empty, "{path}: {value}");
        }
    }

    #[test]
    fn a_comparison_finds_what_comparing_every_field_finds(old in any_spec(), new in any_spec(), odd in 0..4) {
        let (mut old, new) = (manifest(old), manifest(new));
        // Also where types differ.
        match odd {
            0 => old["spec"]["labels"] = json!(1),
            1 => old["spec"]["keyed"] = json!("x"),
            2 => old["other"] = json!({"x": {"y": 1}}),
            _ => {}
        }
        let root = &schema().root;
        let (before, after) = (object::contents(root, &old), object::contents(root, &new));
        let set = after.iter().filter(|(path, content)| before.get(*path) != Some(content));
        let removed = before.keys().filter(|path| !after.contains_key(*path));
        let found = object::compare(root, &old, &new);
        prop_assert_eq!(found.set, FieldSet(set.map(|(path, _)| path.clone()).collect()));
        prop_assert_eq!(found.removed, FieldSet(removed.cloned().collect()));
    }

    #[test]
    fn every_owned_field_exists(ours in any_spec(), theirs in any_spec(), edit in any_spec()) {
        let live = forced(&create("one", ours), "two", theirs);
        let edited = update(&live, "edit", |o| o["spec"] = edit.clone());
        let schema = schema();
        let contents = object::contents(&schema.root, &edited);
        for entry in managers::decode(&edited).into_iter().filter(|e| e.operation == Operation::Update) {
            for path in entry.fields.0 {
                prop_assert!(contents.contains_key(&path), "{}", field_set::shown(&path));
            }
        }
    }
}
