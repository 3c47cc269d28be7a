//! Calls of the Query API: signed, at a pace that the cloud allows, with errors that
//! have a meaning.
//!
//! Every call that we make may be repeated: what makes something names it by a token or a tag.

use super::{
    credentials::{self, Keys, Source},
    error,
    memory::Memory,
    sign::{Request as ToSign, Scope, escaped, sign},
};
use crate::{Error, Result, https};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::Full;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// How often a throttled call is repeated before its caller is told.
const ATTEMPTS: u32 = 4;

/// An action with its parameters.
#[derive(Debug, Clone)]
pub struct Form {
    action: &'static str,
    fields: Vec<(String, String)>,
}

impl Form {
    /// The action without parameters.
    pub fn new(action: &'static str) -> Self {
        Self {
            action,
            fields: vec![],
        }
    }

    /// With one parameter.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// With a parameter where there is one.
    pub fn maybe(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// With a list: `Name.1=…&Name.2=…`.
    pub fn list<S: AsRef<str>>(mut self, name: &str, values: impl IntoIterator<Item = S>) -> Self {
        for (i, value) in values.into_iter().enumerate() {
            self = self.with(&format!("{name}.{}", i + 1), value.as_ref());
        }
        self
    }

    /// With the filter number `n` (from 1).
    pub fn filter(self, n: usize, name: &str, value: &str) -> Self {
        self.with(&format!("Filter.{n}.Name"), name)
            .with(&format!("Filter.{n}.Value.1"), value)
    }

    /// With tags for what is made, number `n` (from 1) of its kinds.
    pub fn tags<'a>(
        mut self,
        n: usize,
        kind: &str,
        tags: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        let prefix = format!("TagSpecification.{n}");
        self = self.with(&format!("{prefix}.ResourceType"), kind);
        for (i, (key, value)) in tags.into_iter().enumerate() {
            let tag = format!("{prefix}.Tag.{}", i + 1);
            self = self
                .with(&format!("{tag}.Key"), key)
                .with(&format!("{tag}.Value"), value);
        }
        self
    }

    fn body(&self) -> String {
        let mut body = format!("Action={}&Version=2016-11-15", self.action);
        for (name, value) in &self.fields {
            body += &format!("&{}={}", escaped(name), escaped(value));
        }
        body
    }
}

/// The API of one region, as one account sees it.
#[derive(Clone)]
pub struct Client {
    /// The Cloud's name, for messages.
    pub cloud: String,
    /// The region.
    pub region: String,
    /// URL where the cloud is not Amazon's.
    pub endpoint: Option<String>,
    /// Whose credentials.
    pub source: Source,
    /// What is kept between calls.
    pub memory: Arc<Memory>,
}

/// One exchange.
struct Exchange<'a> {
    service: &'a str,
    region: &'a str,
    url: String,
    headers: Vec<(&'static str, &'a str)>,
    body: String,
    action: &'a str,
}

impl Client {
    /// Calls an action of EC2.
    pub async fn call<T: DeserializeOwned>(&self, form: &Form) -> Result<T> {
        let exchange = || Exchange {
            service: "ec2",
            region: &self.region,
            url: self.url("ec2", &self.region),
            headers: vec![(
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8",
            )],
            body: form.body(),
            action: form.action,
        };
        let body = self.paced(exchange).await?;
        quick_xml::de::from_str(&body).map_err(|e| {
            Error::Transient(format!(
                "Cloud {}: {}: the answer is not understood: {e}",
                self.cloud, form.action
            ))
        })
    }

    /// Asks the price list.
    pub async fn products(&self, query: &serde_json::Value) -> Result<serde_json::Value> {
        // The price list of all regions is served in few.
        let region = "us-east-1";
        let exchange = || Exchange {
            service: "pricing",
            region,
            url: self.url("api.pricing", region),
            headers: vec![
                ("content-type", "application/x-amz-json-1.1"),
                ("x-amz-target", "AWSPriceListService.GetProducts"),
            ],
            body: query.to_string(),
            action: "GetProducts",
        };
        let body = self.paced(exchange).await?;
        serde_json::from_str(&body).map_err(|e| {
            Error::Transient(format!("GetProducts: the answer is not understood: {e}"))
        })
    }

    fn url(&self, service: &str, region: &str) -> String {
        if let Some(endpoint) = &self.endpoint {
            return format!("{}/", endpoint.trim_end_matches('/'));
        }
        let domain = if region.starts_with("cn-") {
            "amazonaws.com.cn"
        } else {
            "amazonaws.com"
        };
        format!("https://{service}.{region}.{domain}/")
    }

    /// One after the other, later where the cloud asks for it: all callers share its patience.
    async fn paced<'a>(&self, exchange: impl Fn() -> Exchange<'a>) -> Result<String> {
        let _turn = self.memory.turn().await?;
        let mut attempt = 0;
        loop {
            self.memory.pace.wait().await?;
            match self.exchange(exchange()).await {
                Err(Error::Throttled(said)) => {
                    self.memory.pace.slower();
                    attempt += 1;
                    if attempt == ATTEMPTS {
                        return Err(Error::Throttled(format!("Cloud {}: {said}", self.cloud)));
                    }
                }
                answer => {
                    if answer.is_ok() {
                        self.memory.pace.faster();
                    }
                    return answer;
                }
            }
        }
    }

    async fn keys(&self) -> Result<Keys> {
        if let Source::Fixed { keys, .. } = &self.source {
            return Ok(keys.clone());
        }
        let mut role = self.memory.role.lock().await;
        if let Some(lent) = role.as_ref().filter(|lent| lent.is_good()) {
            return Ok(lent.keys.clone());
        }
        let base = std::env::var("AWS_EC2_METADATA_SERVICE_ENDPOINT")
            .unwrap_or_else(|_| "http://169.254.169.254".into());
        let lent = credentials::from_role(base.trim_end_matches('/')).await?;
        let keys = lent.keys.clone();
        *role = Some(lent);
        Ok(keys)
    }

    async fn exchange(&self, exchange: Exchange<'_>) -> Result<String> {
        let action = exchange.action;
        let keys = self.keys().await?;
        let wrong = |e: &dyn std::fmt::Display| {
            Error::Refused(format!(
                "Cloud {}: {} is no usable URL: {e}",
                self.cloud, exchange.url
            ))
        };
        let uri: Uri = exchange.url.parse().map_err(|e| wrong(&e))?;
        let host = uri.authority().map(|a| a.to_string()).unwrap_or_default();
        let to_sign = ToSign {
            host: &host,
            method: "POST",
            headers: exchange.headers.clone(),
            body: exchange.body.as_bytes(),
        };
        let scope = Scope {
            region: exchange.region,
            service: exchange.service,
            now: Timestamp::now(),
        };
        let mut request = Request::post(uri);
        for (name, value) in &exchange.headers {
            request = request.header(*name, *value);
        }
        for (name, value) in sign(&to_sign, &scope, &keys) {
            let mut value = http::HeaderValue::from_str(&value).map_err(|e| wrong(&e))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(exchange.body)))
            .map_err(|e| wrong(&e))?;
        let unreachable = |why: String| {
            Error::Transient(format!(
                "Cloud {}: {action}: {} does not answer ({why}); is spec.region right, and the way there open?",
                self.cloud, exchange.url
            ))
        };
        let https = self.memory.http().map_err(&unreachable)?;
        let (status, headers, body) = https::exchange(https, request).await.map_err(unreachable)?;
        self.judge(action, status, &headers, body)
    }

    fn judge(
        &self,
        action: &str,
        status: StatusCode,
        headers: &HeaderMap,
        body: String,
    ) -> Result<String> {
        let said = error::read(&body).or_else(|| error::read_json(status, headers, &body));
        let Some(said) = said else {
            return error::unreadable(status, &body, action).map_or(Ok(body), Err);
        };
        let mut meaning = error::meaning(&said, action, self.source.place());
        if let (Error::Denied(text), Some(seconds)) = (&mut meaning, clock_difference(headers)) {
            *text += &format!(
                " (this machine's clock and the cloud's differ by {seconds} s: set the clock)"
            );
        }
        Err(meaning)
    }
}

/// By how much the clocks differ, where it is too much for a signature.
fn clock_difference(headers: &HeaderMap) -> Option<i64> {
    let date = headers.get("date")?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let seconds = Timestamp::now().as_second() - theirs.as_second();
    (seconds.abs() > 240).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_written_as_the_query_api_reads_it() {
        let tags = std::collections::BTreeMap::from([("a/b".to_owned(), "c d".to_owned())]);
        let form = Form::new("RunInstances")
            .list("SecurityGroupId", ["sg-1", "sg-2"])
            .filter(1, "tag:x", "y")
            .tags(1, "instance", &tags)
            .maybe("KeyName", None::<&str>);
        assert_eq!(
            form.body(),
            "Action=RunInstances&Version=2016-11-15&SecurityGroupId.1=sg-1&SecurityGroupId.2=sg-2\
             &Filter.1.Name=tag%3Ax&Filter.1.Value.1=y&TagSpecification.1.ResourceType=instance\
             &TagSpecification.1.Tag.1.Key=a%2Fb&TagSpecification.1.Tag.1.Value=c%20d"
        );
    }
}
