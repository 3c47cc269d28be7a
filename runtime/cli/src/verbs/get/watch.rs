//! `get -w`: what is there, then whatever changes, across ends of the connection.

use super::rows::Rows;
use super::{Format, Get, Question, reference, shown};
use crate::print::Output;
use crate::refusal::{explain, is_final};
use crate::request::{self, JSON, TABLE};
use anyhow::{Result, ensure};
use futures::TryStreamExt as _;
use serde_json::Value;
use std::pin::pin;
use std::time::Duration;

/// Between two attempts to reach a server that went away.
const PAUSE: Duration = Duration::from_secs(1);

/// How a watch ended.
enum End {
    /// Go on from the last revision.
    Quiet,
    /// The server remembers less than that: look at everything again.
    Expired,
    /// It cannot be reached.
    Lost(anyhow::Error),
}

struct Screen<'a> {
    out: Output,
    rows: Rows,
    format: Option<&'a Format>,
    question: Question<'a>,
}

impl Screen<'_> {
    fn accept(&self) -> &'static str {
        if self.tabular() { TABLE } else { JSON }
    }

    fn tabular(&self) -> bool {
        matches!(self.format, None | Some(Format::Wide))
    }

    fn show(&mut self, answer: &Value) -> Result<()> {
        let text = match self.format {
            None | Some(Format::Wide) => {
                let lines = self.rows.read(answer);
                if lines.is_empty() {
                    String::new()
                } else {
                    self.rows.text(&self.out, lines)
                }
            }
            Some(Format::Name) => format!(
                "{}\n",
                reference(std::slice::from_ref(&self.question), answer)
            ),
            Some(Format::Yaml) => format!("---\n{}", shown(answer, &Format::Yaml)?),
            Some(format) => shown(answer, format)?,
        };
        Ok(self.out.write(&text)?)
    }

    /// Shows what is there; the revision from which to go on.
    async fn list(&mut self, client: &kube::Client) -> Result<String, kube::Error> {
        let answer = request::get(client, &self.question.collection(&[]), self.accept()).await?;
        let revision = answer["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let shown = match answer["items"].as_array().filter(|_| !self.tabular()) {
            Some(items) => items
                .iter()
                .try_for_each(|item| self.show(&super::typed(self.question.kind, item))),
            None => self.show(&answer),
        };
        shown.map_err(|e| kube::Error::Service(e.into()))?;
        Ok(revision)
    }

    async fn follow(&mut self, client: &kube::Client, revision: &mut String) -> Result<End> {
        let url = self.question.collection(&[
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", revision),
        ]);
        let lost = |e: kube::Error, place: String| {
            if is_final(&e) {
                Err(explain(e, place))
            } else {
                Ok(End::Lost(explain(e, place)))
            }
        };
        let events = match request::watch(client, &url, self.accept()).await {
            Ok(events) => events,
            Err(kube::Error::Api(status)) if status.code == 410 => return Ok(End::Expired),
            Err(e) => return lost(e, self.question.place()),
        };
        let mut events = pin!(events);
        loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(End::Quiet),
                Err(e) => return lost(e, self.question.place()),
            };
            let object = &event["object"];
            let kind = event["type"].as_str().unwrap_or_default();
            if kind == "ERROR" {
                return Ok(if object["code"] == 410 {
                    End::Expired
                } else {
                    End::Quiet
                });
            }
            let version = |o: &Value| {
                o.pointer("/metadata/resourceVersion")
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            };
            if let Some(version) = version(&object["rows"][0]["object"]).or_else(|| version(object))
            {
                *revision = version;
            }
            if kind != "BOOKMARK" {
                self.show(object)?;
            }
        }
    }
}

/// Prints until it is interrupted or nobody reads any more.
///
/// # Errors
/// When the server refuses.
pub async fn run(client: &kube::Client, mut question: Question<'_>, args: &Get) -> Result<()> {
    ensure!(
        question.names.len() <= 1,
        "one object or all of a kind can be watched; {} names are given",
        question.names.len()
    );
    let field = question
        .names
        .pop()
        .map(|name| format!("metadata.name={name}"));
    if let Some(field) = &field {
        question.fields = field;
    }
    let question = Question {
        fields: field.as_deref().unwrap_or(args.fields.as_str()),
        ..question
    };
    let rows = Rows::new(&question, args, false);
    let mut screen = Screen {
        out: Output::stdout(),
        rows,
        format: args.output.as_ref(),
        question,
    };
    let mut revision = screen
        .list(client)
        .await
        .map_err(|e| explain(e, screen.question.place()))?;
    loop {
        match screen.follow(client, &mut revision).await? {
            End::Quiet => {}
            End::Expired => {
                revision = screen
                    .list(client)
                    .await
                    .map_err(|e| explain(e, screen.question.place()))?
            }
            End::Lost(why) => {
                eprintln!("{why}; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
