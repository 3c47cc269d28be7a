//! The query of a request: the parameters that anybody reads.

use crate::answer::Failure;

/// Query parameters that anybody reads; all others are ignored, as in Kubernetes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    pub watch: Option<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    pub limit: Option<String>,
    pub continue_: Option<String>,
    pub resource_version: Option<String>,
    pub resource_version_match: Option<String>,
    pub timeout_seconds: Option<String>,
    pub allow_watch_bookmarks: Option<String>,
    pub send_initial_events: Option<String>,
    pub include_object: Option<String>,
    pub dry_run: Option<String>,
    pub field_manager: Option<String>,
    pub field_validation: Option<String>,
    pub force: Option<String>,
    pub propagation_policy: Option<String>,
    pub grace_period_seconds: Option<String>,
}

impl Query {
    /// Reads a query string.
    pub(crate) fn parse(query: &str) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(slot) = parsed.slot(key) else {
                continue;
            };
            if slot.is_none() {
                *slot = Some(percent_decode(value, true)?);
            }
        }
        Ok(parsed)
    }

    fn slot(&mut self, key: &str) -> Option<&mut Option<String>> {
        Some(match key {
            "watch" => &mut self.watch,
            "labelSelector" => &mut self.label_selector,
            "fieldSelector" => &mut self.field_selector,
            "limit" => &mut self.limit,
            "continue" => &mut self.continue_,
            "resourceVersion" => &mut self.resource_version,
            "resourceVersionMatch" => &mut self.resource_version_match,
            "timeoutSeconds" => &mut self.timeout_seconds,
            "allowWatchBookmarks" => &mut self.allow_watch_bookmarks,
            "sendInitialEvents" => &mut self.send_initial_events,
            "includeObject" => &mut self.include_object,
            "dryRun" => &mut self.dry_run,
            "fieldManager" => &mut self.field_manager,
            "fieldValidation" => &mut self.field_validation,
            "force" => &mut self.force,
            "propagationPolicy" => &mut self.propagation_policy,
            "gracePeriodSeconds" => &mut self.grace_period_seconds,
            _ => return None,
        })
    }

    /// Whether `dryRun=All`.
    pub(crate) fn is_dry_run(&self) -> Result<bool, Failure> {
        match self.dry_run.as_deref() {
            None | Some("") => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(Failure::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }
}

/// Whether a boolean parameter is set.
pub(crate) fn is_true(parameter: Option<&str>) -> bool {
    matches!(parameter, Some("true" | "1" | "True" | "TRUE" | "t" | "T"))
}

/// Decodes `%41` and, in queries, `+`.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> Result<String, Failure> {
    let (bytes, mut out, mut i) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let hex = text
                    .get(i + 1..i + 3)
                    .and_then(|h| u8::from_str_radix(h, 16).ok());
                out.push(hex.ok_or_else(|| {
                    Failure::bad_request(format!("bad percent encoding in {text:?}"))
                })?);
                i += 2;
            }
            b'+' if plus_is_space => out.push(b' '),
            byte => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8(out).map_err(|_| Failure::bad_request(format!("{text:?} is no UTF-8")))
}

/// A number in a parameter.
pub(crate) fn number(name: &str, text: Option<&str>) -> Result<Option<u64>, Failure> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => {
            let bad =
                |_| Failure::bad_request(format!("{name}: invalid value {text:?}: not a number"));
            text.parse().map(Some).map_err(bad)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_unknown_parameters_ignored() {
        let q =
            Query::parse("timeout=32s&labelSelector=a%3Db%2Cc+in+(d)&limit=500").expect("parses");
        assert_eq!(q.label_selector.as_deref(), Some("a=b,c in (d)"));
        assert_eq!(q.limit.as_deref(), Some("500"));
        assert!(Query::parse("labelSelector=%zz").is_err());
    }
}
