//! `skysail get`: objects as rows, or as they are.

mod rows;
mod watch;

use crate::kinds::{Kind, Kinds};
use crate::print::Output;
use crate::refusal::explain;
use crate::request::{self, JSON, TABLE, url};
use anyhow::{Result, anyhow, bail, ensure};
use rows::Rows;
use serde_json::{Value, json};
use skysail_apiserver::table::path::JsonPath;
use std::str::FromStr;

/// Flags of `get`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail get hosts                                  all hosts\n  skysail get cloud,host,network -A                  several kinds, every namespace\n  skysail get containers -n acme -o wide             more columns\n  skysail get ct web db -n acme                      these two\n  skysail get container/web -n acme -o yaml          the whole object\n  skysail get ct -A -l app=web -w                    and whatever changes, until Ctrl-C\n  skysail get host h1 -o 'jsonpath={.status.address}'"
)]
pub struct Get {
    /// KIND[,KIND] [NAME…], or KIND/NAME…; a kind by its plural, singular or short name
    #[arg(required = true, value_name = "KIND")]
    what: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    selector: Selector,
    /// Only objects with these fields, for example status.host=h1
    #[arg(
        long = "field-selector",
        value_name = "FIELDS",
        default_value = "",
        hide_default_value = true
    )]
    fields: String,
    /// wide, yaml, json, name or jsonpath={.path}
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// Go on printing what changes
    #[arg(short, long)]
    watch: bool,
    /// Rows without the line of column names
    #[arg(long)]
    no_headers: bool,
}

/// Where to look.
#[derive(Debug, Clone, clap::Args)]
pub struct Scope {
    /// Namespace, else the kubeconfig's
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_namespaces")]
    pub namespace: Option<String>,
    /// Every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// Which objects, by their labels.
#[derive(Debug, Clone, clap::Args)]
pub struct Selector {
    /// Only objects with these labels, for example app=web,tier!=db
    #[arg(
        short = 'l',
        long = "selector",
        value_name = "LABELS",
        default_value = "",
        hide_default_value = true
    )]
    pub labels: String,
}

impl Scope {
    /// The namespace, or `None` for all.
    pub fn place<'a>(&'a self, default: &'a str) -> Option<&'a str> {
        (!self.all_namespaces).then(|| self.namespace.as_deref().unwrap_or(default))
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Format {
    Wide,
    Yaml,
    Json,
    Name,
    Path(JsonPath),
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "wide" => Ok(Self::Wide),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            "name" => Ok(Self::Name),
            _ => {
                let path = text
                    .strip_prefix("jsonpath=")
                    .ok_or("is none of wide, yaml, json, name, jsonpath={.path}")?;
                JsonPath::parse(path).map(Self::Path).ok_or_else(|| format!("{path:?} is not a path like {{.status.host}} or {{.items[*].metadata.name}}"))
            }
        }
    }
}

/// What to ask for, of one kind.
struct Question<'a> {
    kind: &'a Kind,
    names: Vec<String>,
    /// `None` for all.
    namespace: Option<&'a str>,
    labels: &'a str,
    fields: &'a str,
}

impl Question<'_> {
    fn collection(&self, more: &[(&str, &str)]) -> String {
        let selectors = [
            ("labelSelector", self.labels),
            ("fieldSelector", self.fields),
        ];
        url(
            &self.kind.path(self.namespace, None),
            &[&selectors[..], more].concat(),
        )
    }

    fn place(&self) -> String {
        match self.namespace.filter(|_| self.kind.namespaced) {
            Some(namespace) => format!("{} -n {namespace}", self.kind.resource.plural),
            None => self.kind.resource.plural.clone(),
        }
    }

    /// One answer for the collection, or one for each name. Names that are not there come as errors, after the others.
    async fn ask(
        &self,
        client: &kube::Client,
        accept: &str,
    ) -> Result<(Vec<Value>, Vec<anyhow::Error>)> {
        if self.names.is_empty() {
            let list = request::get(client, &self.collection(&[]), accept)
                .await
                .map_err(|e| explain(e, self.place()))?;
            return Ok((vec![list], vec![]));
        }
        let (mut found, mut missing) = (vec![], vec![]);
        for name in &self.names {
            match request::get(client, &self.kind.path(self.namespace, Some(name)), accept).await {
                Ok(object) => found.push(object),
                Err(e) => missing.push(explain(e, self.kind.object(self.namespace, name))),
            }
        }
        Ok((found, missing))
    }
}

/// Runs the verb.
///
/// # Errors
/// When a kind or a named object is not there, or the server refuses.
pub async fn run(client: &kube::Client, default: &str, args: Get) -> Result<()> {
    let kinds = Kinds::discover(client).await?;
    let namespace = args.scope.place(default);
    let mut questions = vec![];
    for (kind, names) in kinds.select(&args.what)? {
        if !names.is_empty() {
            ensure!(
                namespace.is_some() || !kind.namespaced,
                "{}: a name is only unique in a namespace; give -n instead of -A",
                kind.object(None, &names[0])
            );
            ensure!(
                args.selector.labels.is_empty() && args.fields.is_empty(),
                "{}: give names or selectors, not both",
                kind.resource.plural
            );
        }
        questions.push(Question {
            kind,
            names,
            namespace,
            labels: &args.selector.labels,
            fields: &args.fields,
        });
    }
    if args.watch {
        ensure!(
            questions.len() == 1,
            "one kind can be watched at a time; {} are given",
            questions.len()
        );
        return watch::run(client, questions.remove(0), &args).await;
    }
    match &args.output {
        None | Some(Format::Wide) => tables(client, &questions, &args).await,
        Some(format) => objects(client, &questions, format).await,
    }
}

async fn tables(client: &kube::Client, questions: &[Question<'_>], args: &Get) -> Result<()> {
    let out = Output::stdout();
    let (mut printed, mut missing) = (0, vec![]);
    for question in questions {
        let (found, errors) = question.ask(client, TABLE).await?;
        missing.extend(errors);
        let mut rows = Rows::new(question, args, questions.len() > 1);
        let lines: Vec<_> = found.iter().flat_map(|table| rows.read(table)).collect();
        if lines.is_empty() {
            continue;
        }
        if printed > 0 {
            out.write("\n")?;
        }
        printed += lines.len();
        out.write(&rows.text(&out, lines))?;
    }
    if printed == 0 && missing.is_empty() {
        let place = questions
            .iter()
            .any(|q| q.kind.namespaced)
            .then_some(args.scope.all_namespaces);
        eprintln!(
            "nothing found{}",
            match (place, questions[0].namespace) {
                (Some(false), Some(namespace)) =>
                    format!(" in namespace {namespace} (-A looks in all)"),
                _ => String::new(),
            }
        );
    }
    together(missing)
}

async fn objects(client: &kube::Client, questions: &[Question<'_>], format: &Format) -> Result<()> {
    let out = Output::stdout();
    let (mut items, mut missing) = (vec![], vec![]);
    for question in questions {
        let (found, errors) = question.ask(client, JSON).await?;
        missing.extend(errors);
        for answer in found {
            match answer
                .get("items")
                .and_then(Value::as_array)
                .filter(|_| question.names.is_empty())
            {
                Some(list) => items.extend(list.iter().map(|item| typed(question.kind, item))),
                None => items.push(answer),
            }
        }
    }
    let single = questions.len() == 1 && questions[0].names.len() == 1;
    match format {
        Format::Name => items
            .iter()
            .try_for_each(|item| out.write(&format!("{}\n", reference(questions, item))))?,
        _ if single && items.is_empty() => {}
        _ => {
            let whole = if single {
                items.remove(0)
            } else {
                json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
            };
            out.write(&shown(&whole, format)?)?;
        }
    }
    together(missing)
}

/// Items of a list come without their kind.
fn typed(kind: &Kind, item: &Value) -> Value {
    let mut item = item.clone();
    if let Some(fields) = item.as_object_mut() {
        fields
            .entry("apiVersion")
            .or_insert_with(|| kind.resource.api_version.clone().into());
        fields
            .entry("kind")
            .or_insert_with(|| kind.resource.kind.clone().into());
    }
    item
}

fn reference(questions: &[Question<'_>], item: &Value) -> String {
    let of = |q: &&Question<'_>| item["kind"] == q.kind.resource.kind.as_str();
    let kind = questions
        .iter()
        .find(of)
        .map_or("", |q| q.kind.singular.as_str());
    format!(
        "{kind}/{}",
        item["metadata"]["name"].as_str().unwrap_or_default()
    )
}

fn shown(object: &Value, format: &Format) -> Result<String> {
    match format {
        Format::Json => Ok(serde_json::to_string_pretty(object)? + "\n"),
        Format::Path(path) => {
            let texts: Vec<_> = path
                .find(object)
                .into_iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            Ok(texts.join(" ") + "\n")
        }
        _ => yaml(object),
    }
}

/// An object as YAML.
///
/// # Errors
/// When it has no such form.
pub fn yaml(object: &Value) -> Result<String> {
    let text = serde_saphyr::to_string(object).map_err(|e| anyhow!("writing YAML: {e}"))?;
    Ok(if text.ends_with('\n') {
        text
    } else {
        text + "\n"
    })
}

/// Several errors as one, a line each.
pub fn together(errors: Vec<anyhow::Error>) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = errors.iter().map(|e| format!("{e:#}")).collect();
    bail!("{}", lines.join("\nerror: "))
}
