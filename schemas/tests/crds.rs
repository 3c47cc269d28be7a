//! The generated files are those of the types: a change of the API shows in the diff.

use skysail_schemas::generate::{File, crds, json_schemas};
use std::collections::BTreeSet;
use std::path::Path;

fn compare(directory: &str, files: Vec<File>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let generated: BTreeSet<_> = files.iter().map(|file| file.name.clone()).collect();
    let found = std::fs::read_dir(&directory).expect("the directory; run `make generate`");
    let found: BTreeSet<_> = found
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    assert_eq!(
        found,
        generated,
        "{}; run `make generate`",
        directory.display()
    );
    for file in files {
        let text = std::fs::read_to_string(directory.join(&file.name)).expect("a file");
        assert!(
            text == file.text,
            "{} differs from the types; run `make generate`",
            file.name
        );
    }
}

#[test]
fn crds_are_those_of_the_types() {
    compare("../charts/skysail/crds", crds());
}

#[test]
fn json_schemas_are_those_of_the_types() {
    compare("json", json_schemas());
}

#[test]
fn a_crd_read_back_is_the_same() {
    for (file, kind) in crds().iter().zip(skysail_schemas::kinds::all()) {
        let read: serde_json::Value = serde_saphyr::from_str(&file.text).expect(&file.name);
        assert_eq!(
            read,
            serde_json::to_value(&kind.crd).expect("json"),
            "{}",
            file.name
        );
    }
}
