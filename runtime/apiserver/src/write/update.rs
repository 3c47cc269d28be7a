//! `update`: a whole object in place of the old one.

use super::create::create;
use super::modify::{Modify, modify};
use super::options::Options;
use super::outcome::Outcome;
use crate::answer::Failure;
use crate::identity::Identity;
use crate::kinds::Origin;
use crate::request::Call;
use crate::request::body::Document;
use crate::state::State;

/// `PUT`.
pub(crate) async fn update(
    state: &State,
    call: &Call<'_>,
    identity: &Identity,
    options: &Options,
    document: Document,
) -> Result<Outcome, Failure> {
    let kind = call.kind;
    let version = document.value["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    if version.is_empty() && kind.origin == Origin::Custom {
        let error = skysail_schemas::validate::FieldError {
            field: "metadata.resourceVersion".into(),
            cause: skysail_schemas::validate::Cause::Invalid,
            message: "Invalid value: 0: must be specified for an update".into(),
        };
        return Err(Failure::invalid(kind, call.name, &[error]));
    }
    let how = Modify {
        options,
        identity,
        duplicates: &document.duplicates,
    };
    let result = modify(state, call, &how, &|_| Ok(document.value.clone())).await;
    let creates =
        matches!(kind.plural.as_str(), "leases" | "events") && call.subresource.is_empty();
    match result {
        Err(failure) if failure.code == 404 && creates && version.is_empty() => {
            create(state, call, identity, options, document).await
        }
        other => other,
    }
}
