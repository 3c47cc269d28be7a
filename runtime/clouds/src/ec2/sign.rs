//! AWS Signature Version 4, for POST requests whose whole body is known.

use super::credentials::Keys;
use jiff::{Timestamp, tz::TimeZone};
use ring::{digest, hmac};

/// What is signed.
pub struct Request<'a> {
    /// Host of the URL, with the port where it is not the scheme's own.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// Headers to be signed beside `host` and `x-amz-date`, in lower case.
    pub headers: Vec<(&'static str, &'a str)>,
    /// The body.
    pub body: &'a [u8],
}

/// Where and when the signature holds.
pub struct Scope<'a> {
    /// The region.
    pub region: &'a str,
    /// The service, for example `ec2`.
    pub service: &'a str,
    /// The time; the service allows five minutes of difference.
    pub now: Timestamp,
}

/// The headers that prove who asks; to be sent with the signed ones.
pub fn sign(request: &Request<'_>, scope: &Scope<'_>, keys: &Keys) -> Vec<(&'static str, String)> {
    let time = scope.now.to_zoned(TimeZone::UTC).datetime();
    let at = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &at[..8];
    let mut headers: Vec<(&str, &str)> = request.headers.clone();
    headers.extend([("host", request.host), ("x-amz-date", at.as_str())]);
    if let Some(token) = &keys.session_token {
        headers.push(("x-amz-security-token", token));
    }
    headers.sort_unstable();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    let canonical = format!(
        "{}\n/\n\n{lines}\n{names}\n{}",
        request.method,
        hash(request.body)
    );
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!(
        "AWS4-HMAC-SHA256\n{at}\n{place}\n{}",
        hash(canonical.as_bytes())
    );
    let signature = hex(&mac(&signing_key(keys, day, scope), &text));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{place}, SignedHeaders={names}, Signature={signature}",
        keys.access_key_id
    );
    let mut proof = vec![("x-amz-date", at), ("authorization", authorization)];
    proof.extend(
        keys.session_token
            .clone()
            .map(|token| ("x-amz-security-token", token)),
    );
    proof
}

fn signing_key(keys: &Keys, day: &str, scope: &Scope<'_>) -> Vec<u8> {
    let first = format!("AWS4{}", keys.secret_access_key).into_bytes();
    [day, scope.region, scope.service, "aws4_request"]
        .iter()
        .fold(first, |key, text| mac(&key, text))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `text` as it may stand in a form: everything but unreserved characters is escaped.
pub fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The credentials and the time of Amazon's published test suite.
    fn suite(token: Option<&str>) -> (Keys, Scope<'static>) {
        let keys = Keys {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session_token: token.map(str::to_owned),
        };
        let scope = Scope {
            region: "us-east-1",
            service: "service",
            now: "2015-08-30T12:36:00Z".parse().unwrap(),
        };
        (keys, scope)
    }

    fn signature(
        method: &str,
        headers: Vec<(&'static str, &str)>,
        body: &[u8],
        token: Option<&str>,
    ) -> String {
        let (keys, scope) = suite(token);
        let request = Request {
            host: "example.amazonaws.com",
            method,
            headers,
            body,
        };
        let proof = sign(&request, &scope, &keys);
        let authorization = &proof.iter().find(|(n, _)| *n == "authorization").unwrap().1;
        authorization
            .rsplit_once("Signature=")
            .unwrap()
            .1
            .to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_published_test_suite() {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let cases = [
            (
                "get-vanilla",
                signature("GET", vec![], b"", None),
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "post-vanilla",
                signature("POST", vec![], b"", None),
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                signature("POST", form.into(), b"Param1=value1", None),
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ];
        for (name, ours, theirs) in cases {
            assert_eq!(ours, theirs, "{name}");
        }
    }

    #[test]
    fn a_session_token_is_part_of_the_signature() {
        assert_ne!(
            signature("POST", vec![], b"", Some("t")),
            signature("POST", vec![], b"", Some("u"))
        );
    }

    #[test]
    fn every_reserved_character_is_escaped() {
        assert_eq!(escaped("a b+c/d=é~"), "a%20b%2Bc%2Fd%3D%C3%A9~");
    }
}
