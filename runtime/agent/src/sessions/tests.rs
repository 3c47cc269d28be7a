//! Processes and their clients.

use super::line::Line;
use super::process::{LINGER, run};
use futures::{SinkExt, StreamExt};
use skysail_schemas::session::{ENDED, RESIZE, SILENCE, STATUS, STDIN, STDOUT, WINDOW};
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

type Client = WebSocketStream<tokio::io::DuplexStream>;

/// A process, and its client over a connection that holds little.
async fn process(script: &str, tty: bool) -> Client {
    let (near, far) = tokio::io::duplex(4 << 10);
    let line = Line {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        tty,
        window: true,
    };
    let agent = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    tokio::spawn(run(line, agent, SILENCE));
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

/// Sends a frame.
async fn send(client: &mut Client, channel: u8, data: &[u8]) {
    let frame = [&[channel][..], data].concat();
    client.send(Message::binary(frame)).await.unwrap();
}

/// Waits for text on standard output.
async fn wait_for(client: &mut Client, text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        match client.next().await {
            Some(Ok(Message::Binary(data))) if data[0] == STDOUT => {
                seen.push_str(&String::from_utf8_lossy(&data[1..]));
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?} after {seen:?}"),
        }
    }
}

/// Waits until a process is no more.
async fn gone(pid: &str) {
    let stat = format!("/proc/{pid}/stat");
    let waiting = async {
        while std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    assert!(waited.is_ok(), "process {pid} is still there");
}

/// A file into which a script writes the ids of its processes, and those ids.
struct Pids(tempfile::TempDir);

impl Pids {
    fn new() -> Self {
        Self(tempfile::TempDir::new().unwrap())
    }

    fn file(&self) -> String {
        self.0.path().join("pids").display().to_string()
    }

    fn all(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file()).unwrap();
        text.split_whitespace().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_terminal_is_resized_while_its_process_does_not_read_its_input() {
    let script = "stty -icanon; trap 'stty size; exit 5' WINCH; sleep 60 & echo ready; wait";
    let mut client = process(script, true).await;
    wait_for(&mut client, "ready").await;
    for _ in 0..8 {
        send(&mut client, STDIN, &[b'x'; WINDOW / 8]).await;
    }
    send(&mut client, RESIZE, br#"{"Width": 123, "Height": 45}"#).await;
    let (output, code) = rest(client).await;
    let output = String::from_utf8_lossy(&output);
    assert!(output.contains("45 123"), "{output}");
    assert_eq!(code, 5);
}

#[tokio::test]
async fn a_client_that_goes_ends_a_process_that_does_not_read_its_input() {
    let pids = Pids::new();
    let script = format!("echo $$ > {}; echo ready; exec sleep 1000", pids.file());
    let mut client = process(&script, false).await;
    wait_for(&mut client, "ready").await;
    for _ in 0..8 {
        send(&mut client, STDIN, &[0; WINDOW / 8]).await;
    }
    client.close(None).await.unwrap();
    gone(&pids.all()[0]).await;
}

#[tokio::test]
async fn a_client_that_ignores_the_window_is_held_back_and_noticed_when_it_goes() {
    let pids = Pids::new();
    let (near, far) = tokio::io::duplex(4 << 10);
    let line = Line {
        command: vec![
            "sh".into(),
            "-c".into(),
            format!("echo $$ > {}; echo ready; exec sleep 1000", pids.file()),
        ],
        tty: false,
        window: false,
    };
    let agent = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    tokio::spawn(run(line, agent, Duration::from_millis(400)));
    let mut client: Client = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
    wait_for(&mut client, "ready").await;
    // More than the queue takes: the client waits, as it would for a pipe.
    let flood = async {
        for _ in 0..1000 {
            send(&mut client, STDIN, &[0; 32 << 10]).await;
        }
    };
    let held = tokio::time::timeout(Duration::from_secs(1), flood).await;
    assert!(held.is_err(), "32 MB went to a process that reads nothing");
    drop(client);
    gone(&pids.all()[0]).await;
}

#[tokio::test]
async fn a_client_that_goes_is_hung_up_on_and_who_ignores_that_is_killed() {
    let pids = Pids::new();
    let file = pids.file();
    // One that cleans up when hung up on (bash: the `wait` of dash loses a signal that comes just
    // before it blocks), one that does not care, and one that its parent left behind.
    let script = format!(
        "bash -c \"trap 'echo bye > {file}.bye; exit' HUP; sleep 1000 & : > {file}.armed; wait\" & echo $! >> {file};
         (trap '' HUP; exec sleep 1000) & echo $! >> {file};
         (sleep 1000 & echo $! >> {file});
         until [ -e {file}.armed ]; do sleep 0.01; done; rm {file}.armed; echo ready; cat"
    );
    for tty in [false, true] {
        let mut client = process(&script, tty).await;
        wait_for(&mut client, "ready").await;
        drop(client);
        let all = pids.all();
        assert_eq!(all.len(), 3);
        for pid in all {
            gone(&pid).await;
        }
        assert_eq!(
            std::fs::read_to_string(format!("{file}.bye")).unwrap(),
            "bye\n",
            "tty: {tty}"
        );
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_file(format!("{file}.bye")).unwrap();
    }
}

#[tokio::test]
async fn a_client_that_is_not_heard_is_gone() {
    let pids = Pids::new();
    let (near, far) = tokio::io::duplex(4 << 10);
    let line = Line {
        command: vec![
            "sh".into(),
            "-c".into(),
            format!("echo $$ > {}; exec sleep 1000", pids.file()),
        ],
        tty: false,
        window: false,
    };
    let agent = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    run(line, agent, Duration::from_millis(300)).await.unwrap();
    drop(near);
    for pid in pids.all() {
        gone(&pid).await;
    }
}
