//! `Ready` of a Container: three writers, one rule.

use jiff::Timestamp;
use skysail_schemas::ContainerStatus;
use skysail_schemas::condition::{merge, ready};

/// The conditions that a Container's `Ready` is derived from, in the order in which they explain.
const PARTS: [&str; 3] = ["Scheduled", "Networked", "Running"];

/// Derives `Ready`.
pub fn container_ready(status: &mut ContainerStatus, generation: Option<i64>, now: Timestamp) {
    let fact = ready(&status.conditions, &PARTS);
    merge(&mut status.conditions, &[fact], generation, now);
}
