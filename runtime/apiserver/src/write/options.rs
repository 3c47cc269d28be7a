//! Options of a write, from its query.

use crate::answer::Failure;
use crate::patches::apply::Writer;
use crate::request::{Call, is_true};
use http::{HeaderMap, header};
use jiff::Timestamp;

/// What to do about fields that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// 400.
    Strict,
    /// Drop and say so.
    Warn,
    /// Drop.
    Ignore,
}

/// Options of a write, from its query.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub dry_run: bool,
    pub manager: String,
    pub unknown: Unknown,
    pub force: bool,
    /// Server-side apply keeps `managedFields` itself.
    pub applies: bool,
}

impl Options {
    pub(crate) fn of(call: &Call<'_>, headers: &HeaderMap) -> Result<Self, Failure> {
        let agent = headers
            .get(header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let agent = agent
            .split('/')
            .next()
            .filter(|a| !a.is_empty())
            .unwrap_or("unknown");
        let unknown = match call.query.field_validation.as_deref() {
            None | Some("" | "Warn") => Unknown::Warn,
            Some("Strict") => Unknown::Strict,
            Some("Ignore") => Unknown::Ignore,
            Some(other) => {
                return Err(Failure::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}"
                )));
            }
        };
        Ok(Self {
            dry_run: call.query.is_dry_run()?,
            manager: call
                .query
                .field_manager
                .clone()
                .filter(|m| !m.is_empty())
                .unwrap_or_else(|| agent.into()),
            unknown,
            force: is_true(call.query.force.as_deref()),
            applies: false,
        })
    }

    /// Who writes, for `managedFields`.
    pub(crate) fn writer<'a>(&'a self, api_version: &'a str, subresource: &'a str) -> Writer<'a> {
        Writer {
            manager: &self.manager,
            subresource,
            api_version,
            now: Timestamp::now(),
        }
    }
}
