//! Reading manifests: files, folders and standard input to objects, or a refusal that
//! names the file, the document and the field, before anything is sent.

use anyhow::{Context, Result, anyhow, bail, ensure};
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
    /// Line of the file on which its document begins, from 1.
    pub line: usize,
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
        write!(f, "{}:{} (document {})", self.file, self.line, self.number)
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
    let text = std::str::from_utf8(text).map_err(|e| {
        let good = &text[..e.valid_up_to()];
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        anyhow!("{file}:{line}: is not UTF-8 text; save it as UTF-8")
    })?;
    let mut documents = vec![];
    for (index, (line, part)) in split(text).into_iter().enumerate() {
        let number = index + 1;
        let place = format!("{file}:{line} (document {number})");
        let parsed = strict::parse(Format::Yaml, part.as_bytes()).map_err(|first| {
            // Once more at its place in the file, so that the lines in the message are the file's.
            let padded = "\n".repeat(line - 1) + &part;
            let told = strict::parse(Format::Yaml, padded.as_bytes()).err();
            let told = told.filter(|e| matches!(e, strict::Error::Syntax(_)));
            anyhow!("{place}: {}", told.unwrap_or(first))
        })?;
        if let Some(path) = parsed.duplicates.first() {
            bail!("{place}: {path} stands twice; remove one");
        }
        let objects = match parsed.value {
            Value::Null => continue,
            Value::Object(mut list) if list.get("kind").and_then(Value::as_str) == Some("List") => {
                match list.remove("items") {
                    Some(Value::Array(items)) => items,
                    _ => bail!("{place}: items: must be a list"),
                }
            }
            object => vec![object],
        };
        for object in objects {
            let document = Document {
                file: file.to_owned(),
                line,
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
/// Each comes with the line on which it begins.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(1, String::new())];
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        match (marker, parts.last_mut()) {
            (Some(_), Some((begin, part))) if part.trim().is_empty() => {
                (*begin, *part) = (index + 2, String::new());
            }
            (Some(_), _) => parts.push((index + 2, String::new())),
            (None, Some((_, part))) => part.push_str(line),
            (None, None) => {}
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
    fn a_mistake_is_named_with_its_file_and_line() {
        let good = "apiVersion: v1\nkind: A\nmetadata: {name: a}\n---\n";
        let said = refused(&format!("{good}apiVersion: v1\nkind: B\n\tmetadata: x\n"));
        assert!(
            said.starts_with("f.yaml:5 (document 2): ") && said.contains("line 6"),
            "{said}"
        );
        let said = refused(&format!("{good}apiVersion: v1\n"));
        assert!(said.starts_with("f.yaml:5 (document 2): kind: "), "{said}");
        let said = parse("f.yaml", b"a: 1\nb: \xff\n").unwrap_err().to_string();
        assert!(said.starts_with("f.yaml:2: is not UTF-8"), "{said}");
        let said = refused(&format!(
            "{good}a: {}1{}\n",
            "[".repeat(500),
            "]".repeat(500)
        ));
        assert!(said.starts_with("f.yaml:5 (document 2): "), "{said}");
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
