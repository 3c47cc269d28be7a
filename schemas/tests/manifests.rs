//! Every manifest of ours parses, is valid, and survives the way through the Rust types.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skysail_schemas::{
    Cloud, Container, ContainerSet, Host, HostPool, Image, InstanceType, MachineType, Migration,
    MigrationGroup, Network, RebalancePolicy, SecurityPolicy, kinds,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Kinds that only Skysail itself makes.
const INTERNAL: [&str; 2] = ["Port", "Segment"];

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
    found
}

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("readable");
    serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// Reads an object as its type and writes it again.
fn through<K: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: K =
        serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{e}: {object}"));
    serde_json::to_value(typed).expect("json")
}

fn through_its_type(kind: &str, object: &Value) -> Value {
    match kind {
        "Cloud" => through::<Cloud>(object),
        "MachineType" => through::<MachineType>(object),
        "Host" => through::<Host>(object),
        "Image" => through::<Image>(object),
        "InstanceType" => through::<InstanceType>(object),
        "Network" => through::<Network>(object),
        "SecurityPolicy" => through::<SecurityPolicy>(object),
        "Container" => through::<Container>(object),
        "ContainerSet" => through::<ContainerSet>(object),
        "HostPool" => through::<HostPool>(object),
        "Migration" => through::<Migration>(object),
        "MigrationGroup" => through::<MigrationGroup>(object),
        "RebalancePolicy" => through::<RebalancePolicy>(object),
        other => panic!("a manifest of kind {other}: add it here"),
    }
}

/// Is all of `part` in `whole`? What is not was a field that the type does not have.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len()
                && whole
                    .iter()
                    .zip(part)
                    .all(|(whole, part)| contains(whole, part))
        }
        // Quantities are written in their shortest form.
        (Value::String(_) | Value::Number(_), Value::String(_) | Value::Number(_)) => true,
        _ => whole == part,
    }
}

#[test]
fn every_manifest_is_valid_and_survives_its_type() {
    let kinds = kinds::all();
    for file in files(&manifests()) {
        for object in documents(&file) {
            let name = object["kind"].as_str().expect("a kind");
            let Some(kind) = kinds.iter().find(|kind| kind.crd.spec.names.kind == name) else {
                assert_eq!(
                    object["apiVersion"],
                    "v1",
                    "{}: {name} is no kind of ours",
                    file.display()
                );
                continue;
            };
            let once = through_its_type(name, &object);
            assert!(
                contains(&once, &object),
                "{}: an unknown field in\n{object:#}\n{once:#}",
                file.display()
            );
            assert_eq!(through_its_type(name, &once), once, "{}", file.display());
            let mistakes = (kind.validate)(&object, None);
            assert!(mistakes.is_empty(), "{}: {mistakes:?}", file.display());
        }
    }
}

#[test]
fn every_kind_that_people_write_has_an_example() {
    let examples: BTreeSet<_> = files(&manifests().join("kinds"))
        .iter()
        .flat_map(|file| documents(file))
        .map(|object| object["kind"].as_str().expect("a kind").to_owned())
        .collect();
    let written: BTreeSet<_> = kinds::all()
        .into_iter()
        .map(|kind| kind.crd.spec.names.kind)
        .filter(|kind| !INTERNAL.contains(&kind.as_str()))
        .collect();
    assert_eq!(examples, written);
}
