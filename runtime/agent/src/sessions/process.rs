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
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// What may still come out of a process that has ended: a child of it may hold the pipe open for ever.
const LINGER: Duration = Duration::from_millis(300);

/// Ctrl-D.
const END_OF_INPUT: u8 = 4;

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
    let (ended, end) = watch::channel(false);
    // Dropping the set stops what still pumps.
    let mut pumps: JoinSet<()> = outputs
        .into_iter()
        .map(|(channel, output)| pump(channel, output, sink.clone(), end.clone()))
        .collect();
    let process = async {
        let status = child.wait().await;
        ended.send_replace(true);
        while pumps.join_next().await.is_some() {}
        status.ok().map(|s| s.code().unwrap_or(137))
    };
    tokio::select! {
        () = feed(incoming, input, terminal) => None,
        code = process => code,
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
                // A process that stopped reading is no reason to end what it still writes.
                let written =
                    open.write_all(&data[1..]).await.is_ok() && open.flush().await.is_ok();
                if !written {
                    input = None;
                }
            }
            (Some(&ENDED), _) if data.get(1) == Some(&STDIN) => {
                // A terminal does not end when one of its holders lets go: Ctrl-D tells its reader.
                if let (Some(mut open), Some(_)) = (input.take(), &terminal) {
                    let _ = open.write_all(&[END_OF_INPUT]).await;
                    let _ = open.flush().await;
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::Role;

    type Client = WebSocketStream<tokio::io::DuplexStream>;

    /// A process, and its client over a connection that holds little.
    async fn process(script: &str, tty: bool) -> Client {
        let (near, far) = tokio::io::duplex(4 << 10);
        let line = Line {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            tty,
        };
        let agent = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        tokio::spawn(run(line, agent));
        WebSocketStream::from_raw_socket(near, Role::Server, None).await
    }

    /// What came on standard output, and the exit code.
    async fn rest(mut client: Client) -> (Vec<u8>, i32) {
        let mut output = vec![];
        while let Some(Ok(message)) = client.next().await {
            let Message::Binary(data) = message else {
                continue;
            };
            match data[0] {
                STDOUT => output.extend_from_slice(&data[1..]),
                STATUS => {
                    return (
                        output,
                        skysail_schemas::session::exit_code(
                            &serde_json::from_slice(&data[1..]).unwrap(),
                        )
                        .unwrap(),
                    );
                }
                _ => {}
            }
        }
        panic!("no status after {} bytes", output.len());
    }

    #[tokio::test]
    async fn a_client_that_pauses_after_the_process_ended_still_gets_all_output() {
        let client = process("head -c 60000 /dev/zero; exit 3", false).await;
        tokio::time::sleep(LINGER * 4).await; // the pause is what is tested
        let (output, code) = rest(client).await;
        assert_eq!((output.len(), code), (60_000, 3));
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_pipe_does_not_keep_the_session() {
        let begun = std::time::Instant::now();
        let (output, code) = rest(process("sleep 20 & echo here", false).await).await;
        assert_eq!((output.as_slice(), code), (&b"here\n"[..], 0));
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[tokio::test]
    async fn the_end_of_input_reaches_a_process_with_a_terminal() {
        let mut client = process("cat; exit 4", true).await;
        client
            .send(Message::binary([&[STDIN][..], b"hi\n"].concat()))
            .await
            .unwrap();
        client
            .send(Message::binary(vec![ENDED, STDIN]))
            .await
            .unwrap();
        assert_eq!(rest(client).await.1, 4);
    }
}
