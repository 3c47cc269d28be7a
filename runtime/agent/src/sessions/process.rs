//! One process with its streams on the channels of a WebSocket.

use super::ending;
use super::input::{self, Sink};
use super::line::Line;
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use skysail_schemas::session::{STATUS, STDERR, STDOUT, exit_status};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// What may still come out of a process that has ended: a child of it may hold the pipe open for ever.
pub const LINGER: Duration = Duration::from_millis(300);

/// How long a client may take to see how its process ended.
const PARTING: Duration = Duration::from_secs(5);

/// The process's ends of the streams.
struct Streams {
    child: Child,
    input: Box<dyn AsyncWrite + Send + Unpin>,
    outputs: Vec<(u8, Box<dyn AsyncRead + Send + Unpin>)>,
    terminal: Option<OwnedFd>,
}

/// Runs the process to its end, or ends it when the client has gone, which is also when it is not heard for `silence`.
pub async fn run<S>(line: Line, socket: WebSocketStream<S>, silence: Duration) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, mut incoming) = socket.split();
    let sink = Arc::new(Mutex::new(sink));
    let status = match start(&line) {
        Err(message) => {
            serde_json::json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message })
        }
        Ok(streams) => match go(streams, &mut incoming, &sink, line.window, silence).await {
            Some(code) => exit_status(code),
            None => return Ok(()), // the client went, and so did what it started
        },
    };
    let parting = async {
        let mut sink = sink.lock().await;
        let frame = [&[STATUS][..], status.to_string().as_bytes()].concat();
        sink.send(Message::binary(frame))
            .await
            .map_err(|e| e.to_string())?;
        sink.close().await.map_err(|e| e.to_string())
    };
    // What the client still sends is taken until it has seen the status: to hang up on it could lose that.
    let seen = async { while let Some(Ok(_)) = incoming.next().await {} };
    let (told, _) = tokio::join!(parting, tokio::time::timeout(PARTING, seen));
    told
}

fn start(line: &Line) -> Result<Streams, String> {
    let (program, arguments) = line.command.split_first().ok_or("no command")?;
    let started = hear_signals().and_then(|()| {
        if line.tty {
            with_terminal(program, arguments)
        } else {
            with_pipes(program, arguments)
        }
    });
    started.map_err(|e| format!("{program}: {e}"))
}

/// A signal that the agent was started to ignore (`nohup`, a job of a script) would be ignored by
/// what it runs as well, for good: only what is handled becomes the default at execve(2).
fn hear_signals() -> std::io::Result<()> {
    [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ]
    .into_iter()
    .try_for_each(|kind| signal(kind).map(drop))
}

fn with_pipes(program: &str, arguments: &[String]) -> std::io::Result<Streams> {
    let piped = Stdio::piped;
    // In a POSIX session of its own, by which what it leaves behind is found.
    let mut child = Command::new("setsid")
        .args(["-w", program])
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
    // A child that held the master could never see its terminal hung up.
    for end in [&pty.master, &pty.slave] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
    }
    let child = Command::new("setsid")
        .args(["-c", "-w", program])
        .args(arguments)
        .stdin(pty.slave.try_clone()?)
        .stdout(pty.slave.try_clone()?)
        .stderr(pty.slave)
        .kill_on_drop(true)
        .spawn()?;
    // Neither end of the terminal blocks: a thread that wrote to a process that reads nothing would stay for ever. The
    // types for pipes take any descriptor that can be polled.
    let flags = rustix::fs::fcntl_getfl(&pty.master)?;
    rustix::fs::fcntl_setfl(&pty.master, flags | rustix::fs::OFlags::NONBLOCK)?;
    let input = pipe::Sender::from_owned_fd_unchecked(pty.master.try_clone()?)?;
    let output = pipe::Receiver::from_owned_fd_unchecked(pty.master.try_clone()?)?;
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
    incoming: &mut SplitStream<WebSocketStream<S>>,
    sink: &Sink<S>,
    window: bool,
    silence: Duration,
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
    let (ended, end) = watch::channel(false);
    // Dropping the set stops what still pumps.
    let mut pumps: JoinSet<()> = outputs
        .into_iter()
        .map(|(channel, output)| pump(channel, output, sink.clone(), end.clone()))
        .collect();
    let (queue, waiting) = input::queue();
    // Held until everything has ended: the end of its input is no hang-up.
    let carrying = input::carry(waiting, input, terminal.as_ref(), window.then_some(sink));
    tokio::pin!(carrying);
    let code = {
        let process = async {
            let status = child.wait().await;
            ended.send_replace(true);
            while pumps.join_next().await.is_some() {}
            status.ok().map(|s| s.code().unwrap_or(137))
        };
        tokio::select! {
            () = input::receive(incoming, queue, terminal.as_ref(), sink, silence) => None,
            () = &mut carrying => None,
            code = process => Some(code),
        }
    };
    match code {
        Some(code) => code,
        None => {
            ending::end(&mut child).await;
            None
        }
    }
}

/// Output to its channel until it ends, or says nothing more for a while after `end`. However
/// slowly the client takes it, what was read is sent.
async fn pump<S>(
    channel: u8,
    mut output: Box<dyn AsyncRead + Send + Unpin>,
    sink: Sink<S>,
    mut end: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 32 << 10];
    loop {
        let silence = async {
            // An error means that the sender went, which it only does after the end.
            let _ = end.wait_for(|ended| *ended).await;
            tokio::time::sleep(LINGER).await;
        };
        let read = tokio::select! {
            read = output.read(&mut buffer) => read,
            () = silence => return,
        };
        // A terminal whose last process has gone answers with an error instead of an end.
        let Ok(size @ 1..) = read else { return };
        let frame = [&[channel][..], &buffer[..size]].concat();
        if sink
            .lock()
            .await
            .send(Message::binary(frame))
            .await
            .is_err()
        {
            return;
        }
    }
}
