//! What a client sends: input for the process, and what must not wait behind it.
//!
//! Input waits in a queue for a process that does not read it, so that a new size of the
//! terminal or the client's going is seen all the same. Clients that heed the window
//! ([`skysail_schemas::session::TAKEN`]) never fill the queue; for others, the
//! connection is not read while it is full.

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use rustix::termios::LocalModes;
use skysail_schemas::session::{ENDED, RESIZE, STDIN, Size, WINDOW, taken};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Where frames to the client go.
pub type Sink<S> = Arc<Mutex<SplitSink<WebSocketStream<S>, Message>>>;

/// Ctrl-D.
const END_OF_INPUT: u8 = 4;
/// How long a program may take to take over its terminal, and between two looks whether it has.
const TAKE_OVER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);
/// What may wait, in bytes.
const ROOM: usize = 4 * WINDOW;
/// What a frame costs beside its bytes: single keystrokes come as frames too.
const FRAME: usize = 64;

/// Data, or the end of it; the permit is its room in the queue.
type Piece = (Option<Bytes>, Option<OwnedSemaphorePermit>);

/// The end of the queue where input comes in.
pub struct Queue {
    room: Arc<Semaphore>,
    pieces: UnboundedSender<Piece>,
}

/// The end where it goes out.
pub struct Waiting(UnboundedReceiver<Piece>);

/// An empty queue.
pub fn queue() -> (Queue, Waiting) {
    let (pieces, waiting) = unbounded_channel();
    let room = Arc::new(Semaphore::new(ROOM));
    (Queue { room, pieces }, Waiting(waiting))
}

impl Queue {
    /// Waits until there is room.
    async fn put(&self, data: Bytes) {
        let size = (data.len() + FRAME).min(ROOM);
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        let permit = self.room.clone().acquire_many_owned(permits).await.ok();
        // Nobody takes it any more when the process has ended.
        let _ = self.pieces.send((Some(data), permit));
    }

    fn end(&self) {
        let _ = self.pieces.send((None, None));
    }
}

/// Takes what the client sends; returns when it has gone, or was not heard for `silence`.
pub async fn receive<S>(
    incoming: &mut SplitStream<WebSocketStream<S>>,
    queue: Queue,
    terminal: Option<&OwnedFd>,
    sink: &Sink<S>,
    silence: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Ok(Some(Ok(message))) = tokio::time::timeout(silence, incoming.next()).await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => return,
            _ => continue,
        };
        match data.first() {
            Some(&STDIN) => {
                let put = queue.put(data.slice(1..));
                tokio::select! {
                    () = put => {}
                    // Nobody reads meanwhile, so only writing shows whether the client is there.
                    () = unheard(sink, silence) => return,
                }
            }
            Some(&ENDED) if data.get(1) == Some(&STDIN) => queue.end(),
            Some(&RESIZE) => resize(terminal, &data[1..]),
            _ => {}
        }
    }
}

/// Pings until that fails.
async fn unheard<S>(sink: &Sink<S>, silence: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        tokio::time::sleep(silence / 4).await;
        if sink
            .lock()
            .await
            .send(Message::Ping(Bytes::new()))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Carries input to the process, and tells the client through `window` how much was taken. Never ends by itself: the
/// end of the process does.
pub async fn carry<S>(
    mut waiting: Waiting,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    terminal: Option<&OwnedFd>,
    window: Option<&Sink<S>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Some(input);
    let mut untold = 0;
    tell(window, 0).await;
    if let Some(terminal) = terminal {
        taken_over(terminal).await;
    }
    while let Some((data, permit)) = waiting.0.recv().await {
        let Some(data) = data else {
            // A terminal does not end when one of its holders lets go: Ctrl-D tells its reader.
            if let (Some(mut open), true) = (input.take(), terminal.is_some()) {
                let _ = open.write_all(&[END_OF_INPUT]).await;
                let _ = open.flush().await;
            }
            continue;
        };
        if let Some(open) = &mut input {
            // A process that stopped reading is no reason to end what it still writes.
            let written = open.write_all(&data).await.is_ok() && open.flush().await.is_ok();
            if !written {
                input = None;
            }
        }
        drop(permit);
        untold += data.len();
        if untold >= WINDOW / 4 {
            tell(window, untold).await;
            untold = 0;
        }
    }
    std::future::pending().await
}

/// Waits until a program has taken over the terminal, as `lxc-attach` does for the one inside: it drops what was
/// typed before. One that takes lines as they come keeps it waiting no longer than [`TAKE_OVER`].
async fn taken_over(terminal: &OwnedFd) {
    let waiting = async {
        while rustix::termios::tcgetattr(terminal)
            .is_ok_and(|t| t.local_modes.contains(LocalModes::ICANON))
        {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Whatever it is, it gets its input.
    let _ = tokio::time::timeout(TAKE_OVER, waiting).await;
}

async fn tell<S>(window: Option<&Sink<S>>, bytes: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(sink) = window {
        let frame = taken(u32::try_from(bytes).unwrap_or(u32::MAX));
        // A client that has gone is noticed where it is read.
        let _ = sink.lock().await.send(Message::binary(frame)).await;
    }
}

fn resize(terminal: Option<&OwnedFd>, size: &[u8]) {
    if let (Some(terminal), Ok(size)) = (terminal, serde_json::from_slice::<Size>(size)) {
        let size = rustix::termios::Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // A terminal that cannot be resized still works.
        let _ = rustix::termios::tcsetwinsize(terminal, size);
    }
}
