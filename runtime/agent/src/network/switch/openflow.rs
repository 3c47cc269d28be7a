//! A held connection to `br-int`: reads and changes its flows and meters without starting a program for it.

use super::wire::{self, Metering};
use super::{BRIDGE, RUN};
use crate::network::error::{Error, Result};
use crate::network::flow::{Meters, Seen};
use crate::network::plan::Change;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// OpenFlow 1.4: the first with bundles and with meters.
const VERSION: u8 = 5;
/// How long the switch may take for one exchange.
const LIMIT: Duration = Duration::from_secs(8);

mod kind {
    pub const HELLO: u8 = 0;
    pub const ERROR: u8 = 1;
    pub const ECHO_REQUEST: u8 = 2;
    pub const ECHO_REPLY: u8 = 3;
    pub const FLOW_MOD: u8 = 14;
    pub const MULTIPART_REQUEST: u8 = 18;
    pub const MULTIPART_REPLY: u8 = 19;
    pub const BARRIER_REQUEST: u8 = 20;
    pub const BARRIER_REPLY: u8 = 21;
    pub const METER_MOD: u8 = 29;
    pub const BUNDLE_CONTROL: u8 = 33;
    pub const BUNDLE_ADD: u8 = 34;
}

/// One message: its kind, and what follows the header.
struct Message(u8, Vec<u8>);

/// The connection, made when it is needed.
#[derive(Default)]
pub struct OpenFlow {
    stream: Option<UnixStream>,
    bundles: u32,
}

fn message(kind: u8, id: u32, body: &[u8]) -> Vec<u8> {
    // No message of ours comes near 64 KiB.
    let length = (body.len() + 8) as u16;
    let mut out = vec![VERSION, kind];
    out.extend(length.to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(body);
    out
}

fn failed(doing: &str, cause: impl std::fmt::Display) -> Error {
    Error::Switch(format!("{BRIDGE} {doing}: {cause}"))
}

impl OpenFlow {
    /// Every flow of the switch.
    pub async fn flows(&mut self) -> Result<Vec<Seen>> {
        let parts = self.parts("listing its flows", &wire::every_flow()).await?;
        let read = parts.iter().map(|p| wire::seen(p));
        let all = read.collect::<Option<Vec<_>>>();
        all.map(|a| a.concat())
            .ok_or_else(|| failed("listing its flows", "the answer is not understood"))
    }

    /// Every meter of the switch.
    pub async fn meters(&mut self) -> Result<Meters> {
        let parts = self
            .parts("listing its meters", &wire::every_meter())
            .await?;
        let read = parts.iter().map(|p| wire::meters(p));
        let all = read.collect::<Option<Vec<_>>>();
        all.map(|a| a.into_iter().flatten().collect())
            .ok_or_else(|| failed("listing its meters", "the answer is not understood"))
    }

    /// How many meters there can be.
    pub async fn meter_count(&mut self) -> Result<u32> {
        let doing = "asking for its meters";
        let parts = self.parts(doing, &wire::METER_FEATURES).await?;
        let first = parts.first().and_then(|p| p.first_chunk());
        first
            .map(|n| u32::from_be_bytes(*n))
            .ok_or_else(|| failed(doing, "the answer is not understood"))
    }

    async fn parts(&mut self, doing: &str, request: &[u8]) -> Result<Vec<Vec<u8>>> {
        let bytes = message(kind::MULTIPART_REQUEST, 1, request);
        let answers = self.exchange(doing, &bytes).await?;
        let parts = answers
            .into_iter()
            .filter(|m| m.0 == kind::MULTIPART_REPLY)
            .map(|m| m.1.get(8..).unwrap_or_default().to_vec());
        Ok(parts.collect())
    }

    /// Applies a change: meters that flows need, then all flows as one bundle (all of them or none), then
    /// meters that nobody needs any more go.
    pub async fn apply(&mut self, change: &Change) -> Result<()> {
        let mut bytes = Vec::new();
        for (id, meter) in &change.meters.add {
            bytes.extend(message(
                kind::METER_MOD,
                2,
                &wire::meter(Metering::Add, *id, *meter),
            ));
        }
        for (id, meter) in &change.meters.modify {
            bytes.extend(message(
                kind::METER_MOD,
                2,
                &wire::meter(Metering::Modify, *id, *meter),
            ));
        }
        if !change.add.is_empty() || !change.remove.is_empty() {
            self.bundles = self.bundles.wrapping_add(1);
            bytes.extend(bundle(self.bundles, change));
        }
        for id in &change.meters.remove {
            let none = crate::network::flow::Meter { rate: 0, burst: 0 };
            bytes.extend(message(
                kind::METER_MOD,
                2,
                &wire::meter(Metering::Delete, *id, none),
            ));
        }
        self.exchange("changing its flows", &bytes).await.map(drop)
    }

    /// Sends messages and a barrier, and reads up to the barrier's answer. An error that the switch reports fails
    /// the exchange; a broken connection is dropped, so that the next exchange makes a new one.
    async fn exchange(&mut self, doing: &str, bytes: &[u8]) -> Result<Vec<Message>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect().await.map_err(|e| failed(doing, e))?,
        };
        let work = async {
            let barrier = message(kind::BARRIER_REQUEST, 3, &[]);
            stream.write_all(&[bytes, &barrier].concat()).await?;
            let mut answers = Vec::new();
            loop {
                let answer = read(&mut stream).await?;
                match answer.0 {
                    kind::BARRIER_REPLY => return Ok::<_, io::Error>(answers),
                    kind::ECHO_REQUEST => {
                        let reply = message(kind::ECHO_REPLY, 0, &answer.1);
                        stream.write_all(&reply).await?;
                    }
                    _ => answers.push(answer),
                }
            }
        };
        let answers = match tokio::time::timeout(LIMIT, work).await {
            Ok(answers) => answers.map_err(|e| failed(doing, e))?,
            Err(_) => return Err(failed(doing, format_args!("no answer within {LIMIT:?}"))),
        };
        self.stream = Some(stream);
        let refusal = answers.iter().find(|m| m.0 == kind::ERROR);
        match refusal.and_then(|m| m.1.first_chunk::<4>()) {
            Some([a, b, c, d]) => {
                let (kind, code) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                let cause = format!("refused with OpenFlow error {kind}/{code}");
                Err(failed(doing, cause))
            }
            None => Ok(answers),
        }
    }
}

/// Opens the bridge's socket and agrees on the version.
async fn connect() -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(format!("{RUN}/{BRIDGE}.mgmt")).await?;
    stream.write_all(&message(kind::HELLO, 0, &[])).await?;
    match tokio::time::timeout(LIMIT, read(&mut stream)).await?? {
        Message(kind::HELLO, _) => Ok(stream),
        _ => Err(io::Error::other("it does not speak OpenFlow 1.4")),
    }
}

async fn read(stream: &mut UnixStream) -> io::Result<Message> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let mut body = vec![0; length.saturating_sub(8)];
    stream.read_exact(&mut body).await?;
    Ok(Message(header[1], body))
}

/// The messages of one bundle: what is new goes in before what is stale goes out.
fn bundle(id: u32, change: &Change) -> Vec<u8> {
    let (open, commit, in_order_or_not_at_all) = (0_u16, 4_u16, 3_u16);
    let own = id.to_be_bytes();
    let control = |what: u16| {
        let flags = in_order_or_not_at_all.to_be_bytes();
        let body = [&own[..], &what.to_be_bytes(), &flags].concat();
        message(kind::BUNDLE_CONTROL, 2, &body)
    };
    let add = |body: Vec<u8>| {
        let inner = message(kind::FLOW_MOD, 2, &body);
        let flags = in_order_or_not_at_all.to_be_bytes();
        let body = [&own[..], &[0, 0], &flags, &inner].concat();
        message(kind::BUNDLE_ADD, 2, &body)
    };
    let added = change.add.iter().map(|f| add(wire::add(f)));
    let removed = change.remove.iter().map(|at| add(wire::delete(at)));
    std::iter::once(control(open))
        .chain(added)
        .chain(removed)
        .chain([control(commit)])
        .flatten()
        .collect()
}
