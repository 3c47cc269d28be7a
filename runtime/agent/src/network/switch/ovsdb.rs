//! A held connection to the switch's database (RFC 7047): reads and changes ports without starting a program.

use super::{BRIDGE, NewPort, OWNER, Port, RUN};
use crate::network::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const INDEX: &str = "skysail-index";
/// How long the database, and the switch behind it, may take.
const LIMIT: Duration = Duration::from_secs(8);

/// The connection, made when it is needed.
#[derive(Default)]
pub struct Database {
    connection: Option<Connection>,
}

struct Connection {
    stream: UnixStream,
    /// Bytes that were read beyond the last message.
    rest: Vec<u8>,
    id: u64,
}

fn failed(cause: impl std::fmt::Display) -> Error {
    Error::Switch(format!("its database: {cause}"))
}

/// A text column that is a set of at most one, or a number.
fn map(pairs: &[(&str, String)]) -> Value {
    let pairs: Vec<Value> = pairs.iter().map(|(k, v)| json!([k, v])).collect();
    json!(["map", pairs])
}

impl Database {
    /// Every port of the switch by name.
    pub async fn ports(&mut self) -> Result<BTreeMap<String, Port>> {
        let columns = ["name", "ofport", "external_ids"];
        let select = json!({"op": "select", "table": "Interface", "where": [], "columns": columns});
        let results = self.transact(vec![select]).await?;
        let rows = results.first().and_then(|r| r["rows"].as_array());
        rows.and_then(|rows| rows.iter().map(read_port).collect())
            .ok_or_else(|| failed("the list of interfaces is not understood"))
    }

    /// Adds ports, and waits until the switch has them.
    pub async fn add(&mut self, ports: &[NewPort]) -> Result<()> {
        let mut steps = Vec::new();
        let mut added = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let (interface, row) = (format!("interface{i}"), format!("port{i}"));
            let mut ids = vec![(OWNER, port.owner.clone())];
            ids.extend(port.index.map(|n| (INDEX, n.to_string())));
            let options: Vec<_> = port
                .options
                .iter()
                .map(|(k, v)| (*k, (*v).to_owned()))
                .collect();
            steps.push(json!({"op": "insert", "table": "Interface", "uuid-name": interface, "row": {
                "name": port.name, "type": port.kind, "options": map(&options), "external_ids": map(&ids)}}));
            steps.push(
                json!({"op": "insert", "table": "Port", "uuid-name": row, "row": {
                "name": port.name, "interfaces": ["named-uuid", interface]}}),
            );
            added.push(json!(["named-uuid", row]));
        }
        steps.push(members("insert", &added));
        self.change(steps).await
    }

    /// Removes ports, and waits until the switch has let go of their devices. Fine if they are not there.
    pub async fn remove(&mut self, names: &[String]) -> Result<()> {
        let find = |name: &String| json!({"op": "select", "table": "Port", "where": [["name", "==", name]], "columns": ["_uuid"]});
        let found = self.transact(names.iter().map(find).collect()).await?;
        let ids: Vec<Value> = found
            .iter()
            .flat_map(|r| r["rows"].as_array().cloned().unwrap_or_default())
            .map(|row| row["_uuid"].clone())
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.change(vec![members("delete", &ids)]).await
    }

    /// Makes a change with a new number, and waits until the switch says that it has come so far.
    async fn change(&mut self, mut steps: Vec<Value>) -> Result<()> {
        let table = "Open_vSwitch";
        steps.push(json!({"op": "mutate", "table": table, "where": [], "mutations": [["next_cfg", "+=", 1]]}));
        steps.push(
            json!({"op": "select", "table": table, "where": [], "columns": ["next_cfg", "cur_cfg"]}),
        );
        let results = self.transact(steps).await?;
        let row = |results: &[Value]| results.last().map(|r| r["rows"][0].clone());
        let numbers = row(&results).unwrap_or_default();
        let wanted = numbers["next_cfg"].as_i64();
        let wanted =
            wanted.ok_or_else(|| failed("it does not say the number of its configuration"))?;
        let mut reached = numbers["cur_cfg"].as_i64().unwrap_or(0);
        while reached < wanted {
            let limit = LIMIT.as_millis() as u64;
            let more = json!({"op": "wait", "table": table, "where": [], "columns": ["cur_cfg"],
                "until": "!=", "rows": [{"cur_cfg": reached}], "timeout": limit});
            let read = json!({"op": "select", "table": table, "where": [], "columns": ["cur_cfg"]});
            let results = self.transact(vec![more, read]).await?;
            let now = row(&results).and_then(|r| r["cur_cfg"].as_i64());
            reached = now.ok_or_else(|| failed("the switch does not follow it"))?;
        }
        Ok(())
    }

    /// Runs one transaction; a connection that broke since the last one is made again.
    async fn transact(&mut self, steps: Vec<Value>) -> Result<Vec<Value>> {
        let held = self.connection.take();
        let mut params = vec![json!("Open_vSwitch")];
        params.extend(steps);
        let params = Value::from(params);
        let limited = |work| async {
            tokio::time::timeout(LIMIT + Duration::from_secs(1), work)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        let held = match held {
            Some(connection) if connection.is_alive() => connection,
            _ => Connection::open().await.map_err(failed)?,
        };
        let (connection, results) = limited(held.ask(&params)).await.map_err(failed)?;
        self.connection = Some(connection);
        let refusal = results.iter().find_map(|r| r["error"].as_str());
        match refusal {
            Some(error) => {
                let details = results.iter().find_map(|r| r["details"].as_str());
                Err(failed(format!("{error}: {}", details.unwrap_or_default())))
            }
            None => Ok(results),
        }
    }
}

/// Puts ports into the bridge, or takes them out.
fn members(verb: &str, ports: &[Value]) -> Value {
    json!({"op": "mutate", "table": "Bridge", "where": [["name", "==", BRIDGE]],
        "mutations": [["ports", verb, ["set", ports]]]})
}

impl Connection {
    async fn open() -> io::Result<Self> {
        let stream = UnixStream::connect(format!("{RUN}/db.sock")).await?;
        Ok(Self {
            stream,
            rest: Vec::new(),
            id: 0,
        })
    }

    /// Whether the other side is still there, as far as the kernel knows.
    fn is_alive(&self) -> bool {
        let mut byte = [0];
        // Nothing to read, or something (an inactivity probe): alive; the end: not.
        !matches!(
            nix::sys::socket::recv(
                std::os::fd::AsRawFd::as_raw_fd(&self.stream),
                &mut byte,
                nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT
            ),
            Ok(0)
        )
    }

    /// Asks for a transaction and waits for its results; gives itself back if all went well.
    async fn ask(mut self, params: &Value) -> io::Result<(Self, Vec<Value>)> {
        self.id += 1;
        let request = json!({"method": "transact", "id": self.id, "params": params});
        self.stream
            .write_all(request.to_string().as_bytes())
            .await?;
        loop {
            let mut message = self.next().await?;
            if message["method"] == "echo" {
                let reply =
                    json!({"id": message["id"], "result": message["params"], "error": null});
                self.stream.write_all(reply.to_string().as_bytes()).await?;
            } else if message["id"] == self.id {
                let Value::Array(results) = message["result"].take() else {
                    return Err(io::Error::other(message["error"].to_string()));
                };
                return Ok((self, results));
            }
        }
    }

    /// The next message: messages follow one another without a separator.
    async fn next(&mut self) -> io::Result<Value> {
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Value>();
            match values.next() {
                Some(Ok(value)) => {
                    let used = values.byte_offset();
                    self.rest.drain(..used);
                    return Ok(value);
                }
                Some(Err(e)) if !e.is_eof() => return Err(e.into()),
                _ => {}
            }
            if self.stream.read_buf(&mut self.rest).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn read_port(row: &Value) -> Option<(String, Port)> {
    let number = row["ofport"]
        .as_i64()
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n > 0);
    let pairs = row["external_ids"].get(1)?.as_array()?;
    let id = |key: &str| {
        let pair = pairs.iter().find(|p| p[0] == key);
        pair.and_then(|p| p[1].as_str()).map(str::to_owned)
    };
    let index = id(INDEX).and_then(|i| i.parse().ok());
    let owner = id(OWNER);
    let port = Port {
        number,
        index,
        owner,
    };
    Some((row["name"].as_str()?.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_with_its_owner_and_one_without_device_has_no_number() {
        let row = json!({"name": "skc1", "ofport": 2, "external_ids": ["map", [["skysail", "7/10.0.0.2"], ["skysail-index", "7"]]]});
        let port = Port {
            number: Some(2),
            index: Some(7),
            owner: Some("7/10.0.0.2".into()),
        };
        assert_eq!(read_port(&row), Some(("skc1".to_owned(), port)));
        for none in [json!(-1), json!(["set", []])] {
            let row = json!({"name": "skx7", "ofport": none, "external_ids": ["map", []]});
            let port = Port {
                number: None,
                index: None,
                owner: None,
            };
            assert_eq!(read_port(&row), Some(("skx7".to_owned(), port)));
        }
    }
}
