//! Reading manifests: files, folders and standard input to objects, or a refusal that
//! names the file, the document and the field, before anything is sent.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skysail_apiserver::strict::{self, Format};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// One object of a manifest, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The file, or `-`.
    pub file: String,
    /// Which document of the file, from 1.
    pub number: usize,
    /// The object.
    pub object: Value,
}

impl Document {
    fn text(&self, pointer: &str) -> &str {
        self.object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }
    /// `kind`.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }
    /// `metadata.namespace`.
    pub fn namespace(&self) -> Option<&str> {
        self.object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (document {})", self.file, self.number)
    }
}

/// Every object of `paths` (files, folders with `*.yaml`, `*.yml` and `*.json` by name, or `-`), in order.
///
/// # Errors
/// All mistakes of the first file that has any.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Document>> {
    let mut documents = vec![];
    for path in paths {
        if path == Path::new("-") {
            let mut text = vec![];
            std::io::stdin()
                .lock()
                .take(MAX_FILE)
                .read_to_end(&mut text)?;
            documents.extend(parse("-", &text)?);
            continue;
        }
        for file in files(path)? {
            let size = std::fs::metadata(&file)
                .with_context(|| format!("reading {}", file.display()))?
                .len();
            ensure!(
                size <= MAX_FILE,
                "{}: {} MiB is more than a manifest may have ({} MiB); split it",
                file.display(),
                size >> 20,
                MAX_FILE >> 20
            );
            let text =
                std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            documents.extend(parse(&file.display().to_string(), &text)?);
        }
    }
    unique(&documents)?;
    ensure!(
        !documents.is_empty(),
        "no objects in {}",
        paths
            .iter()
            .map(|p| p.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    );
    Ok(documents)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = vec![];
    for entry in std::fs::read_dir(path).with_context(|| format!("reading {}", path.display()))? {
        let file = entry?.path();
        if file
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// The objects of one text. `List`s are opened.
///
/// # Errors
/// With the document's number and what is wrong with it.
pub fn parse(file: &str, text: &[u8]) -> Result<Vec<Document>> {
    let text = std::str::from_utf8(text).with_context(|| format!("{file}: is not UTF-8 text"))?;
    let mut documents = vec![];
    for (index, part) in split(text).into_iter().enumerate() {
        let number = index + 1;
        let parsed = strict::parse(Format::Yaml, part.as_bytes())
            .map_err(|e| anyhow::anyhow!("{file} (document {number}): {e}"))?;
        if let Some(path) = parsed.duplicates.first() {
            bail!("{file} (document {number}): {path} stands twice; remove one");
        }
        let objects = match parsed.value {
            Value::Null => continue,
            Value::Object(mut list) if list.get("kind").and_then(Value::as_str) == Some("List") => {
                match list.remove("items") {
                    Some(Value::Array(items)) => items,
                    _ => bail!("{file} (document {number}): items: must be a list"),
                }
            }
            object => vec![object],
        };
        for object in objects {
            let document = Document {
                file: file.to_owned(),
                number,
                object,
            };
            for (field, value) in [
                ("apiVersion", document.api_version()),
                ("kind", document.kind()),
                ("metadata.name", document.name()),
            ] {
                ensure!(
                    !value.is_empty(),
                    "{document}: {field}: is missing or not a text; every object needs apiVersion, kind and metadata.name"
                );
            }
            documents.push(document);
        }
    }
    Ok(documents)
}

/// A line that begins with `---` always ends a YAML document (YAML 1.2.2, 9.1.2), also inside a block scalar.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let marker = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        match marker {
            Some(_) if parts.last().is_some_and(|p| p.trim().is_empty()) => {}
            Some(_) => parts.push(String::new()),
            None => parts.last_mut().into_iter().for_each(|p| p.push_str(line)),
        }
    }
    parts
}

fn unique(documents: &[Document]) -> Result<()> {
    let mut seen: BTreeMap<(&str, &str, Option<&str>, &str), &Document> = BTreeMap::new();
    for document in documents {
        let group = document
            .api_version()
            .rsplit_once('/')
            .map_or("", |(group, _)| group);
        if let Some(first) = seen.insert(
            (
                group,
                document.kind(),
                document.namespace(),
                document.name(),
            ),
            document,
        ) {
            bail!(
                "{document}: metadata.name: {} {:?} is in {first} already; one of them must go",
                document.kind(),
                document.name()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse("f.yaml", text.as_bytes())
            .and_then(|d| unique(&d))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn documents_and_lists_are_read_in_order() {
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n";
        let names: Vec<_> = parse("f", text.as_bytes())
            .unwrap()
            .iter()
            .map(|d| d.name().to_owned())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn the_same_object_twice_is_refused_with_both_places() {
        let one = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
        let said = refused(&format!("{one}---\n{one}"));
        assert!(
            said.contains("document 2")
                && said.contains("document 1")
                && said.contains("metadata.name"),
            "{said}"
        );
    }

    #[test]
    fn a_yaml_bomb_is_refused() {
        let mut text = String::from("a: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let before = i - 1;
            text.push_str(&format!(
                "b{i}: &a{i} [{}]\n",
                vec![format!("*a{before}"); 10].join(", ")
            ));
        }
        assert!(!refused(&text).is_empty());
    }

    #[test]
    fn ten_megabytes_are_refused_before_they_are_sent() {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{x: \"{}\"}}\n",
            "y".repeat(10 << 20)
        );
        assert!(refused(&text).contains("limit"));
    }

    #[test]
    fn an_object_without_kind_or_a_key_twice_is_named() {
        assert!(refused("apiVersion: v1\nmetadata: {name: a}\n").contains("kind"));
        assert!(
            refused("apiVersion: v1\nkind: A\nmetadata: {name: a}\nspec: {x: 1, x: 2}\n")
                .contains("spec.x")
        );
    }
}
