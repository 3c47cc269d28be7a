//! What went wrong, on one line: which object, what failed, what to do. A refused object has one bullet for each field.

use anyhow::anyhow;
use kube::core::Status;

/// The error of a request about `what`, for example `containers/web -n acme`.
pub fn explain(error: kube::Error, what: impl std::fmt::Display) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!("{what}: {}", refused(&status)),
        other => anyhow!("{what}: {}", unreachable(&other)),
    }
}

/// Whether asking again cannot help.
pub fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 408..=410 | 429))
}

fn refused(status: &Status) -> String {
    let causes: String = status
        .details
        .iter()
        .flat_map(|d| &d.causes)
        .map(|c| format!("\n  * {}: {}", c.field, c.message))
        .collect();
    let advice = match status.code {
        401 => "; use a kubeconfig whose certificate this server signed (--kubeconfig)",
        403 => "; use a kubeconfig that may do this (--kubeconfig)",
        429 => "; the server is busy, try again",
        503 | 504 => "; the server cannot work now, try again",
        _ => "",
    };
    if causes.is_empty() {
        format!("{}{advice}", status.message)
    } else {
        format!("refused by the server:{causes}")
    }
}

/// The innermost cause says most; what wraps it repeats it.
fn unreachable(error: &kube::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match error {
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
            format!(
                "the server cannot be reached: {cause}; is it running, and is the kubeconfig its own?"
            )
        }
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn api(status: serde_json::Value) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn a_refused_object_has_a_bullet_for_each_field() {
        let error = api(
            json!({"status": "Failure", "message": "long", "reason": "Invalid", "code": 422, "details": {"causes": [
            {"field": "spec.a", "message": "Required value", "reason": "FieldValueRequired"},
            {"field": "spec.b", "message": "Too long", "reason": "FieldValueTooLong"}]}}),
        );
        assert_eq!(
            explain(error, "hosts/a").to_string(),
            "hosts/a: refused by the server:\n  * spec.a: Required value\n  * spec.b: Too long"
        );
    }

    #[test]
    fn a_missing_object_is_final_and_a_busy_server_is_not() {
        let with = |code: u16| {
            api(json!({"status": "Failure", "message": "m", "reason": "R", "code": code}))
        };
        assert!(is_final(&with(404)) && is_final(&with(403)));
        assert!(!is_final(&with(429)) && !is_final(&with(410)) && !is_final(&with(503)));
    }
}
