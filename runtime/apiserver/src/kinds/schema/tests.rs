use super::*;
use proptest::prelude::*;
use serde_json::json;
use skysail_schemas::validate::Cause;

fn schema(spec: Value) -> Schema {
    Schema::compile(&json!({"type": "object", "properties": {"spec": spec}})).expect("compiles")
}

fn errors(schema: &Schema, spec: Value) -> Vec<(String, Cause)> {
    let errors = schema.check(&json!({"spec": spec}));
    errors.into_iter().map(|e| (e.field, e.cause)).collect()
}

#[test]
fn every_served_kind_compiles() {
    for kind in skysail_schemas::kinds::all() {
        let schema = serde_json::to_value(&kind.crd.spec.versions[0].schema).expect("json");
        Schema::compile(&schema["openAPIV3Schema"]).expect(&kind.crd.spec.names.kind);
    }
    for (group, kind) in [
        ("", "Namespace"),
        ("", "Secret"),
        ("", "ConfigMap"),
        ("", "Event"),
        ("events.k8s.io", "Event"),
        ("coordination.k8s.io", "Lease"),
    ] {
        Schema::compile(&super::super::core_schemas::core_schema(group, kind).expect(kind))
            .expect(kind);
    }
}

#[test]
fn a_keyword_that_is_not_understood_does_not_compile() {
    let error = Node::compile(
        &json!({"type": "string", "x-kubernetes-validations": []}),
        "spec",
    )
    .expect_err("refused");
    assert_eq!(error.path, "spec.x-kubernetes-validations");
}

#[test]
fn unknown_fields_go_and_are_named() {
    let schema = schema(json!({"type": "object", "properties": {
        "networks": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "labels": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}));
    let mut object = json!({"apiVersion": "v1", "kind": "K", "bogus": 1, "metadata": {"name": "x", "nmae": "y",
        "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
        "spec": {"networks": [{"name": "a", "foo": 1}], "labels": {"k/v": {"a": "1", "b": "2"}}, "free": {"x": {"y": 1}}}});
    let unknown = schema.prune(&mut object);
    assert_eq!(
        unknown,
        [
            "bogus",
            "metadata.nmae",
            "spec.labels[k/v].b",
            "spec.networks[0].foo"
        ]
    );
    let kept = json!({"apiVersion": "v1", "kind": "K",
        "metadata": {"name": "x", "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
        "spec": {"networks": [{"name": "a"}], "labels": {"k/v": {"a": "1"}}, "free": {"x": {"y": 1}}}});
    assert_eq!(object, kept);
    assert!(schema.prune(&mut object).is_empty());
}

#[test]
fn defaults_fill_absent_and_wrongly_null_fields_and_other_wrong_nulls_go() {
    let schema = schema(json!({"type": "object", "properties": {
        "a": {"type": "integer", "default": 1},
        "b": {"type": "integer", "default": 2, "nullable": true},
        "c": {"type": "string"},
        "d": {"type": "string", "nullable": true},
        "e": {"type": "object", "default": {}, "properties": {"f": {"type": "integer", "default": 3}}},
        "g": {"type": "object", "properties": {"h": {"type": "integer", "default": 4}}},
    }}));
    let mut object = json!({"metadata": {"creationTimestamp": null},
        "spec": {"a": null, "b": null, "c": null, "d": null}});
    schema.default(&mut object);
    assert_eq!(
        object,
        json!({"metadata": {}, "spec": {"a": 1, "b": null, "d": null, "e": {"f": 3}}})
    );
    assert_eq!(schema.check(&object), []);
}

#[test]
fn each_rule_names_its_field_and_cause() {
    let schema = schema(
        json!({"type": "object", "required": ["must"], "properties": {
            "must": {"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^[a-z]*$"},
            "number": {"type": "integer", "minimum": 1.0, "maximum": 9.0, "format": "int32"},
            "choice": {"type": "string", "enum": ["a", "b"]},
            "quantity": {"x-kubernetes-int-or-string": true},
            "list": {"type": "array", "maxItems": 2, "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "keyed": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]},
            "address": {"type": "string", "format": "ipv4"},
        }}),
    );
    let one =
        |spec, field: &str, cause| assert_eq!(errors(&schema, spec), [(field.to_owned(), cause)]);
    one(json!({}), "spec.must", Cause::Required);
    one(json!({"must": 1}), "spec.must", Cause::TypeInvalid);
    one(json!({"must": null}), "spec.must", Cause::TypeInvalid);
    one(json!({"must": ""}), "spec.must", Cause::Invalid);
    one(json!({"must": "abcd"}), "spec.must", Cause::TooLong);
    one(json!({"must": "A"}), "spec.must", Cause::Invalid);
    one(
        json!({"must": "a", "number": 0}),
        "spec.number",
        Cause::Invalid,
    );
    one(
        json!({"must": "a", "number": 1.5}),
        "spec.number",
        Cause::TypeInvalid,
    );
    one(
        json!({"must": "a", "number": 10}),
        "spec.number",
        Cause::Invalid,
    );
    one(
        json!({"must": "a", "choice": "c"}),
        "spec.choice",
        Cause::NotSupported,
    );
    one(
        json!({"must": "a", "quantity": true}),
        "spec.quantity",
        Cause::TypeInvalid,
    );
    one(
        json!({"must": "a", "list": ["x", "y", "z"]}),
        "spec.list",
        Cause::TooMany,
    );
    one(
        json!({"must": "a", "list": ["x", "x"]}),
        "spec.list[1]",
        Cause::Duplicate,
    );
    one(
        json!({"must": "a", "keyed": [{"k": "x"}, {"k": "x"}]}),
        "spec.keyed[1]",
        Cause::Duplicate,
    );
    one(
        json!({"must": "a", "address": "1.2.3"}),
        "spec.address",
        Cause::Invalid,
    );
    assert_eq!(
        errors(
            &schema,
            json!({"must": "a", "quantity": "1Gi", "number": 9})
        ),
        []
    );
}

#[test]
fn an_unsupported_value_lists_the_supported_ones() {
    let schema = schema(json!({"type": "string", "enum": ["a", "b"]}));
    let errors = schema.check(&json!({"spec": "c"}));
    assert_eq!(
        errors[0].to_string(),
        r#"spec: Unsupported value: "c": supported values: "a", "b""#
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-e]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-e]", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn pruning_and_defaulting_twice_changes_nothing(spec in any_json()) {
        let schema = schema(json!({"type": "object", "properties": {
            "a": {"type": "integer", "default": 1},
            "b": {"type": "array", "items": {"type": "object", "properties": {
                "a": {"type": "string"}, "c": {"type": "boolean", "default": true}}}},
            "c": {"type": "object", "additionalProperties": {"type": "string", "nullable": true}},
        }}));
        let mut once = json!({"spec": spec});
        schema.prune(&mut once);
        schema.default(&mut once);
        let mut twice = once.clone();
        prop_assert_eq!(schema.prune(&mut twice), Vec::<String>::new());
        schema.default(&mut twice);
        prop_assert_eq!(&once, &twice);
        // Whatever it is, checking it does not panic.
        schema.check(&once);
    }
}
