//! Sessions: `exec`, `console`, `logs` and `cp` for containers of this host.
//!
//! The agent keeps one request open on which the API server offers sessions, and dials
//! back for each (see the API server's module of the same name). Every session is one
//! process here, whose streams are the channels.

mod process;

use crate::container::paths::Paths;
use crate::container::record::Id;
use futures::{AsyncBufReadExt, TryStreamExt};
use http::Request;
use process::Line;
use skysail_reconcile::CancellationToken;
use skysail_schemas::session::Offer;
use std::time::Duration;

/// Longer silence than this on the open request means that the server is gone: it writes every 5 s.
const SILENCE: Duration = Duration::from_secs(20);
/// Between two tries to reach the server.
const AGAIN: Duration = Duration::from_secs(1);

/// Serves sessions until `shutdown`.
pub async fn run(client: kube::Client, host: String, paths: Paths, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let served = tokio::select! {
            () = shutdown.cancelled() => return,
            served = listen(&client, &host, &paths) => served,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "no sessions for now");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Takes offers from one request until it ends.
async fn listen(client: &kube::Client, host: &str, paths: &Paths) -> Result<(), String> {
    let path = format!("/apis/skysail.dev/v1alpha1/hosts/{host}/sessions");
    let request = Request::get(&path)
        .body(vec![])
        .map_err(|e| e.to_string())?;
    let mut lines = client
        .request_stream(request)
        .await
        .map_err(|e| e.to_string())?
        .lines();
    loop {
        let line = tokio::time::timeout(SILENCE, lines.try_next())
            .await
            .map_err(|_| "the server is silent".to_owned())?;
        let Some(line) = line.map_err(|e| e.to_string())? else {
            return Ok(());
        };
        if line.trim().is_empty() {
            continue;
        }
        let offer: Offer = serde_json::from_str(&line)
            .map_err(|e| format!("an offer that cannot be read: {e}"))?;
        let (client, path, line) = (
            client.clone(),
            format!("{path}/{}", offer.id),
            line_of(&offer, paths),
        );
        tokio::spawn(async move {
            if let Err(error) = serve(&client, &path, line).await {
                tracing::warn!(container = format!("{}/{}", offer.namespace, offer.container), action = offer.action, %error, "session failed");
            }
        });
    }
}

async fn serve(client: &kube::Client, path: &str, line: Line) -> Result<(), String> {
    let request = Request::get(path).body(vec![]).map_err(|e| e.to_string())?;
    let socket = client
        .connect(request)
        .await
        .map_err(|e| e.to_string())?
        .into_stream();
    process::run(line, socket).await
}

/// The process that serves an offer.
fn line_of(offer: &Offer, paths: &Paths) -> Line {
    let id = Id {
        namespace: offer.namespace.clone(),
        name: offer.container.clone(),
    };
    let query = Query::parse(&offer.query);
    let inside = |command: Vec<String>| -> Vec<String> {
        let (containers, name) = (
            paths.containers().to_string_lossy().into_owned(),
            id.to_string(),
        );
        let attach = ["lxc-attach", "-P", &containers, "-n", &name, "--clear-env"];
        let environment = [
            "-v",
            "TERM=xterm-256color",
            "-v",
            "HOME=/root",
            "-v",
            "LANG=C.UTF-8",
        ];
        let path = [
            "-v",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "--",
        ];
        attach
            .iter()
            .chain(&environment)
            .chain(&path)
            .map(|s| (*s).to_owned())
            .chain(command)
            .collect()
    };
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let target = query.first("path").unwrap_or("/").to_owned();
    match (offer.action.as_str(), query.first("into")) {
        ("log", _) => {
            let file = paths.console_log(&id).to_string_lossy().into_owned();
            let from = query
                .first("tailLines")
                .map_or_else(|| "+1".to_owned(), str::to_owned);
            let mut command = words(&["tail", "-n", &from]);
            if query.is_true("follow") {
                command.push("-F".into());
            }
            command.push(file);
            Line {
                command,
                tty: false,
            }
        }
        ("files", Some(_)) => Line {
            command: inside(words(&["tar", "-x", "-f", "-", "-C", &target])),
            tty: false,
        },
        ("files", None) => {
            let target = target.trim_end_matches('/');
            let (folder, name) = target.rsplit_once('/').unwrap_or(("", target));
            let (folder, name) = (
                if folder.is_empty() { "/" } else { folder },
                if name.is_empty() { "." } else { name },
            );
            Line {
                command: inside(words(&["tar", "-c", "-f", "-", "-C", folder, "--", name])),
                tty: false,
            }
        }
        ("console", _) => Line {
            command: inside(words(&[
                "/bin/sh",
                "-c",
                "exec $(command -v bash || echo /bin/sh) -l",
            ])),
            tty: true,
        },
        _ => Line {
            command: inside(query.all("command")),
            tty: query.is_true("tty"),
        },
    }
}

/// A URL's query.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let decode = |text: &str| {
            let mut out = Vec::with_capacity(text.len());
            let mut bytes = text.bytes();
            while let Some(byte) = bytes.next() {
                match byte {
                    b'+' => out.push(b' '),
                    b'%' => {
                        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                        let (high, low) = (digit(bytes.next()), digit(bytes.next()));
                        out.extend(
                            high.zip(low)
                                .and_then(|(h, l)| u8::try_from(h * 16 + l).ok()),
                        );
                    }
                    byte => out.push(byte),
                }
            }
            String::from_utf8_lossy(&out).into_owned()
        };
        let pair = |part: &str| part.split_once('=').map(|(k, v)| (decode(k), decode(v)));
        Self(text.split('&').filter_map(pair).collect())
    }
    fn first(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }
    fn all(&self, key: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(k, _)| k == key)
            .map(|(_, v)| v.clone())
            .collect()
    }
    fn is_true(&self, key: &str) -> bool {
        matches!(self.first(key), Some("true" | "1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(action: &str, query: &str) -> String {
        let offer = Offer {
            id: "1".into(),
            namespace: "acme".into(),
            container: "db".into(),
            action: action.into(),
            query: query.into(),
        };
        line_of(&offer, &Paths::new("/d")).command.join(" ")
    }

    #[test]
    fn a_command_arrives_word_for_word() {
        let text = line(
            "exec",
            "command=sh&command=-c&command=echo+%22a%20%26%22&stdin=true",
        );
        assert!(
            text.starts_with("lxc-attach -P /d/containers -n acme.db --clear-env"),
            "{text}"
        );
        assert!(text.ends_with("-- sh -c echo \"a &\""), "{text}");
    }

    #[test]
    fn files_are_packed_by_their_own_name() {
        assert!(line("files", "path=/etc/hosts").ends_with("tar -c -f - -C /etc -- hosts"));
        assert!(
            line("files", "path=etc").ends_with("tar -c -f - -C / -- etc"),
            "a relative path is not the whole root"
        );
        assert!(line("files", "path=/").ends_with("tar -c -f - -C / -- ."));
        assert!(line("files", "path=/srv&into=true").ends_with("tar -x -f - -C /srv"));
    }
}
