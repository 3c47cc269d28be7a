//! Read, change, compare-and-swap: how every change of an object that exists is made.

use super::admission;
use super::finalizers::is_finished;
use super::options::Options;
use super::outcome::{Outcome, acknowledged, encode, stored};
use crate::answer::Failure;
use crate::identity::{Identity, authorize};
use crate::request::Call;
use crate::state::{State, view};
use serde_json::Value;
use skysail_store::Error;

/// How often a write without a resourceVersion is tried again when somebody else was faster.
const ATTEMPTS: usize = 16;

/// How a change makes the new object out of the old one, both in the view of the kind.
pub(crate) type Make<'a> = &'a (dyn Fn(&Value) -> Result<Value, Failure> + Send + Sync);

/// What [`modify`] is to do besides calling [`Make`].
pub(crate) struct Modify<'a> {
    pub options: &'a Options,
    pub identity: &'a Identity,
    pub duplicates: &'a [String],
}

/// Read, change, compare-and-swap; again if somebody was faster and the change names no revision.
pub(crate) async fn modify(
    state: &State,
    call: &Call<'_>,
    how: &Modify<'_>,
    make: Make<'_>,
) -> Result<Outcome, Failure> {
    let kind = call.kind;
    for _ in 0..ATTEMPTS {
        let object = state.current(kind, call.namespace, call.name).await?;
        let old = view(kind, &object);
        let (new, warnings) = next_state(state, call, how, &old, make(&old)?)?;
        let Some(new) = new else {
            return Ok(Outcome {
                code: 200,
                value: old.into_owned(),
                warnings,
            });
        };
        if how.options.dry_run {
            return Ok(Outcome {
                code: 200,
                value: new,
                warnings,
            });
        }
        let written = if is_finished(&new) {
            state.store.delete(&object.key, object.revision).await
        } else {
            state
                .store
                .update(&object.key, encode(&stored(kind, &new)), object.revision)
                .await
        };
        match written {
            Ok(revision) => {
                let value = acknowledged(state, new, revision).await;
                return Ok(Outcome {
                    code: 200,
                    value,
                    warnings,
                });
            }
            Err(Error::Conflict { current: None, .. }) => {
                return Err(Failure::not_found(kind, call.name));
            }
            // The next round reads the newer object; a change that names a revision is refused there.
            Err(Error::Conflict {
                current: Some(entry),
                ..
            }) => {
                state.cache.caught_up(entry.modified).await;
            }
            Err(other) => return Err(other.into()),
        }
    }
    Err(Failure::modified(kind, call.name))
}

/// The object to write, `None` if nothing changes.
fn next_state(
    state: &State,
    call: &Call<'_>,
    how: &Modify<'_>,
    old: &Value,
    mut new: Value,
) -> Result<(Option<Value>, Vec<String>), Failure> {
    let kind = call.kind;
    admission::address(call, &mut new)?;
    let version = new["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    if !version.is_empty()
        && version != "0"
        && Some(version) != old["metadata"]["resourceVersion"].as_str()
    {
        return Err(Failure::modified(kind, call.name));
    }
    let warnings = admission::prune(kind, &mut new, how.duplicates, how.options.unknown)?;
    let mut new = admission::confine(kind, call.subresource, old, new);
    admission::carry_over(kind, old, &mut new)?;
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    admission::complete(kind, Some(old), &mut new)?;
    admission::raise_generation(kind, old, &mut new);
    let change = (old, &new);
    if !authorize::may_change(how.identity, kind, call.subresource, change, &state.cache) {
        return Err(Failure::forbidden_object(
            kind,
            call.name,
            "an agent may change only finalizers and its own part of a status",
        ));
    }
    if !how.options.applies {
        let subresource = if call.subresource == "status" {
            "status"
        } else {
            ""
        };
        admission::track(kind, Some(old), &mut new, how.options, subresource);
    }
    let changed = !admission::same(old, &new) || is_finished(&new);
    Ok((changed.then_some(new), warnings))
}
