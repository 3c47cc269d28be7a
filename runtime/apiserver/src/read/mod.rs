//! Reading: `get`, `list` and `watch`, answered from the cache.
//!
//! Needs [`crate::state`], [`crate::request`] and, for the form of an answer,
//! [`crate::answer`] and [`crate::table`]. What is not authorized never comes here.

pub(crate) mod filter;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod render;
pub(crate) mod watch;
