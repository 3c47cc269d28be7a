//! Which process serves a session.

use super::network;
use crate::container::paths::Paths;
use crate::container::record::Id;
use skysail_schemas::session::{Offer, WINDOW_PARAMETER};

/// Unpacks a tar stream into the folder `$1`, beside what is there, and moves it to its place when all of it has come:
/// a copy that breaks off leaves nothing under a final name. A folder that is there already is merged with.
const INTO: &str = r#"
folder=$1
[ -d "$folder" ] || { echo "$folder: is no folder in the container" >&2; exit 1; }
new=$(mktemp -d "$folder/.skysail-cp.XXXXXX") || exit 1
trap 'rm -rf "$new"' EXIT
trap 'exit 1' HUP INT TERM
tar -x -f - -C "$new" || exit 1
for from in "$new"/* "$new"/.[!.]*; do
  [ -e "$from" ] || [ -L "$from" ] || continue
  to=$folder/${from##*/}
  if [ -d "$from" ] && [ ! -L "$from" ] && [ -d "$to" ]; then
    cp -a -l -f "$from" "$folder/" || exit 1
  else
    mv -f "$from" "$folder/" || exit 1
  fi
done
"#;

/// Packs `$2` of the folder `$1` into a tar stream.
const OUT: &str = r#"
path=${1%/}/$2
[ -e "$path" ] || [ -L "$path" ] || { echo "$path: there is no such file or folder in the container" >&2; exit 1; }
exec tar -c -f - -C "$1" -- "$2"
"#;

/// A program with its arguments, and how it is attached.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The words.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether the client wants to know how much of its input was taken.
    pub window: bool,
}

/// The process that serves an offer.
pub fn of(offer: &Offer, paths: &Paths) -> Line {
    let id = Id {
        namespace: offer.namespace.clone(),
        name: offer.container.clone(),
    };
    let query = Query::parse(&offer.query);
    let window = query.is_true(WINDOW_PARAMETER);
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
                window,
            }
        }
        ("files", Some(_)) => Line {
            command: inside(words(&["sh", "-c", INTO, "skysail-cp", &target])),
            tty: false,
            window,
        },
        ("files", None) => {
            let target = target.trim_end_matches('/');
            let (folder, name) = target.rsplit_once('/').unwrap_or(("", target));
            let (folder, name) = (
                if folder.is_empty() { "/" } else { folder },
                if name.is_empty() { "." } else { name },
            );
            Line {
                command: inside(words(&["sh", "-c", OUT, "skysail-cp", folder, name])),
                tty: false,
                window,
            }
        }
        ("trace", _) => Line {
            command: network::trace(&query).unwrap_or_else(network::refused),
            tty: false,
            window,
        },
        ("probe", _) => Line {
            command: network::probe(&query, &paths.netns(&id)).unwrap_or_else(network::refused),
            tty: false,
            window,
        },
        ("console", _) => Line {
            command: inside(words(&[
                "/bin/sh",
                "-c",
                "exec $(command -v bash || echo /bin/sh) -l",
            ])),
            tty: true,
            window,
        },
        _ => Line {
            command: inside(query.all("command")),
            tty: query.is_true("tty"),
            window,
        },
    }
}

/// A URL's query.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Takes it apart, and undoes its escapes.
    pub fn parse(text: &str) -> Self {
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
    /// The value of a key's first appearance.
    pub fn first(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }
    /// The values of all of a key's appearances.
    pub fn all(&self, key: &str) -> Vec<String> {
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
        of(&offer, &Paths::new("/d")).command.join(" ")
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
        assert!(line("files", "path=/etc/hosts").ends_with(" skysail-cp /etc hosts"));
        assert!(
            line("files", "path=etc").ends_with(" skysail-cp / etc"),
            "a relative path is not the whole root"
        );
        assert!(line("files", "path=/").ends_with(" skysail-cp / ."));
        assert!(line("files", "path=/srv&into=true").ends_with(" skysail-cp /srv"));
    }
}
