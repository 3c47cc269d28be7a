//! `skysail wait`: until objects are as wished.

use crate::kinds::{Kind, Kinds};
use crate::print::Output;
use crate::refusal::explain;
use crate::request::{self, JSON, url};
use crate::verbs::get::{Selector, together};
use crate::waiting::{self, Wish};
use anyhow::{Result, ensure};
use futures::future::join_all;
use serde_json::Value;
use skysail_apiserver::table::path::JsonPath;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::Instant;

/// Flags of `wait`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  skysail wait host/h1 --for=condition=Ready\n  skysail wait containers --all -n acme --for=condition=Ready --timeout 2m\n  skysail wait ct/web -n acme --for=condition=Ready=False\n  skysail wait ct/web -n acme --for=delete\n  skysail wait ct/web -n acme --for=create\n  skysail wait ct/web -n acme --for='jsonpath={.status.phase}=Running'"
)]
pub struct Wait {
    /// KIND/NAME… or KIND NAME…
    #[arg(required = true, value_name = "KIND/NAME")]
    what: Vec<String>,
    /// condition=NAME[=STATUS], delete, create, or jsonpath={.path}[=VALUE]
    #[arg(long = "for", value_name = "WISH")]
    wish: Goal,
    /// How long to wait; 0s looks once
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Namespace, else the kubeconfig's
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// All objects of the kind that are there now
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    selector: Selector,
}

#[derive(Debug, Clone, PartialEq)]
struct Goal(Wish);

impl FromStr for Goal {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once('=').unwrap_or((text, ""));
        match (word, rest) {
            ("delete", "") => Ok(Self(Wish::Gone { uid: None })),
            ("create", "") => Ok(Self(Wish::Created)),
            ("condition", rest) if !rest.is_empty() => {
                let (name, status) = rest.split_once('=').unwrap_or((rest, "True"));
                Ok(Self(Wish::Condition {
                    name: name.into(),
                    status: status.into(),
                }))
            }
            ("jsonpath", rest) if !rest.is_empty() => {
                let end = rest
                    .rfind('}')
                    .map_or_else(|| rest.find('=').unwrap_or(rest.len()), |at| at + 1);
                let (path, value) = rest.split_at(end);
                let parsed = JsonPath::parse(path)
                    .ok_or_else(|| format!("{path:?} is not a path like {{.status.phase}}"))?;
                let value = value.strip_prefix('=').map(str::to_owned);
                Ok(Self(Wish::Field {
                    text: path.into(),
                    path: parsed,
                    value,
                }))
            }
            _ => Err(
                "is none of condition=NAME[=STATUS], delete, create, jsonpath={.path}[=VALUE]"
                    .into(),
            ),
        }
    }
}

/// Runs the verb: all objects at once, each until the same time.
///
/// # Errors
/// With what is missing, for every object that is not as wished in time.
pub async fn run(client: &kube::Client, default: &str, args: Wait) -> Result<()> {
    let kinds = Kinds::discover(client).await?;
    let namespace = args.namespace.as_deref().unwrap_or(default);
    let mut objects = vec![];
    for (kind, names) in kinds.select(&args.what)? {
        let selected = args.all || !args.selector.labels.is_empty();
        ensure!(
            selected || !names.is_empty(),
            "{}: which objects? Give names, --all or -l",
            kind.resource.plural
        );
        ensure!(
            !selected || names.is_empty(),
            "{}: give names or a selection, not both",
            kind.resource.plural
        );
        let names = if selected {
            names_of(client, kind, namespace, &args.selector.labels).await?
        } else {
            names
        };
        ensure!(
            !names.is_empty(),
            "{}: nothing is selected",
            kind.resource.plural
        );
        objects.extend(names.into_iter().map(|name| (kind, name)));
    }
    let deadline = Instant::now() + args.timeout;
    let waits = objects.iter().map(|(kind, name)| {
        let wish = &args.wish.0;
        async move {
            waiting::until(client, kind, namespace, name, wish, deadline).await?;
            Output::stdout().write(&format!("{}/{name} {}\n", kind.singular, met(wish)))?;
            Ok(())
        }
    });
    together(
        join_all(waits)
            .await
            .into_iter()
            .filter_map(Result::err)
            .collect(),
    )
}

fn met(wish: &Wish) -> &'static str {
    match wish {
        Wish::Gone { .. } => "deleted",
        Wish::Created => "created",
        Wish::Condition { .. } | Wish::Field { .. } => "condition met",
    }
}

/// The names that a selection has now.
///
/// # Errors
/// When the server refuses.
pub async fn names_of(
    client: &kube::Client,
    kind: &Kind,
    namespace: &str,
    labels: &str,
) -> Result<Vec<String>> {
    let url = url(
        &kind.path(Some(namespace), None),
        &[("labelSelector", labels)],
    );
    let list = request::get(client, &url, JSON)
        .await
        .map_err(|e| explain(e, &kind.resource.plural))?;
    let name = |item: &Value| item["metadata"]["name"].as_str().map(str::to_owned);
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(name)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_as_kubectl_writes_them() {
        let wish = |text: &str| text.parse::<Goal>().map(|g| g.0);
        assert_eq!(wish("delete"), Ok(Wish::Gone { uid: None }));
        assert_eq!(
            wish("condition=Ready"),
            Ok(Wish::Condition {
                name: "Ready".into(),
                status: "True".into()
            })
        );
        assert_eq!(
            wish("condition=Ready=False"),
            Ok(Wish::Condition {
                name: "Ready".into(),
                status: "False".into()
            })
        );
        let path = |text: &str| match wish(text) {
            Ok(Wish::Field { text, value, .. }) => (text, value),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            path("jsonpath={.a[?(@.b==\"c\")].d}=x"),
            ("{.a[?(@.b==\"c\")].d}".into(), Some("x".into()))
        );
        assert_eq!(path("jsonpath={.a}"), ("{.a}".into(), None));
        assert!(
            wish("ready").is_err() && wish("condition=").is_err() && wish("jsonpath=a b").is_err()
        );
    }
}
