//! Who asks: keys from a Secret, from the environment, or from the role of the instance
//! that this program runs on.
//!
//! Invariant: a secret key is in memory and in signatures only; what holds one prints as
//! `***`.

use crate::{Error, Result, open::Secret};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::{Timestamp, ToSpan};
use serde::Deserialize;
use std::{fmt, time::Duration};

/// An access key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Keys {
    /// Its public half.
    pub access_key_id: String,
    /// Its secret half.
    pub secret_access_key: String,
    /// What temporary keys come with.
    pub session_token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// They are known.
    Fixed {
        /// The keys.
        keys: Keys,
        /// Where they were found, for messages.
        place: String,
    },
    /// The instance's role, asked when needed.
    Role,
}

impl Source {
    /// The Secret where the Cloud names one, else the environment, else the instance's role.
    pub fn find(secret: Option<&Secret>) -> Result<Self> {
        if let Some(secret) = secret {
            return from_secret(secret);
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let pair = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
        Ok(match pair {
            Some((access_key_id, secret_access_key)) => Self::Fixed {
                keys: Keys {
                    access_key_id,
                    secret_access_key,
                    session_token: variable("AWS_SESSION_TOKEN"),
                },
                place: "the server's environment".into(),
            },
            None => Self::Role,
        })
    }

    /// For messages: whose credentials these are.
    pub fn place(&self) -> &str {
        match self {
            Self::Fixed { place, .. } => place,
            Self::Role => "the role of the server's instance",
        }
    }
}

fn from_secret(secret: &Secret) -> Result<Source> {
    let value = |key: &str| -> Result<String> {
        let wrong = |why: &str| Error::Denied(format!("{} {why}", secret.name));
        let bytes = secret.data.get(key).ok_or_else(|| {
            wrong(&format!(
                "has no key {key}; driver ec2 needs accessKeyId and secretAccessKey"
            ))
        })?;
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
        let printable = |b: u8| b.is_ascii_graphic();
        if text.is_empty() || !text.bytes().all(printable) {
            return Err(wrong(&format!(
                "has a key {key} that is empty or not plain text; write it again"
            )));
        }
        Ok(text.to_owned())
    };
    let session_token = match secret.data.contains_key("sessionToken") {
        true => Some(value("sessionToken")?),
        false => None,
    };
    Ok(Source::Fixed {
        keys: Keys {
            access_key_id: value("accessKeyId")?,
            secret_access_key: value("secretAccessKey")?,
            session_token,
        },
        place: secret.name.clone(),
    })
}

/// Temporary keys with their end.
#[derive(Debug, Clone)]
pub struct Lent {
    /// The keys.
    pub keys: Keys,
    /// When they end.
    until: Timestamp,
}

impl Lent {
    /// Whether they hold for a while yet.
    pub fn is_good(&self) -> bool {
        Timestamp::now() + 5.minutes() < self.until
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleAnswer {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: Timestamp,
}

/// Asks the instance metadata service (version 2) at `base`, normally `http://169.254.169.254`,
/// for the keys of the instance's role.
pub async fn from_role(base: &str) -> Result<Lent> {
    let token = metadata(
        Request::put(format!("{base}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", "300"),
    )
    .await?;
    let folder = format!("{base}/latest/meta-data/iam/security-credentials/");
    let header = "x-aws-ec2-metadata-token";
    let role = metadata(Request::get(&folder).header(header, &token)).await?;
    let role = role.lines().next().unwrap_or_default().trim().to_owned();
    let text = metadata(Request::get(folder + &role).header(header, &token)).await?;
    let answer: RoleAnswer =
        serde_json::from_str(&text).map_err(|_| none("the answer is not understood"))?;
    Ok(Lent {
        keys: Keys {
            access_key_id: answer.access_key_id,
            secret_access_key: answer.secret_access_key,
            session_token: Some(answer.token),
        },
        until: answer.expiration,
    })
}

fn none(why: &str) -> Error {
    Error::Denied(format!(
        "there are no credentials: spec.credentials names no Secret, AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY are not set for the server, and the instance metadata service lends none ({why})"
    ))
}

async fn metadata(request: http::request::Builder) -> Result<String> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(Duration::from_secs(1)));
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = request
        .body(Full::<Bytes>::default())
        .map_err(|e| none(&e.to_string()))?;
    let asked = async {
        let answer = client
            .request(request)
            .await
            .map_err(|_| none("it does not answer"))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), 64 << 10).collect().await;
        let body = body.map_err(|_| none("its answer broke off"))?.to_bytes();
        if !status.is_success() {
            return Err(none(&format!(
                "it answers {status}; has the instance a role?"
            )));
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(3), asked)
        .await
        .unwrap_or_else(|_| Err(none("it does not answer")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn secret(data: &[(&str, &str)]) -> Secret {
        Secret {
            name: "Secret skysail-system/aws".into(),
            data: data
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn a_secret_without_a_key_is_refused_by_the_keys_name_and_without_its_content() {
        let incomplete = secret(&[("accessKeyId", "AKIA")]);
        let said = Source::find(Some(&incomplete)).unwrap_err().to_string();
        assert!(said.contains("no key secretAccessKey"), "{said}");
        let broken = secret(&[("accessKeyId", "AKIA"), ("secretAccessKey", "hush\u{1}")]);
        let said = Source::find(Some(&broken)).unwrap_err().to_string();
        assert!(said.contains("secretAccessKey") && !said.contains("hush"));
    }

    #[test]
    fn keys_are_never_printed() {
        let whole = secret(&[("accessKeyId", "AKIA\n"), ("secretAccessKey", "hush")]);
        let source = Source::find(Some(&whole)).unwrap();
        assert!(!format!("{source:?} {whole:?}").contains("hush"));
        let Source::Fixed { keys, .. } = source else {
            panic!("not from the secret")
        };
        assert_eq!(keys.access_key_id, "AKIA", "a final line break is no part");
    }

    /// A metadata service that knows one role; it answers `requests` of them and tells what it was asked.
    async fn service(requests: usize) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let mut asked = vec![];
            for _ in 0..requests {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; 4096];
                let read = stream.read(&mut bytes).await.unwrap();
                let text = String::from_utf8_lossy(&bytes[..read]).to_lowercase();
                let body = match text.split_whitespace().nth(1).unwrap() {
                    "/latest/api/token" => "a-token".to_owned(),
                    path if path.ends_with("/security-credentials/") => "skysail\n".to_owned(),
                    _ => format!(
                        r#"{{"AccessKeyId": "ASIA", "SecretAccessKey": "hush", "Token": "t", "Expiration": "{}"}}"#,
                        Timestamp::now() + 1.hour()
                    ),
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                asked.push(text);
            }
            asked
        });
        (base, served)
    }

    #[tokio::test]
    async fn an_instances_role_lends_keys_to_who_has_a_token() {
        let (base, served) = service(3).await;
        let lent = from_role(&base).await.unwrap();
        assert!(lent.is_good());
        assert_eq!(lent.keys.access_key_id, "ASIA");
        assert_eq!(lent.keys.session_token.as_deref(), Some("t"));
        let asked = served.await.unwrap();
        assert!(asked[0].starts_with("put /latest/api/token"));
        assert!(asked[1].contains("x-aws-ec2-metadata-token: a-token"));
        assert!(asked[2].starts_with("get /latest/meta-data/iam/security-credentials/skysail "));
    }

    #[tokio::test]
    async fn without_any_credentials_the_three_ways_to_give_some_are_named() {
        let said = from_role("http://127.0.0.1:1").await.unwrap_err();
        assert_eq!(said.reason(), "Denied");
        let said = said.to_string();
        assert!(said.contains("spec.credentials") && said.contains("AWS_ACCESS_KEY_ID"));
    }
}
