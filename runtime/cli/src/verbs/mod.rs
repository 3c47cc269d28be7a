//! The client verbs, one file each.

pub mod apply;
