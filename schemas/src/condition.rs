//! Conditions: how every object explains itself.
//!
//! `Ready` is derived from the others by [`ready`], never set by hand, so an object
//! cannot claim to be ready while one of its parts says otherwise.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The summary condition of every kind.
pub const READY: &str = "Ready";

/// One observation, before it is merged into a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Condition type, for example `Reachable`.
    pub kind: &'static str,
    /// `Some(true)`, `Some(false)`, or `None` for `Unknown`.
    pub status: Option<bool>,
    /// A CamelCase word that programs can test.
    pub reason: String,
    /// A sentence for people: what, on which object, what to do.
    pub message: String,
}

impl Fact {
    /// The condition holds.
    pub fn yes(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Some(true),
            reason: reason.into(),
            message: message.into(),
        }
    }
    /// The condition does not hold.
    pub fn no(kind: &'static str, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Some(false),
            reason: reason.into(),
            message: message.into(),
        }
    }
    /// It is not known whether the condition holds.
    pub fn unknown(
        kind: &'static str,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            status: None,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Merges facts into `conditions`. The transition time moves only when the status
/// does, so that a repeated observation changes nothing.
pub fn merge(
    conditions: &mut Vec<Condition>,
    facts: &[Fact],
    generation: Option<i64>,
    now: Timestamp,
) {
    for fact in facts {
        let status = match fact.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let new = Condition {
            type_: fact.kind.to_owned(),
            status: status.to_owned(),
            reason: fact.reason.clone(),
            message: fact.message.clone(),
            observed_generation: generation,
            last_transition_time: Time(now),
        };
        match conditions.iter_mut().find(|c| c.type_ == fact.kind) {
            Some(old) => {
                let since = if old.status == status {
                    old.last_transition_time.clone()
                } else {
                    Time(now)
                };
                *old = Condition {
                    last_transition_time: since,
                    ..new
                };
            }
            None => conditions.push(new),
        }
    }
}

/// Derives `Ready` from `parts`, which must all be true: the first that is not, in
/// the given order, lends its reason and message.
pub fn ready(conditions: &[Condition], parts: &[&'static str]) -> Fact {
    for part in parts {
        match conditions.iter().find(|c| c.type_ == *part) {
            None => {
                return Fact::unknown(
                    READY,
                    "Pending",
                    format!("{part} has not been observed yet"),
                );
            }
            Some(c) if c.status == "True" => {}
            Some(c) => {
                let status = if c.status == "False" {
                    Some(false)
                } else {
                    None
                };
                return Fact {
                    kind: READY,
                    status,
                    reason: c.reason.clone(),
                    message: c.message.clone(),
                };
            }
        }
    }
    Fact::yes(READY, "Ready", "")
}

/// Whether the condition `kind` is true.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions
        .iter()
        .any(|c| c.type_ == kind && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_observation_keeps_its_transition_time() {
        let (t0, t1) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(9).unwrap());
        let mut conditions = vec![];
        merge(
            &mut conditions,
            &[Fact::no("Reachable", "Refused", "port 22")],
            Some(1),
            t0,
        );
        merge(
            &mut conditions,
            &[Fact::no("Reachable", "TimedOut", "port 22")],
            Some(1),
            t1,
        );
        assert_eq!(
            (conditions.len(), &conditions[0].last_transition_time.0),
            (1, &t0)
        );
        merge(
            &mut conditions,
            &[Fact::yes("Reachable", "Connected", "")],
            Some(1),
            t1,
        );
        assert_eq!(conditions[0].last_transition_time.0, t1);
    }

    #[test]
    fn ready_takes_the_reason_of_the_first_part_that_is_not_true() {
        let mut conditions = vec![];
        merge(
            &mut conditions,
            &[
                Fact::yes("A", "Fine", ""),
                Fact::no("B", "Broken", "b is broken"),
            ],
            None,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(
            ready(&conditions, &["A", "B"]),
            Fact::no(READY, "Broken", "b is broken")
        );
        assert_eq!(ready(&conditions, &["A"]).status, Some(true));
        assert_eq!(ready(&conditions, &["A", "C"]).status, None);
    }
}
