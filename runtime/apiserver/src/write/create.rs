//! `create`: an object of a new name.

use super::admission;
use super::namespaces;
use super::options::Options;
use super::outcome::{Outcome, acknowledged, encode, stored};
use crate::answer::Failure;
use crate::identity::{Identity, authorize};
use crate::request::Call;
use crate::request::body::Document;
use crate::state::State;
use rand::Rng;
use serde_json::Value;
use skysail_store::Error;

/// How many generated names are tried.
const ATTEMPTS: usize = 16;

/// `POST` to a collection.
pub(crate) async fn create(
    state: &State,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    document: Document,
) -> Result<Outcome, Failure> {
    let (kind, mut object) = (call.kind, document.value);
    if kind.namespaced && call.namespace.is_empty() {
        return Err(Failure::bad_request(
            "a namespaced object is created below /namespaces/<namespace>/",
        ));
    }
    admission::address(call, &mut object)?;
    let warnings = admission::prune(kind, &mut object, &document.duplicates, options.unknown)?;
    admission::begin(kind, &mut object)?;
    let generate = object["metadata"]["generateName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let generated = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
        && !generate.is_empty();
    if kind.namespaced {
        namespaces::admits(
            state,
            kind,
            call.namespace,
            object["metadata"]["name"].as_str().unwrap_or_default(),
        )?;
    }
    for _ in 0..ATTEMPTS {
        if generated {
            object["metadata"]["name"] = Value::String(format!("{generate}{}", random_suffix()));
        }
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if !authorize::may_create_named(identity, kind, &name) {
            return Err(Failure::forbidden_object(
                kind,
                &name,
                "this name is not yours",
            ));
        }
        let mut complete = object.clone();
        admission::complete(kind, None, &mut complete)?;
        if !options.applies {
            admission::track(kind, None, &mut complete, options, "");
        }
        let key = kind.key(call.namespace, &name);
        if options.dry_run {
            if state.cache.get(&key).is_some() {
                return Err(Failure::already_exists(kind, &name));
            }
            return Ok(Outcome {
                code: 201,
                value: complete,
                warnings,
            });
        }
        let bytes = stored(kind, &complete);
        match state.store.create(&key, encode(&bytes)).await {
            Ok(revision) => {
                let value = acknowledged(state, complete, revision).await;
                return Ok(Outcome {
                    code: 201,
                    value,
                    warnings,
                });
            }
            Err(Error::Exists { .. }) if generated => {}
            Err(Error::Exists { .. }) => return Err(Failure::already_exists(kind, &name)),
            Err(other) => return Err(other.into()),
        }
    }
    Err(Failure::already_exists(kind, &generate))
}

/// Five characters that make no words.
fn random_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect()
}
