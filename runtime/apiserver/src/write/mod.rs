//! Writing: compare-and-swap on the store.
//!
//! One file per verb. Each takes the body through [`admission`], writes, and answers
//! only when reads see what was written. Needs [`crate::state`], [`crate::request`],
//! [`crate::read`] (what a deletion of a collection covers),
//! [`crate::patches`] and, for what an agent may change, [`crate::identity`].

pub(crate) mod admission;
mod create;
pub(crate) mod delete;
pub(crate) mod finalizers;
mod modify;
pub(crate) mod namespaces;
mod options;
mod outcome;
mod patch;
pub(crate) mod scale;
mod update;

pub(crate) use outcome::Outcome;

use crate::answer::Failure;
use crate::identity::Identity;
use crate::request::{Call, body};
use crate::state::State;
use delete::DeleteOptions;
use http::HeaderMap;
use options::Options;
use serde_json::Value;

/// Everything that writes.
pub(crate) async fn change(
    state: &State,
    call: &Call<'_>,
    identity: &Identity,
    headers: &HeaderMap,
    text: &[u8],
) -> Result<Outcome, Failure> {
    call.check_subresource()?;
    let options = Options::of(call, headers)?;
    match (call.verb, call.subresource) {
        ("create", "") if call.name.is_empty() => {
            create::create(state, call, identity, &options, body::read(headers, text)?).await
        }
        ("update" | "patch", "scale") => {
            scale::change(state, call, identity, &options, headers, text).await
        }
        ("update", _) => {
            update::update(state, call, identity, &options, body::read(headers, text)?).await
        }
        ("patch", _) => patch::patch(state, call, identity, &options, headers, text).await,
        ("delete" | "deletecollection", "") => {
            let body = if text.is_empty() {
                Value::Null
            } else {
                body::read(headers, text)?.value
            };
            let options = DeleteOptions::of(call, &body)?;
            if call.verb == "delete" {
                delete::delete(state, call.kind, call.namespace, call.name, &options).await
            } else {
                delete::delete_collection(state, call, &options).await
            }
        }
        _ => Err(Failure::method_not_allowed()),
    }
}
