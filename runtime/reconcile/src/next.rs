//! What a turn waits for, what can go wrong, and the only backoff table.

use std::{future::Future, time::Duration};

/// What to wait for after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Something watched changes (or the resync time passes).
    OnChange,
    /// This long, or a change.
    After(Duration),
    /// A growing delay: something failed that can pass by itself.
    Retry,
    /// Nothing: the object is being deleted and nothing of it is left; its finalizer goes.
    Finished,
}

impl Next {
    /// The one that comes first.
    pub fn sooner(self, other: Self) -> Self {
        fn rank(next: Next) -> (u8, Duration) {
            match next {
                Next::Retry => (0, Duration::ZERO),
                Next::After(d) => (1, d),
                Next::OnChange => (2, Duration::ZERO),
                Next::Finished => (3, Duration::ZERO),
            }
        }
        if rank(other) < rank(self) {
            other
        } else {
            self
        }
    }
}

/// What went wrong, by the reaction that it calls for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Can pass by itself: try again with a growing delay.
    #[error("{0}")]
    Transient(String),
    /// Somebody else wrote first: look again at once.
    #[error("{0}")]
    Conflict(String),
    /// Cannot be done until something changes: say so and wait for the change.
    #[error("{message}")]
    Refused {
        /// A CamelCase word for the condition.
        reason: String,
        /// What on which object, and the way out.
        message: String,
    },
    /// There is no room now: try again after a while.
    #[error("{0}")]
    Capacity(String),
    /// Somebody asks us to ask less: try again after a while.
    #[error("{0}")]
    Throttled(String),
}

impl Error {
    /// A refusal.
    pub fn refused(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Refused {
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// The reason for a condition.
    pub fn reason(&self) -> &str {
        match self {
            Self::Transient(_) => "Error",
            Self::Conflict(_) => "Conflict",
            Self::Refused { reason, .. } => reason,
            Self::Capacity(_) => "NoCapacity",
            Self::Throttled(_) => "Throttled",
        }
    }

    /// The reaction.
    pub fn next(&self) -> Next {
        match self {
            Self::Transient(_) => Next::Retry,
            Self::Conflict(_) => Next::After(Duration::from_millis(20)),
            Self::Refused { .. } => Next::OnChange,
            Self::Capacity(_) | Self::Throttled(_) => Next::After(Duration::from_secs(30)),
        }
    }
}

impl From<kube::Error> for Error {
    fn from(e: kube::Error) -> Self {
        match &e {
            kube::Error::Api(status) if status.code == 409 => {
                Self::Conflict(status.message.clone())
            }
            kube::Error::Api(status)
                if matches!(status.code, 400 | 403 | 404 | 405 | 413 | 415 | 422) =>
            {
                let reason = if status.reason.is_empty() {
                    "Refused".to_owned()
                } else {
                    status.reason.clone()
                };
                Self::refused(reason, status.message.clone())
            }
            kube::Error::Api(status) => Self::Transient(status.message.clone()),
            _ => Self::Transient(e.to_string()),
        }
    }
}

/// The delay before attempt `attempt` (1 is the first repetition): doubling from
/// 200 ms up to a minute, of which up to a fifth is chance so that many do not come at once.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let base = Duration::from_millis(200)
        .saturating_mul(1 << attempt.saturating_sub(1).min(9))
        .min(Duration::from_secs(60));
    base.mul_f64(0.8 + 0.2 * rand::random::<f64>())
}

/// A report: each step of a plan with what came of it, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Steps(pub Vec<(String, Result<(), Error>)>);

impl Steps {
    /// Does one step and records what came of it; the value where it worked.
    pub async fn run<T>(
        &mut self,
        what: impl Into<String>,
        step: impl Future<Output = Result<T, Error>>,
    ) -> Option<T> {
        let result = step.await;
        let (value, outcome) = match result {
            Ok(value) => (Some(value), Ok(())),
            Err(e) => (None, Err(e)),
        };
        self.0.push((what.into(), outcome));
        value
    }

    /// The failures, each with its step.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &Error)> {
        self.0
            .iter()
            .filter_map(|(what, result)| result.as_ref().err().map(|e| (what.as_str(), e)))
    }

    /// The first failure.
    pub fn first_failure(&self) -> Option<(&str, &Error)> {
        self.failures().next()
    }

    /// `fine` where every step worked, else the reaction to what failed.
    pub fn next(&self, fine: Next) -> Next {
        let mut failures = self.failures().map(|(_, e)| e.next());
        match failures.next() {
            None => fine,
            Some(first) => failures.fold(first, Next::sooner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_minute_and_stay_there() {
        let delays: Vec<_> = (1..40).map(backoff).collect();
        assert!(delays[0] <= Duration::from_millis(200));
        assert!(delays.iter().all(|d| *d <= Duration::from_secs(60)));
        assert!(delays[20] >= Duration::from_secs(48));
    }

    #[test]
    fn the_most_urgent_reaction_wins() {
        let mut steps = Steps::default();
        assert_eq!(steps.next(Next::OnChange), Next::OnChange);
        steps
            .0
            .push(("a".into(), Err(Error::Capacity("full".into()))));
        steps
            .0
            .push(("b".into(), Err(Error::Transient("timeout".into()))));
        assert_eq!(steps.next(Next::Finished), Next::Retry);
    }
}
