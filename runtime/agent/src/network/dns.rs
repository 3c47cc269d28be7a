//! A tenant's DNS: names and addresses of one network's containers, answered at the network's gateway.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::{IpNet, Ipv4Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Seconds that an answer may be kept: containers come and go.
const TTL: u32 = 5;
/// Questions of one network that are worked on at a time; more are dropped, and asked again.
const AT_ONCE: usize = 128;
/// The top-level domain that the world has set aside for private use.
const PRIVATE: &str = "internal";
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);
const CLIENT_LIMIT: Duration = Duration::from_secs(10);

/// What one network's DNS knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Domain of the network.
    pub domain: String,
    /// Addresses of the network; it answers for no others.
    pub cidr: Ipv4Net,
    /// Whether other names are asked of the host's resolvers.
    pub forward: bool,
    /// Domains of other networks, as far as this host knows them: their names do not exist here, nor does
    /// anyone in the world learn that they were asked for.
    pub foreign: BTreeSet<String>,
    /// Containers and their addresses.
    pub names: BTreeMap<String, BTreeSet<Ipv4Addr>>,
}

/// The zone of a running server, replaced whole.
pub type Shared = Arc<RwLock<Zone>>;

/// What to do with a question.
#[derive(Debug)]
pub enum Answer {
    /// Send this back.
    Reply(Message),
    /// Ask the host's resolvers.
    Forward,
    /// It is no question.
    Ignore,
}

impl Zone {
    /// Answers one question; pure.
    pub fn answer(&self, query: &[u8]) -> Answer {
        let Ok(query) = Message::from_vec(query) else {
            return Answer::Ignore;
        };
        if query.metadata.message_type != MessageType::Query {
            return Answer::Ignore;
        }
        let [question] = &query.queries[..] else {
            return Answer::Reply(reply(&query, ResponseCode::FormErr, Vec::new()));
        };
        if query.metadata.op_code != OpCode::Query {
            return Answer::Reply(reply(&query, ResponseCode::NotImp, Vec::new()));
        }
        match self.find(question.name()) {
            Found::Elsewhere if self.forward => Answer::Forward,
            Found::Elsewhere | Found::Nothing => {
                Answer::Reply(reply(&query, ResponseCode::NXDomain, Vec::new()))
            }
            Found::Here(data) => {
                let asked =
                    |d: &RData| [d.record_type(), RecordType::ANY].contains(&question.query_type());
                let records = data
                    .into_iter()
                    .filter(asked)
                    .map(|d| Record::from_rdata(question.name().clone(), TTL, d));
                Answer::Reply(reply(&query, ResponseCode::NoError, records.collect()))
            }
        }
    }

    fn find(&self, name: &Name) -> Found {
        let text = name.to_ascii().to_lowercase();
        let text = text.trim_end_matches('.');
        if text.ends_with(".in-addr.arpa") {
            return match name.parse_arpa_name() {
                Ok(IpNet::V4(net)) if self.cidr.contains(&net) => self.reverse(net.addr()),
                _ => Found::Elsewhere,
            };
        }
        let container = match text.strip_suffix(&format!(".{}", self.domain.to_lowercase())) {
            Some(container) => container,
            None if self.is_private(text) => return Found::Nothing,
            None if text.is_empty() || text.contains('.') => return Found::Elsewhere,
            None => text,
        };
        let addresses = self.names.get(container);
        addresses.map_or(Found::Nothing, |a| {
            Found::Here(a.iter().map(|a| RData::A(A(*a))).collect())
        })
    }

    /// Whether a name that is not of this network is of another tenant's, or of no public domain at all.
    fn is_private(&self, name: &str) -> bool {
        let below = |domain: &str| {
            name.strip_suffix(domain)
                .is_some_and(|head| head.is_empty() || head.ends_with('.'))
        };
        below(PRIVATE) || self.foreign.iter().any(|d| below(&d.to_lowercase()))
    }

    fn reverse(&self, address: Ipv4Addr) -> Found {
        let container = self
            .names
            .iter()
            .find(|(_, a)| a.contains(&address))
            .map(|(name, _)| name);
        let name =
            container.and_then(|c| Name::from_str_relaxed(format!("{c}.{}.", self.domain)).ok());
        name.map_or(Found::Nothing, |n| Found::Here(vec![RData::PTR(PTR(n))]))
    }
}

enum Found {
    Here(Vec<RData>),
    Nothing,
    Elsewhere,
}

fn reply(query: &Message, code: ResponseCode, answers: Vec<Record>) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.response_code = code;
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = true;
    reply.add_queries(query.queries.iter().cloned());
    reply.add_answers(answers);
    if query.edns.is_some() {
        reply.set_edns(Edns::new());
    }
    reply
}

/// Serves one network on sockets that were made inside its service namespace. Ends with its task, or when a
/// socket breaks (somebody destroyed it from outside): it must then be started again on new ones.
pub async fn serve(zone: Shared, udp: UdpSocket, tcp: TcpListener) {
    let udp = Arc::new(udp);
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let broken = tokio::select! {
        broken = serve_udp(zone.clone(), udp, slots.clone()) => broken,
        broken = serve_tcp(zone, tcp, slots) => broken,
    };
    tracing::warn!(error = %broken, "a network's DNS ended; it is started again");
}

async fn serve_udp(zone: Shared, socket: Arc<UdpSocket>, slots: Arc<Semaphore>) -> std::io::Error {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(e) => return e,
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            continue;
        };
        let (query, zone, socket) = (buffer[..length].to_vec(), zone.clone(), socket.clone());
        tokio::spawn(async move {
            if let Some(reply) = resolve(&zone, &query, false).await {
                // A client that is gone asks no more.
                let _ = socket.send_to(&reply, from).await;
            }
            drop(slot);
        });
    }
}

async fn serve_tcp(zone: Shared, listener: TcpListener, slots: Arc<Semaphore>) -> std::io::Error {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // A client that left before it was let in.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionAborted => continue,
            Err(e) => return e,
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            continue;
        };
        let zone = zone.clone();
        tokio::spawn(async move {
            // A client that breaks off or is too slow loses its connection.
            let _ = tokio::time::timeout(CLIENT_LIMIT, converse(&zone, stream)).await;
            drop(slot);
        });
    }
}

async fn converse(zone: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let Some(reply) = resolve(zone, &query, true).await else {
            return Ok(());
        };
        let length = u16::try_from(reply.len()).map_err(std::io::Error::other)?;
        stream
            .write_all(&[&length.to_be_bytes()[..], &reply].concat())
            .await?;
    }
}

async fn resolve(zone: &Shared, query: &[u8], stream: bool) -> Option<Vec<u8>> {
    let answer = zone
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .answer(query);
    match answer {
        Answer::Reply(message) => message.to_vec().ok(),
        Answer::Ignore => None,
        Answer::Forward => {
            for resolver in resolvers() {
                match tokio::time::timeout(UPSTREAM_LIMIT, ask(resolver, query, stream)).await {
                    Ok(Ok(reply)) => return Some(reply),
                    _ => tracing::debug!(%resolver, "resolver does not answer"),
                }
            }
            let query = Message::from_vec(query).ok()?;
            reply(&query, ResponseCode::ServFail, Vec::new())
                .to_vec()
                .ok()
        }
    }
}

/// The host's own resolvers.
fn resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let addresses = text
        .lines()
        .filter_map(|l| l.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    addresses.map(|a| SocketAddr::new(a, 53)).collect()
}

async fn ask(resolver: SocketAddr, query: &[u8], stream: bool) -> std::io::Result<Vec<u8>> {
    if stream {
        let mut upstream = TcpStream::connect(resolver).await?;
        let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
        upstream
            .write_all(&[&length.to_be_bytes()[..], query].concat())
            .await?;
        let mut reply = vec![0; usize::from(upstream.read_u16().await?)];
        upstream.read_exact(&mut reply).await?;
        return Ok(reply);
    }
    let any = if resolver.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let upstream = UdpSocket::bind(any).await?;
    upstream.connect(resolver).await?;
    upstream.send(query).await?;
    let mut reply = vec![0; 4096];
    let length = upstream.recv(&mut reply).await?;
    reply.truncate(length);
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;

    fn zone(forward: bool) -> Zone {
        let names = [("web", [10, 0, 0, 2]), ("db", [10, 0, 0, 3])];
        let names = names
            .into_iter()
            .map(|(n, a)| (n.to_owned(), BTreeSet::from([Ipv4Addr::from(a)])))
            .collect();
        Zone {
            domain: "acme.internal".into(),
            cidr: "10.0.0.0/24".parse().unwrap(),
            forward,
            foreign: BTreeSet::from(["Blue.test".to_owned()]),
            names,
        }
    }

    fn ask(zone: &Zone, name: &str, kind: RecordType) -> String {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str_relaxed(name).unwrap(), kind));
        match zone.answer(&message.to_vec().unwrap()) {
            Answer::Reply(m) => {
                let answers: Vec<String> = m.answers.iter().map(|r| r.data.to_string()).collect();
                format!("{:?} {}", m.metadata.response_code, answers.join(" "))
            }
            Answer::Forward => "forward".into(),
            Answer::Ignore => "ignore".into(),
        }
    }

    #[test]
    fn a_container_is_found_by_its_name_alone_with_the_domain_and_in_any_case() {
        let zone = zone(false);
        for name in ["web.", "web.acme.internal.", "WEB.Acme.Internal."] {
            assert_eq!(
                ask(&zone, name, RecordType::A),
                "NoError 10.0.0.2",
                "{name}"
            );
        }
    }

    #[test]
    fn an_address_is_found_by_its_reverse_name() {
        assert_eq!(
            ask(&zone(false), "3.0.0.10.in-addr.arpa.", RecordType::PTR),
            "NoError db.acme.internal."
        );
        assert_eq!(
            ask(&zone(true), "9.0.0.10.in-addr.arpa.", RecordType::PTR),
            "NXDomain "
        );
    }

    #[test]
    fn a_container_has_no_other_records_and_yet_exists() {
        assert_eq!(ask(&zone(false), "web.", RecordType::AAAA), "NoError ");
    }

    #[test]
    fn unknown_containers_do_not_exist_and_are_never_asked_of_the_world() {
        for name in ["mail.", "mail.acme.internal."] {
            assert_eq!(ask(&zone(true), name, RecordType::A), "NXDomain ", "{name}");
        }
    }

    #[test]
    fn other_names_are_forwarded_only_where_egress_is_on() {
        assert_eq!(ask(&zone(true), "example.org.", RecordType::A), "forward");
        assert_eq!(
            ask(&zone(false), "example.org.", RecordType::A),
            "NXDomain "
        );
    }

    #[test]
    fn names_of_other_tenants_do_not_exist_and_are_never_asked_of_the_world() {
        for name in [
            "web.blue.internal.",
            "web.blue.test.",
            "blue.test.",
            "internal.",
        ] {
            assert_eq!(ask(&zone(true), name, RecordType::A), "NXDomain ", "{name}");
        }
        assert_eq!(ask(&zone(true), "notblue.test.", RecordType::A), "forward");
    }

    #[test]
    fn what_is_no_question_is_ignored() {
        assert!(matches!(zone(true).answer(b"x"), Answer::Ignore));
    }
}
