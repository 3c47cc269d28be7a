//! What EC2's answers mean: from a code to the reaction.

use crate::Error;
use http::StatusCode;
use serde::Deserialize;

/// An error as EC2 says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// The code, for example `InsufficientInstanceCapacity`; empty where the answer has none.
    pub code: String,
    /// The sentence.
    pub message: String,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Errors", default)]
    errors: Errors,
}

#[derive(Deserialize, Default)]
struct Errors {
    #[serde(rename = "Error", default)]
    all: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

/// The error in an answer, whatever its status: some services say 200 and mean an error.
pub fn read(body: &str) -> Option<Said> {
    if !body.contains("<Error") {
        return None;
    }
    let document: Document = quick_xml::de::from_str(body).ok()?;
    let entry = document.errors.all.into_iter().next()?;
    Some(Said {
        code: entry.code,
        message: short(&entry.message),
    })
}

/// The error in an answer of a JSON service.
pub fn read_json(status: StatusCode, headers: &http::HeaderMap, body: &str) -> Option<Said> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "__type", default)]
        kind: String,
        #[serde(alias = "Message", default)]
        message: String,
    }
    let json = headers.get("content-type")?.to_str().ok()?.contains("json");
    if status.is_success() || !json {
        return None;
    }
    let document: Document = serde_json::from_str(body).ok()?;
    let code = document.kind.rsplit('#').next().unwrap_or_default();
    Some(Said {
        code: code.to_owned(),
        message: short(&document.message),
    })
}

/// A sentence of a length that fits a condition.
pub fn short(text: &str) -> String {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &flat[..end]),
        None => flat,
    }
}

/// The reaction. `action` and `place` (whose credentials) make the message complete.
pub fn meaning(said: &Said, action: &str, place: &str) -> Error {
    let Said { code, message } = said;
    let text = format!("{action}: {code}: {message}");
    match code.as_str() {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            Error::Denied(format!(
                "the credentials of {place} lack the permission ec2:{action}; add it to their policy ({message})"
            ))
        }
        "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "OptInRequired"
        | "Blocked"
        | "PendingVerification"
        | "InvalidAccessKeyId" => Error::Denied(format!(
            "the credentials of {place} are refused: {code}: {message}"
        )),
        "RequestExpired" | "ExpiredToken" | "ExpiredTokenException" => Error::Denied(format!(
            "the credentials of {place} have ended, or this machine's clock is wrong: {code}: {message}"
        )),
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "RequestThrottled"
        | "EC2ThrottledException" => Error::Throttled(text),
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "SpotMaxPriceTooLow"
        | "Unsupported"
        | "InsufficientFreeAddressesInSubnet"
        | "InsufficientAddressCapacity"
        | "UnfulfillableCapacity"
        | "Server.InsufficientInstanceCapacity" => Error::NoCapacity(text),
        "VcpuLimitExceeded"
        | "InstanceLimitExceeded"
        | "MaxSpotInstanceCountExceeded"
        | "AddressLimitExceeded"
        | "VolumeLimitExceeded"
        | "SecurityGroupLimitExceeded"
        | "ResourceLimitExceeded"
        | "InstanceCreditSpecification.NotSupported"
        | "PrivateIpAddressLimitExceeded"
        | "KeyPairLimitExceeded" => {
            Error::Quota(format!("{text}; ask the cloud for more, or delete Hosts"))
        }
        "InternalError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "Unavailable"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "DependencyViolation"
        | "IncorrectInstanceState"
        | "IncorrectState"
        | "InvalidAMIID.Unavailable"
        | "ConcurrentTagAccess" => Error::Transient(text),
        "InvalidAMIID.NotFound" => {
            Error::Refused(format!("{text}; see spec.ec2.image of the Cloud"))
        }
        "InvalidSubnetID.NotFound" => {
            Error::Refused(format!("{text}; see spec.ec2.subnet of the Cloud"))
        }
        other if other.ends_with(".NotFound") => Error::NotFound(text),
        _ => Error::Refused(text),
    }
}

/// What an answer without an error that can be read means, or `None` where it is fine.
pub fn unreadable(status: StatusCode, body: &str, action: &str) -> Option<Error> {
    let start = short(body.get(..200).unwrap_or(body));
    let html = body.trim_start().to_ascii_lowercase();
    if html.starts_with("<!doctype") || html.starts_with("<html") {
        return Some(Error::Transient(format!(
            "{action}: the endpoint answers {status} with a web page, not as EC2 does; is spec.ec2.endpoint right, and nothing in between? ({start})"
        )));
    }
    match status.as_u16() {
        200..=299 => None,
        429 => Some(Error::Throttled(format!("{action}: {status}"))),
        401 | 403 => Some(Error::Denied(format!("{action}: {status}: {start}"))),
        _ => Some(Error::Transient(format!("{action}: {status}: {start}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str) -> Error {
        let body = format!(
            "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code><Message>because</Message></Error></Errors><RequestID>r</RequestID></Response>"
        );
        meaning(&read(&body).unwrap(), "RunInstances", "Secret a/b")
    }

    #[test]
    fn each_code_has_its_reaction() {
        for (code, reason) in [
            ("UnauthorizedOperation", "Denied"),
            ("AuthFailure", "Denied"),
            ("RequestLimitExceeded", "Throttled"),
            ("InsufficientInstanceCapacity", "NoCapacity"),
            ("VcpuLimitExceeded", "QuotaExceeded"),
            ("AddressLimitExceeded", "QuotaExceeded"),
            ("InvalidInstanceID.NotFound", "NotFound"),
            ("InternalError", "Unavailable"),
            ("InvalidParameterValue", "Refused"),
            ("InvalidAMIID.Malformed", "Refused"),
        ] {
            assert_eq!(of(code).reason(), reason, "{code}");
        }
        assert!(
            of("UnauthorizedOperation")
                .to_string()
                .contains("ec2:RunInstances")
        );
    }

    #[test]
    fn an_error_with_status_200_is_an_error_and_a_web_page_is_no_answer() {
        assert!(read("<RunInstancesResponse><instancesSet/></RunInstancesResponse>").is_none());
        let page = unreadable(
            StatusCode::OK,
            "<!DOCTYPE html><p>Log in</p>",
            "RunInstances",
        );
        assert!(page.unwrap().to_string().contains("spec.ec2.endpoint"));
        assert_eq!(unreadable(StatusCode::OK, "<a/>", "RunInstances"), None);
        let busy = unreadable(StatusCode::BAD_GATEWAY, "oops", "RunInstances");
        assert_eq!(busy.unwrap().reason(), "Unavailable");
    }
}
