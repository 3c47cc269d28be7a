//! Waiting until an object is as wished, by a watch, and saying what is missing while nothing happens.

use crate::kinds::Kind;
use crate::refusal::{explain, is_final};
use anyhow::{Result, bail};
use futures::StreamExt as _;
use kube::api::DynamicObject;
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt as _, watcher::watch_object};
use serde_json::Value;
use skysail_apiserver::table::path::JsonPath;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Silence for longer than this is explained.
const STALL: Duration = Duration::from_secs(5);

/// What is waited for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// A condition has a status.
    Condition { name: String, status: String },
    /// The object is there.
    Created,
    /// The object is gone, or another has its name. Its uid, where it is known.
    Gone { uid: Option<String> },
    /// A field has a value (any for `None`).
    Field {
        text: String,
        path: JsonPath,
        value: Option<String>,
    },
}

/// What an object says about a wish.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// It is so.
    Fulfilled,
    /// Not yet, for this reason.
    Missing(String),
    /// It never will.
    Never(String),
}

impl Wish {
    /// A pure look at an object, or at its absence.
    pub fn look(&self, object: Option<&Value>) -> Answer {
        match (self, object) {
            (Self::Gone { .. }, None) | (Self::Created, Some(_)) => Answer::Fulfilled,
            (Self::Created, None) => Answer::Missing("it is not there yet".into()),
            (_, None) => Answer::Never("not found".into()),
            (Self::Gone { uid }, Some(object)) => {
                let other = uid
                    .as_deref()
                    .is_some_and(|uid| object["metadata"]["uid"] != uid);
                if other {
                    Answer::Fulfilled
                } else {
                    Answer::Missing(held(object))
                }
            }
            (Self::Condition { name, status }, Some(object)) => condition(object, name, status),
            (Self::Field { text, path, value }, Some(object)) => {
                let found: Vec<_> = path
                    .find(object)
                    .into_iter()
                    .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                    .collect();
                match (value, found.as_slice()) {
                    (_, []) => Answer::Missing(format!("{text} is not set")),
                    (None, _) => Answer::Fulfilled,
                    (Some(value), all) if all.iter().all(|v| v == value) => Answer::Fulfilled,
                    (Some(value), all) => {
                        Answer::Missing(format!("{text} is {}, not {value}", all.join(" ")))
                    }
                }
            }
        }
    }
}

fn held(object: &Value) -> String {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    if text("/metadata/deletionTimestamp").is_empty() {
        return "nobody has deleted it".into();
    }
    let finalizers: Vec<_> = object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let host = text("/status/host");
    let place = if host.is_empty() {
        String::new()
    } else {
        format!(" (on host {host})")
    };
    match finalizers.as_slice() {
        [] => "the server has not removed it yet".into(),
        names => format!(
            "it is being deleted; {} must be done first{place}",
            names.join(", ")
        ),
    }
}

fn condition(object: &Value, name: &str, status: &str) -> Answer {
    let found = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| {
            c["type"]
                .as_str()
                .is_some_and(|t| t.eq_ignore_ascii_case(name))
        });
    let Some(found) = found else {
        return Answer::Missing(format!("{name} has not been observed yet"));
    };
    let text = |key: &str| found[key].as_str().unwrap_or_default();
    let old = found["observedGeneration"]
        .as_i64()
        .zip(object["metadata"]["generation"].as_i64())
        .is_some_and(|(seen, now)| seen < now);
    if old {
        return Answer::Missing(format!("{name} is of an older version of the object"));
    }
    if text("status").eq_ignore_ascii_case(status) {
        return Answer::Fulfilled;
    }
    let message = if text("message").is_empty() {
        String::new()
    } else {
        format!(": {}", text("message"))
    };
    Answer::Missing(format!(
        "{name} is {} ({}{message})",
        text("status"),
        text("reason")
    ))
}

/// Waits for one object until `deadline`; a look is taken even when that is over.
///
/// # Errors
/// When the time is over (with what is missing), the object cannot become so, or the server refuses.
pub async fn until(
    client: &kube::Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
    wish: &Wish,
    deadline: Instant,
) -> Result<()> {
    let object = kind.object(Some(namespace), name);
    let mut stream = pin!(watch_object(kind.api(client, namespace), name).default_backoff());
    let mut missing = String::from("the server has not answered");
    let mut said = None;
    let mut stall = Instant::now() + STALL;
    let first = deadline.max(Instant::now() + STALL);
    let mut looked = false;
    loop {
        let limit = if looked { deadline } else { first };
        tokio::select! {
            next = timeout_at(limit, stream.next()) => match next {
                Err(_) => bail!("{object}: time is over: {missing}"),
                Ok(None) => bail!("{object}: the watch ended"),
                Ok(Some(seen)) => {
                    match observe(seen, wish, &object)? {
                        Answer::Fulfilled => return Ok(()),
                        Answer::Never(why) => bail!("{object}: {why}"),
                        Answer::Missing(why) => missing = why,
                    }
                    looked = true;
                }
            },
            () = sleep_until(stall) => {
                if said.as_ref() != Some(&missing) {
                    eprintln!("{object}: waiting: {missing}");
                    said = Some(missing.clone());
                }
                stall = Instant::now() + STALL;
            }
        }
    }
}

fn observe(
    seen: Result<Option<DynamicObject>, watcher::Error>,
    wish: &Wish,
    object: &str,
) -> Result<Answer> {
    let error = match seen {
        Ok(seen) => return Ok(wish.look(seen.map(serde_json::to_value).transpose()?.as_ref())),
        Err(error) => error,
    };
    match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => {
            let is_final = is_final(&e);
            let why = explain(e, object);
            if is_final {
                Err(why)
            } else {
                Ok(Answer::Missing(format!("{why}; trying again")))
            }
        }
        other => Ok(Answer::Missing(format!("{other}; trying again"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ready(status: &str) -> Value {
        json!({"metadata": {"generation": 2}, "status": {"conditions": [
            {"type": "Ready", "status": status, "reason": "NoFit", "message": "too big", "observedGeneration": 2}]}})
    }

    fn wish(name: &str, status: &str) -> Wish {
        Wish::Condition {
            name: name.into(),
            status: status.into(),
        }
    }

    #[test]
    fn a_condition_that_is_missing_says_why() {
        assert_eq!(
            wish("ready", "true").look(Some(&ready("True"))),
            Answer::Fulfilled
        );
        assert_eq!(
            wish("Ready", "True").look(Some(&ready("False"))),
            Answer::Missing("Ready is False (NoFit: too big)".into())
        );
        assert_eq!(
            wish("Other", "True").look(Some(&ready("True"))),
            Answer::Missing("Other has not been observed yet".into())
        );
        assert_eq!(
            wish("Ready", "True").look(None),
            Answer::Never("not found".into())
        );
    }

    #[test]
    fn a_condition_of_an_older_version_does_not_count() {
        let mut object = ready("True");
        object["metadata"]["generation"] = 3.into();
        assert!(matches!(
            wish("Ready", "True").look(Some(&object)),
            Answer::Missing(_)
        ));
    }

    #[test]
    fn a_new_object_of_the_same_name_means_that_the_old_one_is_gone() {
        let object = json!({"metadata": {"uid": "b", "deletionTimestamp": "t", "finalizers": ["x/agent"]}, "status": {"host": "h1"}});
        assert_eq!(
            Wish::Gone {
                uid: Some("a".into())
            }
            .look(Some(&object)),
            Answer::Fulfilled
        );
        assert_eq!(Wish::Gone { uid: None }.look(None), Answer::Fulfilled);
        let Answer::Missing(why) = (Wish::Gone {
            uid: Some("b".into()),
        })
        .look(Some(&object)) else {
            panic!()
        };
        assert!(why.contains("x/agent") && why.contains("h1"), "{why}");
    }

    #[test]
    fn a_field_is_compared_as_text() {
        let field = |value: Option<&str>| Wish::Field {
            text: "{.a}".into(),
            path: JsonPath::parse("{.a}").unwrap(),
            value: value.map(str::to_owned),
        };
        assert_eq!(
            field(Some("3")).look(Some(&json!({"a": 3}))),
            Answer::Fulfilled
        );
        assert_eq!(
            field(None).look(Some(&json!({"a": "x"}))),
            Answer::Fulfilled
        );
        assert_eq!(
            field(Some("x")).look(Some(&json!({"a": "y"}))),
            Answer::Missing("{.a} is y, not x".into())
        );
        assert_eq!(
            field(None).look(Some(&json!({}))),
            Answer::Missing("{.a} is not set".into())
        );
    }
}
