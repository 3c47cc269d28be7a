//! The API server.

mod core_kinds;
pub mod kinds;

pub mod apply;
pub mod discovery;
pub mod events;
pub mod metadata;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod schema;
pub mod selector;
pub mod strict;
pub mod table;
