//! What is asked: path, query, selectors and body of a request, as values.
//!
//! Nothing here looks at an object. Needs the table of kinds (to resolve paths) and
//! [`crate::answer`] (to refuse).

pub(crate) mod body;
mod call;
mod protobuf;
mod query;
pub(crate) mod selector;
pub mod strict;

pub(crate) use call::{Call, Path};
pub(crate) use query::{Query, is_true, number};
