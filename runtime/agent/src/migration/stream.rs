//! The one connection between two agents: messages both ways over TLS, held from the first word to the last, so
//! that the end of either agent is noticed at once by the other.
//!
//! A frame is a length (4 bytes, big end first), a kind (1 byte) and a body. Whoever has nothing to say says so
//! every two seconds; ten seconds without a word are the end.

use super::tree::Entry;
use crate::checkpoint::Packet;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use skysail_schemas::migration::MigrationMode;
use skysail_schemas::quantity::Bandwidth;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Longest body of a frame.
const LONGEST: usize = 1 << 20;
/// Bytes of a file that go in one frame.
pub const CHUNK: usize = 256 << 10;
/// Frames that wait to be sent or taken.
const WAITING: usize = 16;
/// How often a silent end says that it lives.
const PULSE: Duration = Duration::from_secs(2);
/// How long a silent end is believed to live.
const SILENCE: Duration = Duration::from_secs(10);

/// What is said.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Message {
    /// Source: which Migration this is about.
    Hello {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// `Live` or `Cold`.
        mode: MigrationMode,
    },
    /// Target: go on.
    Welcome,
    /// Either: this is given up.
    No {
        /// CamelCase word.
        reason: String,
        /// Why, and the way out.
        message: String,
    },
    /// Source: this entry is new or has changed. For a file, its bytes follow, then [`Message::End`].
    Entry(Entry),
    /// Source: the bytes of a file were these.
    End {
        /// SHA-256 of them, in hexadecimal.
        digest: String,
    },
    /// Source: this entry is not there any more.
    Remove(Entry),
    /// Source: a pass over the files is complete.
    Pass(u32),
    /// Target: it is on disk.
    Applied(u32),
    /// Source: from here on it is about what the container was dumped into.
    Images,
    /// Source: nothing will change any more.
    Seal {
        /// Over everything that there is; see [`super::tree::digest`].
        digest: String,
        /// The same over what it was dumped into, in a live move.
        images: Option<String>,
    },
    /// Target: everything has arrived as sealed; what is left is to restore it.
    Arrived,
    /// Target: it holds everything, as sealed, on disk and on record.
    Prepared,
    /// Source: the commit happened.
    Go,
    /// Target: the container runs here.
    Runs,
    /// Nothing to say.
    Pulse,
}

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A message.
    Said(Message),
    /// Bytes of a file, from this offset on.
    Data(u64, Bytes),
    /// What arrived for the container at the source after it stood still.
    Packet(Packet),
}

/// One end of the connection. When the other end goes, [`Self::next`] says so.
pub struct Session {
    outgoing: mpsc::Sender<Frame>,
    incoming: mpsc::Receiver<Frame>,
    sent: Arc<AtomicU64>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The other end is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection between the two hosts ended")]
pub struct Lost;

impl Session {
    /// Takes over a connection. What is sent is held to `limit`.
    pub fn new<S>(connection: S, limit: Option<Bandwidth>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (reader, writer) = tokio::io::split(connection);
        let (outgoing, to_send) = mpsc::channel(WAITING);
        let (taken, incoming) = mpsc::channel(WAITING);
        let sent = Arc::new(AtomicU64::new(0));
        let (count, reading) = (sent.clone(), read_all(reader, taken));
        let write = async move {
            if let Err(error) = write_all(writer, to_send, limit, &count).await {
                tracing::debug!(%error, "a migration's connection cannot be written");
            }
        };
        let read = async move {
            if let Err(error) = reading.await {
                tracing::debug!(%error, "a migration's connection cannot be read");
            }
        };
        Self {
            outgoing,
            incoming,
            sent,
            tasks: [tokio::spawn(write), tokio::spawn(read)],
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn say(&self, message: Message) -> Result<(), Lost> {
        self.send(Frame::Said(message)).await
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send(&self, frame: Frame) -> Result<(), Lost> {
        self.outgoing.send(frame).await.map_err(|_| Lost)
    }

    /// Where other threads send from.
    pub fn outgoing(&self) -> mpsc::Sender<Frame> {
        self.outgoing.clone()
    }

    /// The next frame.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn next(&mut self) -> Result<Frame, Lost> {
        self.incoming.recv().await.ok_or(Lost)
    }

    /// Whether the other end is there, as far as is known.
    pub fn is_alive(&self) -> bool {
        !self.incoming.is_closed()
    }

    /// [`Self::next`], on a thread that may block.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn next_blocking(&mut self) -> Result<Frame, Lost> {
        self.incoming.blocking_recv().ok_or(Lost)
    }

    /// [`Self::say`], on a thread that may block.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn say_blocking(&self, message: Message) -> Result<(), Lost> {
        let sent = self.outgoing.blocking_send(Frame::Said(message));
        sent.map_err(|_| Lost)
    }

    /// Bytes sent so far; stays readable when the session is gone.
    pub fn sent(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }
}

async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Frame>,
    limit: Option<Bandwidth>,
    sent: &AtomicU64,
) -> io::Result<()> {
    let mut pace = Instant::now();
    loop {
        let frame = match timeout(PULSE, frames.recv()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return writer.shutdown().await,
            Err(_) => Frame::Said(Message::Pulse),
        };
        let (kind, head, body) = encode(&frame)?;
        let length = head.len() + body.len();
        writer
            .write_u32(u32::try_from(length).map_err(io::Error::other)?)
            .await?;
        writer.write_u8(kind).await?;
        writer.write_all(&head).await?;
        writer.write_all(body).await?;
        if frames.is_empty() {
            writer.flush().await?;
        }
        sent.fetch_add(length as u64, Ordering::Relaxed);
        if let Some(limit) = limit {
            let nanos = (length as u64).saturating_mul(8_000_000_000) / limit.0.max(1);
            pace = pace.max(Instant::now()) + Duration::from_nanos(nanos);
            // A little ahead is fine; it keeps the sleeps long enough to be exact.
            if pace > Instant::now() + Duration::from_millis(20) {
                writer.flush().await?;
                tokio::time::sleep_until(pace).await;
            }
        }
    }
}

/// Kind, what precedes the bytes, and the bytes.
fn encode(frame: &Frame) -> io::Result<(u8, Vec<u8>, &[u8])> {
    Ok(match frame {
        Frame::Said(message) => (b'm', serde_json::to_vec(message)?, &[]),
        Frame::Data(offset, bytes) => (b'd', offset.to_be_bytes().to_vec(), bytes),
        Frame::Packet(p) => (b'p', p.interface.to_be_bytes().to_vec(), &p.bytes),
    })
}

fn decode(kind: u8, body: Vec<u8>) -> io::Result<Frame> {
    let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    match kind {
        b'm' => Ok(Frame::Said(serde_json::from_slice(&body)?)),
        b'd' => {
            let body = Bytes::from(body);
            let (head, _) = body
                .split_first_chunk::<8>()
                .ok_or_else(|| odd("a frame that is too short"))?;
            Ok(Frame::Data(u64::from_be_bytes(*head), body.slice(8..)))
        }
        b'p' => {
            let body = Bytes::from(body);
            let (head, _) = body
                .split_first_chunk::<4>()
                .ok_or_else(|| odd("a packet that is too short"))?;
            let interface = u32::from_be_bytes(*head);
            let bytes = body.slice(4..);
            Ok(Frame::Packet(Packet { interface, bytes }))
        }
        _ => Err(odd("a frame of an unknown kind")),
    }
}

async fn read_all(
    mut reader: impl AsyncRead + Unpin,
    taken: mpsc::Sender<Frame>,
) -> io::Result<()> {
    loop {
        let read = async {
            let length = usize::try_from(reader.read_u32().await?).map_err(io::Error::other)?;
            let kind = reader.read_u8().await?;
            if length > LONGEST {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a frame of {length} bytes"),
                ));
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).await?;
            decode(kind, body)
        };
        let frame = timeout(SILENCE, read)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no word for 10 s"))??;
        if frame != Frame::Said(Message::Pulse) && taken.send(frame).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent_and_the_end_is_noticed() {
        let (a, b) = tokio::io::duplex(1 << 16);
        let (a, mut b) = (Session::new(a, None), Session::new(b, None));
        let data = Frame::Data(7, Bytes::from_static(b"abc"));
        let packet = Frame::Packet(Packet {
            interface: 3,
            bytes: Bytes::from_static(b"xyz"),
        });
        a.say(Message::Welcome).await.unwrap();
        a.send(data.clone()).await.unwrap();
        a.send(packet.clone()).await.unwrap();
        assert_eq!(b.next().await.unwrap(), Frame::Said(Message::Welcome));
        assert_eq!(b.next().await.unwrap(), data);
        assert_eq!(b.next().await.unwrap(), packet);
        drop(a);
        assert_eq!(b.next().await, Err(Lost));
    }

    #[tokio::test]
    async fn what_is_sent_is_held_to_the_limit() {
        let (a, b) = tokio::io::duplex(1 << 20);
        let (a, mut b) = (
            Session::new(a, Some(Bandwidth(8_000_000))),
            Session::new(b, None),
        );
        let begun = Instant::now();
        for _ in 0..5 {
            let chunk = Bytes::from(vec![0; 100_000]);
            a.send(Frame::Data(0, chunk)).await.unwrap();
        }
        for _ in 0..5 {
            b.next().await.unwrap();
        }
        // 500 kB at 1 MB/s; the last chunk need not be waited for.
        assert!(begun.elapsed() >= Duration::from_millis(350));
    }
}
