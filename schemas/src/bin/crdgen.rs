//! Prints what is generated from the Rust types: `crdgen crds` every CRD as YAML
//! documents, `crdgen schema` one JSON Schema per kind. `make generate` writes the
//! files; a test compares them.

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let kinds = skysail_schemas::kinds::all();
    for kind in &kinds {
        let text = match what.as_str() {
            "schema" => serde_json::to_string(&kind.crd.spec.versions[0].schema),
            _ => serde_json::to_string(&kind.crd),
        };
        match text {
            Ok(text) => println!("{text}"),
            Err(e) => eprintln!("crdgen: {e}"),
        }
    }
}
