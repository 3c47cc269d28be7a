//! `skysail diff`: what an apply would change, as the server sees it: defaults and checks are its own.

use super::apply::preview;
use super::get::yaml;
use crate::manifest;
use crate::print::{Output, clean};
use anyhow::Result;
use serde_json::Value;
use similar::TextDiff;
use std::path::PathBuf;

/// Flags of `diff`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail diff -f manifests/quickstart\n  generate | skysail diff -f - -n acme\n\nExit codes: 0 nothing would change, 1 something would, 2 it could not be found out."
)]
pub struct Diff {
    /// Manifests: a file, a folder, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    filename: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// Runs the verb; the exit code.
///
/// # Errors
/// When nobody reads what is printed.
pub async fn run(client: &kube::Client, default: &str, args: &Diff) -> Result<i32> {
    let namespace = args.namespace.as_deref().unwrap_or(default);
    let objects = match manifest::read(&args.filename) {
        Ok(documents) => preview(client, documents, namespace).await,
        Err(e) => Err(e),
    };
    let objects = match objects {
        Ok(objects) => objects,
        Err(e) => {
            eprintln!("error: {e:#}");
            return Ok(2);
        }
    };
    let out = Output::stdout();
    let mut code = 0;
    for (name, live, after) in objects {
        let text = difference(&out, &name, &live, &after)?;
        if !text.is_empty() {
            code = 1;
            out.write(&text)?;
        }
    }
    Ok(code)
}

fn difference(out: &Output, name: &str, live: &Value, after: &Value) -> Result<String> {
    let (live, after) = (comparable(live)?, comparable(after)?);
    if live == after {
        return Ok(String::new());
    }
    let diff = TextDiff::from_lines(&live, &after);
    let before = if live.is_empty() {
        "/dev/null".to_owned()
    } else {
        format!("live {name}")
    };
    let unified = diff
        .unified_diff()
        .context_radius(3)
        .header(&before, &format!("applied {name}"))
        .to_string();
    Ok(unified
        .lines()
        .map(|line| format!("{}\n", coloured(out, line)))
        .collect())
}

fn coloured(out: &Output, line: &str) -> String {
    let line = clean(line);
    match line.chars().next() {
        Some('+') => out.coloured(&line, "32"),
        Some('-') => out.coloured(&line, "31"),
        Some('@') => out.coloured(&line, "36"),
        _ => line,
    }
}

/// An object as YAML without what every write changes and without what secrets hold.
fn comparable(object: &Value) -> Result<String> {
    if object.is_null() {
        return Ok(String::new());
    }
    let mut object = object.clone();
    let secret = object["kind"] == "Secret" && object["apiVersion"] == "v1";
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in [
            "resourceVersion",
            "managedFields",
            "generation",
            "uid",
            "creationTimestamp",
        ] {
            metadata.remove(field);
        }
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.remove(super::apply::LAST_APPLIED);
            if annotations.is_empty() {
                metadata.remove("annotations");
            }
        }
    }
    if secret && let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
        data.values_mut()
            .for_each(|v| *v = format!("*** ({:016x})", mark(v)).into());
    }
    yaml(&object)
}

/// Tells that a secret changes without telling what it is: seeded anew by every process.
fn mark(value: &Value) -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    use std::sync::OnceLock;
    static SEED: OnceLock<RandomState> = OnceLock::new();
    SEED.get_or_init(RandomState::new)
        .hash_one(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_every_write_changes_is_no_difference() {
        let out = Output::stdout();
        let (a, b) = (
            json!({"metadata": {"name": "a", "resourceVersion": "1"}}),
            json!({"metadata": {"name": "a", "resourceVersion": "2", "generation": 3}}),
        );
        assert_eq!(difference(&out, "x/a", &a, &b).unwrap(), "");
    }

    #[test]
    fn a_secret_that_changes_is_seen_and_not_read() {
        let secret =
            |data: &str| json!({"apiVersion": "v1", "kind": "Secret", "data": {"key": data}});
        let text = difference(
            &Output::stdout(),
            "secrets/a",
            &secret("c2VjcmV0"),
            &secret("b3RoZXI="),
        )
        .unwrap();
        assert!(
            text.contains("*** (") && !text.contains("c2VjcmV0"),
            "{text}"
        );
    }
}
