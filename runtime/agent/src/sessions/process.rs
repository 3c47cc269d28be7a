//! One process with its streams on the channels of a WebSocket.

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use skysail_schemas::session::{ENDED, RESIZE, STATUS, STDERR, STDIN, STDOUT, Size, exit_status};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// What may still come out of a process that has ended: a child of it may hold the pipe open for ever.
const LINGER: Duration = Duration::from_millis(300);

/// A program with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The words.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
}

type Sink<S> = Arc<Mutex<SplitSink<WebSocketStream<S>, Message>>>;

/// The process's ends of the streams.
struct Streams {
    child: Child,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    outputs: Vec<(u8, Box<dyn AsyncRead + Send + Unpin>)>,
    terminal: Option<OwnedFd>,
}

/// Runs the process to its end, or until the client goes.
pub async fn run<S>(line: Line, socket: WebSocketStream<S>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, incoming) = socket.split();
    let sink = Arc::new(Mutex::new(sink));
    let status = match start(&line) {
        Err(message) => {
            serde_json::json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message })
        }
        Ok(streams) => match go(streams, incoming, &sink).await {
            Some(code) => exit_status(code),
            None => return Ok(()), // the client went; the process was killed
        },
    };
    let mut sink = sink.lock().await;
    let frame = [&[STATUS][..], status.to_string().as_bytes()].concat();
    sink.send(Message::binary(frame))
        .await
        .map_err(|e| e.to_string())?;
    sink.close().await.map_err(|e| e.to_string())
}

fn start(line: &Line) -> Result<Streams, String> {
    let (program, arguments) = line.command.split_first().ok_or("no command")?;
    if line.tty {
        with_terminal(program, arguments)
    } else {
        with_pipes(program, arguments)
    }
    .map_err(|e| format!("{program}: {e}"))
}

fn with_pipes(program: &str, arguments: &[String]) -> std::io::Result<Streams> {
    let piped = Stdio::piped;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(piped())
        .stdout(piped())
        .stderr(piped())
        .kill_on_drop(true)
        .spawn()?;
    let gone = || std::io::Error::other("a pipe is missing");
    let (input, output, errors) = (
        child.stdin.take().ok_or_else(gone)?,
        child.stdout.take().ok_or_else(gone)?,
        child.stderr.take().ok_or_else(gone)?,
    );
    Ok(Streams {
        child,
        input: Box::new(input),
        outputs: vec![(STDOUT, Box::new(output)), (STDERR, Box::new(errors))],
        terminal: None,
    })
}

/// `setsid -c` makes the terminal the controlling one, which only the child itself can do.
fn with_terminal(program: &str, arguments: &[String]) -> std::io::Result<Streams> {
    let pty = nix::pty::openpty(None, None)?;
    let child = Command::new("setsid")
        .args(["-c", "-w", program])
        .args(arguments)
        .stdin(pty.slave.try_clone()?)
        .stdout(pty.slave.try_clone()?)
        .stderr(pty.slave)
        .kill_on_drop(true)
        .spawn()?;
    let file = |fd: OwnedFd| tokio::fs::File::from_std(std::fs::File::from(fd));
    let (input, output) = (file(pty.master.try_clone()?), file(pty.master.try_clone()?));
    Ok(Streams {
        child,
        input: Box::new(input),
        outputs: vec![(STDOUT, Box::new(output))],
        terminal: Some(pty.master),
    })
}

/// The exit code, or `None` if the client went first.
async fn go<S>(
    streams: Streams,
    incoming: SplitStream<WebSocketStream<S>>,
    sink: &Sink<S>,
) -> Option<i32>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Streams {
        mut child,
        input,
        outputs,
        terminal,
    } = streams;
    let pumps: Vec<_> = outputs
        .into_iter()
        .map(|(channel, output)| tokio::spawn(pump(channel, output, sink.clone())))
        .collect();
    let code = tokio::select! {
        () = feed(incoming, input, terminal) => None,
        status = child.wait() => status.ok().map(|s| s.code().unwrap_or(137)),
    };
    if code.is_some() {
        let _ = tokio::time::timeout(LINGER, async {
            for pump in pumps {
                let _ = pump.await;
            }
        })
        .await;
    } else {
        pumps.iter().for_each(tokio::task::JoinHandle::abort);
    }
    code
}

/// Output to its channel until it ends.
async fn pump<S>(channel: u8, mut output: Box<dyn AsyncRead + Send + Unpin>, sink: Sink<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 32 << 10];
    // A terminal whose last process has gone answers with an error instead of an end.
    while let Ok(size @ 1..) = output.read(&mut buffer).await {
        let frame = [&[channel][..], &buffer[..size]].concat();
        if sink
            .lock()
            .await
            .send(Message::binary(frame))
            .await
            .is_err()
        {
            break;
        }
    }
}

/// Channels from the client to the process; returns when the client goes.
async fn feed<S>(
    mut incoming: SplitStream<WebSocketStream<S>>,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    terminal: Option<OwnedFd>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Some(input);
    while let Some(Ok(message)) = incoming.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => return,
            _ => continue,
        };
        match (data.first(), &mut input) {
            (Some(&STDIN), Some(open)) => {
                if open.write_all(&data[1..]).await.is_err() || open.flush().await.is_err() {
                    input = None;
                }
            }
            (Some(&ENDED), _) if data.get(1) == Some(&STDIN) => input = None,
            (Some(&RESIZE), _) => resize(terminal.as_ref(), &data[1..]),
            _ => {}
        }
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
