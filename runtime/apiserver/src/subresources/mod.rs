//! Subresources that are no view of an object: sessions of containers, an image's
//! bytes, a host's credential. Most of them stream.
//!
//! Needs [`crate::state`] for the object that they belong to, and [`crate::identity`]
//! for credentials.

pub(crate) mod blob;
pub(crate) mod credential;
pub(crate) mod sessions;
