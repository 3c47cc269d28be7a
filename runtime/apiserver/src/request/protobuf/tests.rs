use super::*;
use proptest::prelude::*;
use serde_json::json;

/// Encodes as Go does.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    varint(content.len() as u64, &mut field);
    field.extend(content);
    field
}

fn number(number: u8, value: u64) -> Vec<u8> {
    let mut field = vec![number << 3];
    varint(value, &mut field);
    field
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    let unknown = [
        bytes(1, &type_meta),
        bytes(2, raw),
        bytes(3, b""),
        bytes(4, b""),
    ]
    .concat();
    [MAGIC, &unknown].concat()
}

#[test]
fn a_secret_is_decoded_and_empties_are_dropped() {
    // What Go writes: empty strings and an empty creation time as well.
    let metadata = [
        bytes(1, b"s"),
        bytes(2, b""),
        bytes(3, b"acme"),
        number(7, 0),
        bytes(8, b""),
    ]
    .concat();
    let entry = [bytes(1, b"key"), bytes(2, b"value")].concat();
    let empty_entry = [bytes(1, b"none"), bytes(2, b"")].concat();
    let raw = [
        bytes(1, &metadata),
        bytes(2, &entry),
        bytes(2, &empty_entry),
        bytes(3, b"Opaque"),
    ]
    .concat();
    let secret = decode(&body("v1", "Secret", &raw)).expect("decodes");
    let expected = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "acme"},
        "data": {"key": "dmFsdWU=", "none": ""}, "type": "Opaque"});
    assert_eq!(secret, expected);
}

#[test]
fn pointers_keep_their_zero_and_times_their_precision() {
    let time = [number(1, 1_763_719_200), number(2, 5_000)].concat();
    let spec = [
        bytes(1, b"h1"),
        number(2, 40),
        bytes(4, &time),
        number(5, 0),
    ]
    .concat();
    let raw = [bytes(1, &bytes(1, b"x")), bytes(2, &spec)].concat();
    let lease = decode(&body("coordination.k8s.io/v1", "Lease", &raw)).expect("decodes");
    let spec = json!({"holderIdentity": "h1", "leaseDurationSeconds": 40, "leaseTransitions": 0,
        "renewTime": "2025-11-21T10:00:00.000005Z"});
    assert_eq!(lease["spec"], spec);
    let options = decode(&body("v1", "DeleteOptions", &number(1, 0))).expect("decodes");
    assert_eq!(options["gracePeriodSeconds"], 0);
}

#[test]
fn a_review_keeps_its_attributes() {
    let attributes = [
        bytes(2, b"create"),
        bytes(3, b"skysail.dev"),
        bytes(5, b"containers"),
        bytes(7, b""),
    ]
    .concat();
    let raw = [
        bytes(1, b""),
        bytes(2, &bytes(1, &attributes)),
        bytes(3, &number(1, 0)),
    ]
    .concat();
    let review = decode(&body(
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        &raw,
    ))
    .expect("decodes");
    let attributes = json!({"verb": "create", "group": "skysail.dev", "resource": "containers"});
    let expected = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes}});
    assert_eq!(review, expected);
}

#[test]
fn managed_fields_hold_json() {
    let entry = [bytes(1, b"m"), bytes(7, &bytes(1, br#"{"f:data":{}}"#))].concat();
    let raw = bytes(
        1,
        &[
            bytes(14, b"a/b"),
            bytes(14, b"a/c"),
            [&[17 << 3 | 2, 1][..], &[entry.len() as u8], &entry].concat(),
        ]
        .concat(),
    );
    let object = decode(&body("v1", "ConfigMap", &raw)).expect("decodes");
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "m", "fieldsV1": {"f:data": {}}}])
    );
    assert_eq!(object["metadata"]["finalizers"], json!(["a/b", "a/c"]));
}

#[test]
fn other_kinds_and_other_bytes_are_told_apart() {
    assert!(matches!(
        decode(&body("apps/v1", "Deployment", b"")),
        Err(Error::Unsupported(_))
    ));
    assert!(matches!(decode(b"{}"), Err(Error::Malformed(_))));
    let mut cut = body("v1", "Secret", &bytes(1, &bytes(1, b"name")));
    cut.truncate(cut.len() - 6);
    assert!(matches!(decode(&cut), Err(Error::Malformed(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        for (api_version, kind) in [("v1", "Secret"), ("v1", "Event"), ("coordination.k8s.io/v1", "Lease")] {
            let _ = decode(&body(api_version, kind, &raw));
        }
        let _ = decode(&[MAGIC, &raw].concat());
    }
}
