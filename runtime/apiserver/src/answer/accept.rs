//! Content negotiation: in which form an answer is wanted.

use crate::answer::Failure;
use http::{HeaderMap, header};

/// The form of an object or list in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As stored.
    Plain,
    /// `as=Table`.
    Table,
    /// `as=PartialObjectMetadata` or its list.
    Partial,
}

/// The first form in `Accept` that we can give. 406 if there is none.
pub(crate) fn form(headers: &HeaderMap) -> Result<Form, Failure> {
    let Some(accept) = text(headers) else {
        return Ok(Form::Plain);
    };
    accept.split(',').find_map(one).ok_or_else(not_acceptable)
}

fn text(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .filter(|a| !a.trim().is_empty())
}

fn one(range: &str) -> Option<Form> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    if !matches!(media, "application/json" | "*/*" | "application/*") {
        return None;
    }
    let (mut as_, mut version, mut group) = (None, None, None);
    for part in parts {
        match part.split_once('=') {
            Some(("as", v)) => as_ = Some(v),
            Some(("v", v)) => version = Some(v),
            Some(("g", v)) => group = Some(v),
            _ => {}
        }
    }
    match as_ {
        None => Some(Form::Plain),
        Some("Table") if is_v1(version, group) => Some(Form::Table),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") if is_v1(version, group) => {
            Some(Form::Partial)
        }
        Some(_) => None,
    }
}

fn is_v1(version: Option<&str>, group: Option<&str>) -> bool {
    version == Some("v1") && group == Some("meta.k8s.io")
}

/// Whether JSON or YAML-free text can be given at all.
pub(crate) fn not_acceptable() -> Failure {
    Failure::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io",
    )
}

/// The first media type of `offered` that `Accept` lists, byte for byte apart from spaces.
pub(crate) fn first_of<'a>(headers: &HeaderMap, offered: &[&'a str]) -> Option<&'a str> {
    text(headers)?.split(',').find_map(|range| {
        let range: String = range.chars().filter(|c| !c.is_whitespace()).collect();
        offered.iter().find(|o| **o == range).copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Result<Form, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().expect("a header"));
        form(&headers)
    }

    #[test]
    fn the_first_supported_form_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(of(table), Ok(Form::Table));
        assert_eq!(
            of("application/json;as=Table;g=meta.k8s.io;v=v1beta1,application/json"),
            Ok(Form::Plain)
        );
        assert_eq!(
            of("application/vnd.kubernetes.protobuf,application/json"),
            Ok(Form::Plain)
        );
        assert_eq!(of("text/html").expect_err("refused").code, 406);
        assert_eq!(of("*/*"), Ok(Form::Plain));
    }
}
