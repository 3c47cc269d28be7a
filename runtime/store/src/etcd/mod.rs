//! The store in etcd v3, for several API servers over one state.
//!
//! Keys are used as they are, a revision is etcd's `mod_revision`, so `etcdctl`
//! shows the same history. One gRPC connection serves the requests, one more each
//! watch: an unread watch fills its connection's flow-control window and would
//! otherwise hold up everybody else.
//!
//! Marks of progress below a quiet prefix come from etcd. From 3.4.31 and 3.5.13 on
//! it is asked for them; what older ones answer may overtake changes, so there they
//! come as often as `--experimental-watch-progress-notify-interval` says (`5s` is a
//! good value; the default is ten minutes).

mod watch;

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, GetResponse, Identity,
    KeyValue, KvClient, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use futures::stream::{BoxStream, StreamExt};

use crate::{Entry, Error, Event, MAX_VALUE, Page, Revision, Store};

/// Keys asked for in one request.
const PAGE: usize = 500;
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// etcd answers pings that come more often than each 5 s by closing the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How to reach etcd.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `http://host:port` or `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// User and password, where etcd's own authentication is on.
    pub user: Option<(String, String)>,
    /// For `https://` endpoints.
    pub tls: Option<Tls>,
}

/// Certificates, all PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Of the authority that signed etcd's.
    pub ca: Vec<u8>,
    /// Certificate and key to show, where etcd asks for them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Without the key.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// The store in etcd.
pub struct Etcd {
    options: Options,
    kv: KvClient,
    /// etcd's answer to a request for progress is in order with the changes.
    progress_on_request: bool,
}

impl Etcd {
    /// Connects and asks for the version. Fails with [`Error::Unavailable`] when no member answers.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let mut client = connect(&options).await?;
        let status = client
            .status()
            .await
            .map_err(|e| unreachable(&options, &e))?;
        let progress_on_request = orders_progress(status.version());
        let kv = client.kv_client().max_decoding_message_size(usize::MAX);
        Ok(Self {
            options,
            kv,
            progress_on_request,
        })
    }

    /// Makes one conditional write; `Err(None)` means that the condition did not hold and the key is absent.
    async fn write(
        &self,
        key: &str,
        condition: Compare,
        write: TxnOp,
    ) -> Result<Result<Revision, Option<Entry>>, Error> {
        let txn = Txn::new()
            .when([condition])
            .and_then([write])
            .or_else([TxnOp::get(key, None)]);
        let answer = self.kv.clone().txn(txn).await.map_err(|e| failed(&e))?;
        if answer.succeeded() {
            return Ok(Ok(revision(answer.header())));
        }
        match answer.op_responses().pop() {
            Some(TxnOpResponse::Get(mut found)) => {
                Ok(Err(found.take_kvs().pop().map(entry).transpose()?))
            }
            _ => Err(Error::Unavailable(
                "etcd answered a transaction without a result".into(),
            )),
        }
    }

    async fn list_range(
        &self,
        mut start: Vec<u8>,
        end: &[u8],
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let mut page = Page {
            entries: Vec::new(),
            revision: at.unwrap_or(0),
            remaining: 0,
        };
        let mut at = at;
        loop {
            let want = PAGE.min(if limit == 0 {
                PAGE
            } else {
                limit - page.entries.len()
            });
            let options = GetOptions::new()
                .with_range(end)
                .with_limit(number(want as u64));
            let mut found = read(&self.kv, start, options, at).await?;
            if at.is_none() {
                page.revision = revision(found.header());
                at = Some(page.revision);
            }
            let count = u64::try_from(found.count()).unwrap_or(0);
            let entries = found
                .take_kvs()
                .into_iter()
                .map(entry)
                .collect::<Result<Vec<_>, _>>()?;
            page.remaining = count.saturating_sub(entries.len() as u64);
            page.entries.extend(entries);
            match page.entries.last() {
                Some(last) if page.remaining > 0 && (limit == 0 || page.entries.len() < limit) => {
                    start = next_key(&last.key)
                }
                _ => return Ok(page),
            }
        }
    }
}

async fn connect(options: &Options) -> Result<Client, Error> {
    let mut settings = ConnectOptions::new()
        .with_connect_timeout(TIMEOUT)
        .with_timeout(TIMEOUT)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE / 2)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Some((user, password)) = &options.user {
        settings = settings.with_user(user, password);
    }
    if let Some(tls) = &options.tls {
        let mut certificates =
            TlsOptions::new().ca_certificate(Certificate::from_pem(tls.ca.clone()));
        if let Some((certificate, key)) = &tls.identity {
            certificates = certificates.identity(Identity::from_pem(certificate, key));
        }
        settings = settings.with_tls(certificates);
    }
    Client::connect(&options.endpoints, Some(settings))
        .await
        .map_err(|e| unreachable(options, &e))
}

fn unreachable(options: &Options, error: &etcd_client::Error) -> Error {
    Error::Unavailable(format!(
        "etcd at {} does not answer: {error}; check that it runs and that the address is right",
        options.endpoints.join(", ")
    ))
}

/// Are answers to progress requests in order with changes (etcd issues 15220 and 17557)?
fn orders_progress(version: &str) -> bool {
    let mut numbers = version
        .split(['.', '-', '+'])
        .map_while(|part| part.parse::<u32>().ok());
    let (major, minor, patch) = (numbers.next(), numbers.next(), numbers.next());
    match (major, minor, patch) {
        (Some(3), Some(4), Some(patch)) => patch >= 31,
        (Some(3), Some(5), Some(patch)) => patch >= 13,
        (Some(major), Some(minor), _) => (major, minor) > (3, 5),
        _ => false,
    }
}

/// Reads a range at a revision. Asks again once: the first request after a broken connection only finds that out.
async fn read(
    kv: &KvClient,
    start: Vec<u8>,
    options: GetOptions,
    at: Option<Revision>,
) -> Result<GetResponse, Error> {
    // etcd's first revision is 1, an empty store; its 0 means "latest".
    let options = options.with_revision(at.map_or(0, |at| number(at.max(1))));
    let mut kv = kv.clone();
    let mut answer = kv
        .get(start.clone(), Some(options.clone()))
        .await
        .map_err(|e| failed(&e));
    if matches!(answer, Err(Error::Unavailable(_))) {
        answer = kv.get(start, Some(options)).await.map_err(|e| failed(&e));
    }
    match (answer, at) {
        (Err(Error::Compacted(_)), Some(at)) => Err(Error::Compacted(at + 1)),
        (Err(Error::Future { .. }), Some(asked)) => Err(Error::Future {
            asked,
            current: current(&mut kv).await?,
        }),
        (answer, _) => answer,
    }
}

/// Can `at` be read, and watched from?
async fn check(kv: &KvClient, at: Revision) -> Result<(), Error> {
    read(
        kv,
        b"/".to_vec(),
        GetOptions::new().with_count_only(),
        Some(at),
    )
    .await
    .map(drop)
}

/// The latest revision, by a linearizable read.
async fn current(kv: &mut KvClient) -> Result<Revision, Error> {
    let answer = kv
        .get("/", Some(GetOptions::new().with_count_only()))
        .await
        .map_err(|e| failed(&e))?;
    Ok(revision(answer.header()))
}

/// Revisions that etcd does not tell are left 0 for the caller to fill in.
fn failed(error: &etcd_client::Error) -> Error {
    let text = error.to_string();
    if text.contains("required revision has been compacted") {
        Error::Compacted(0)
    } else if text.contains("required revision is a future revision") {
        Error::Future {
            asked: 0,
            current: 0,
        }
    } else {
        Error::Unavailable(format!("etcd: {text}"))
    }
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(0, |header| positive(header.revision()))
}

fn positive(number: i64) -> Revision {
    Revision::try_from(number).unwrap_or(0)
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn entry(found: KeyValue) -> Result<Entry, Error> {
    let (created, modified) = (
        positive(found.create_revision()),
        positive(found.mod_revision()),
    );
    let (key, value) = found.into_key_value();
    let key = String::from_utf8(key).map_err(|e| {
        Error::Unavailable(format!(
            "etcd holds a key that is not UTF-8 ({e}); remove it"
        ))
    })?;
    Ok(Entry {
        key,
        value: Bytes::from(value),
        created,
        modified,
    })
}

/// The first key after `key`.
fn next_key(key: &str) -> Vec<u8> {
    [key.as_bytes(), b"\0"].concat()
}

/// Where a listing begins and, exclusively, ends. An end of `\0` means "no end".
fn range(prefix: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
    let start = match after {
        Some(after) if after >= prefix => next_key(after),
        // etcd refuses an empty key.
        _ if prefix.is_empty() => vec![0],
        _ => prefix.as_bytes().to_vec(),
    };
    let mut end = prefix.as_bytes().to_vec();
    // UTF-8 has no byte 0xff, so the last byte can always be raised.
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    (start, end)
}

fn check_size(value: &Bytes) -> Result<(), Error> {
    if value.len() > MAX_VALUE {
        Err(Error::TooLarge(value.len()))
    } else {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<Revision, Error> {
        let answer = read(
            &self.kv,
            b"/".to_vec(),
            GetOptions::new().with_count_only(),
            None,
        )
        .await?;
        Ok(revision(answer.header()))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let mut found = read(&self.kv, key.as_bytes().to_vec(), GetOptions::new(), None).await?;
        found.take_kvs().pop().map(entry).transpose()
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let (start, end) = range(prefix, after);
        match self.list_range(start.clone(), &end, limit, at).await {
            // Compacted between two of its own requests: the latest is as good as the one it began with.
            Err(Error::Compacted(_)) if at.is_none() => {
                self.list_range(start, &end, limit, at).await
            }
            other => other,
        }
    }

    async fn create(&self, key: &str, value: Bytes) -> Result<Revision, Error> {
        check_size(&value)?;
        let absent = Compare::create_revision(key, CompareOp::Equal, 0);
        match self
            .write(key, absent, TxnOp::put(key, value, None))
            .await?
        {
            Ok(revision) => Ok(revision),
            Err(Some(current)) => Err(Error::Exists {
                key: key.to_owned(),
                current,
            }),
            Err(None) => Err(Error::Unavailable(format!(
                "etcd neither found nor made key {key}"
            ))),
        }
    }

    async fn update(&self, key: &str, value: Bytes, expected: Revision) -> Result<Revision, Error> {
        check_size(&value)?;
        let unchanged = unchanged(key, expected);
        let written = self
            .write(key, unchanged, TxnOp::put(key, value, None))
            .await?;
        written.map_err(|current| Error::Conflict {
            key: key.to_owned(),
            current,
        })
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision, Error> {
        let written = self
            .write(key, unchanged(key, expected), TxnOp::delete(key, None))
            .await?;
        written.map_err(|current| Error::Conflict {
            key: key.to_owned(),
            current,
        })
    }

    async fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> Result<BoxStream<'static, Result<Event, Error>>, Error> {
        let watch = watch::open(
            self.options.clone(),
            prefix.to_owned(),
            after,
            self.progress_on_request,
        )
        .await?;
        Ok(watch.boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        match self
            .kv
            .clone()
            .compact(number(revision), None)
            .await
            .map_err(|e| failed(&e))
        {
            Ok(_) | Err(Error::Compacted(_)) => Ok(()),
            Err(Error::Future { .. }) => Err(Error::Future {
                asked: revision,
                current: current(&mut self.kv.clone()).await?,
            }),
            Err(other) => Err(other),
        }
    }
}

/// An absent key has `mod_revision` 0 in etcd, which no caller means: 0 then never matches.
fn unchanged(key: &str, expected: Revision) -> Compare {
    let expected = if expected == 0 { -1 } else { number(expected) };
    Compare::mod_revision(key, CompareOp::Equal, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_covers_its_prefix_and_no_more() {
        assert_eq!(range("/a/", None), (b"/a/".to_vec(), b"/a0".to_vec()));
        assert_eq!(
            range("/a/", Some("/a/b")),
            (b"/a/b\0".to_vec(), b"/a0".to_vec())
        );
        assert_eq!(
            range("/b/", Some("/a/b")),
            (b"/b/".to_vec(), b"/b0".to_vec())
        );
        assert_eq!(range("", None), (vec![0], vec![0]));
    }

    #[test]
    fn only_versions_with_ordered_progress_are_asked_for_it() {
        for (version, ordered) in [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.12", false),
            ("3.5.16", true),
            ("3.6.0", true),
            ("4.0.0-rc.1", true),
            ("?", false),
        ] {
            assert_eq!(orders_progress(version), ordered, "{version}");
        }
    }
}
