//! A process to be moved while it works, and the client that watches it do so. Both tell what they
//! saw themselves: the server's own clock says how long it stood still, the client's how long nobody
//! answered, and every byte of memory and of the stream is checked.
//!
//! ```text
//! workload serve PORT [MIB [MB_PER_SECOND]]   echoes frames on PORT, and writes to so much memory so fast
//! workload client ADDRESS PORT SECONDS        sends a frame every 5 ms, prints what it saw as JSON
//! workload stats ADDRESS PORT                 prints what the server saw since the last question, as JSON
//! workload witness FOLDER                     uses one of everything that a process has, and writes what fails
//! ```

mod witness;

use serde_json::json;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

type Outcome = Result<(), Box<dyn Error>>;

/// Bytes of a frame; the first eight are its number.
const FRAME: usize = 256;
/// From one frame to the next, as in the published measurements.
const PACE: Duration = Duration::from_millis(5);
/// Asks the server for what it saw, in place of a frame's number.
const QUESTION: u64 = u64::MAX;
const PAGE: usize = 4096;

/// What the server sees of itself.
#[derive(Default)]
struct Seen {
    /// The longest that a thread which only looks at the clock did not run, in microseconds.
    gap: AtomicU64,
    /// Pages that were written.
    written: AtomicU64,
    /// Pages that did not hold what was written to them.
    broken: AtomicU64,
    /// Frames that were echoed.
    echoed: AtomicU64,
}

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", port] => serve(port.parse()?, 0, 0),
        ["serve", port, size] => serve(port.parse()?, size.parse()?, 0),
        ["serve", port, size, rate] => serve(port.parse()?, size.parse()?, rate.parse()?),
        ["client", address, port, seconds] => client(address, port.parse()?, seconds.parse()?),
        ["stats", address, port] => stats(address, port.parse()?),
        ["witness", folder] => witness::work(folder.as_ref()),
        _ => Err("workload serve PORT [MIB [MB_PER_SECOND]] | client ADDRESS PORT SECONDS | stats ADDRESS PORT | witness FOLDER".into()),
    }
}

fn serve(port: u16, mib: usize, megabytes: u64) -> Outcome {
    let seen = Arc::new(Seen::default());
    let clock = seen.clone();
    thread::spawn(move || watch_the_clock(&clock));
    let memory = seen.clone();
    let (ready, filled) = std::sync::mpsc::channel();
    thread::spawn(move || write_memory(&memory, mib, megabytes, &ready));
    filled.recv()?; // who connects finds it at its full size
    for stream in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let (stream, seen) = (stream?, seen.clone());
        thread::spawn(move || echo(stream, &seen));
    }
    Ok(())
}

/// By the time of day: a restored process goes on at the monotonic time that it was dumped at, so to that clock it did
/// not stand still from then on.
fn watch_the_clock(seen: &Seen) {
    let mut last = SystemTime::now();
    loop {
        thread::sleep(Duration::from_millis(1));
        let now = SystemTime::now();
        let gap = now.duration_since(last).unwrap_or_default().as_micros() as u64;
        seen.gap.fetch_max(gap, Ordering::Relaxed);
        last = now;
    }
}

/// Noise that no compression and no merging of pages makes smaller (xorshift, Marsaglia 2003).
fn noise(mut x: u64, page: &mut [u8]) {
    for word in page.chunks_exact_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        word.copy_from_slice(&x.to_le_bytes());
    }
}

fn write_memory(seen: &Seen, mib: usize, megabytes: u64, ready: &std::sync::mpsc::Sender<()>) {
    let mut memory = vec![0u8; mib << 20];
    let seed = |page: usize, turn: u64| (page as u64 + 1) << 20 | (turn + 1);
    for (number, page) in memory.chunks_exact_mut(PAGE).enumerate() {
        noise(seed(number, 0), page);
    }
    let _ = ready.send(());
    let mut expected = [0u8; PAGE];
    for turn in 0.. {
        if megabytes == 0 || memory.is_empty() {
            return thread::park();
        }
        for (number, page) in memory.chunks_exact_mut(PAGE).enumerate() {
            noise(seed(number, turn), &mut expected);
            if *page != expected {
                seen.broken.fetch_add(1, Ordering::Relaxed);
            }
            noise(seed(number, turn + 1), page);
            let written = seen.written.fetch_add(1, Ordering::Relaxed);
            if written.is_multiple_of(64) {
                let pause = 64 * PAGE as u64 * 1_000_000 / (megabytes * 1_000_000);
                thread::sleep(Duration::from_micros(pause));
            }
        }
    }
}

fn echo(mut stream: TcpStream, seen: &Seen) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut frame = [0; FRAME];
    loop {
        stream.read_exact(&mut frame).ok()?;
        if frame[..8] == QUESTION.to_le_bytes() {
            let take = |n: &AtomicU64| n.swap(0, Ordering::Relaxed);
            let answer = json!({
                "gap_ms": take(&seen.gap) as f64 / 1000.0,
                "pages_written": take(&seen.written), "pages_broken": take(&seen.broken),
                "frames": take(&seen.echoed),
            });
            return writeln!(stream, "{answer}").ok();
        }
        stream.write_all(&frame).ok()?;
        seen.echoed.fetch_add(1, Ordering::Relaxed);
    }
}

fn stats(address: &str, port: u16) -> Outcome {
    let mut stream = TcpStream::connect((address, port))?;
    let mut frame = [0; FRAME];
    frame[..8].copy_from_slice(&QUESTION.to_le_bytes());
    stream.write_all(&frame)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    print!("{line}");
    Ok(())
}

/// Frames under way: the number and when it was sent.
type Sent = Arc<Mutex<std::collections::VecDeque<(u64, Instant)>>>;

fn client(address: &str, port: u16, seconds: u64) -> Outcome {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_nodelay(true)?;
    let sent = Sent::default();
    let (mut answers, mine) = (stream.try_clone()?, sent.clone());
    answers.set_read_timeout(Some(Duration::from_secs(60)))?;
    let listener = thread::spawn(move || hear(&mut answers, &mine));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut next = Instant::now();
    let mut frames = 0;
    while Instant::now() < end {
        let mut frame = [0; FRAME];
        noise(frames + 1, &mut frame);
        frame[..8].copy_from_slice(&frames.to_le_bytes());
        let mut queue = sent.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back((frames, Instant::now()));
        drop(queue);
        stream.write_all(&frame)?;
        frames += 1;
        next += PACE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let heard = listener.join().map_err(|_| "the listening thread ended")?;
    let mut trips = heard.trips;
    trips.sort_by(f64::total_cmp);
    let lost = sent.lock().unwrap_or_else(PoisonError::into_inner).len();
    let answer = json!({
        "frames": frames, "lost": lost, "broken": heard.broken, "stall_ms": heard.stall,
        "trip_p50_ms": trips.get(trips.len() / 2), "trip_max_ms": trips.last(),
    });
    println!("{answer}");
    Ok(())
}

#[derive(Default)]
struct Heard {
    /// Milliseconds from a frame to its echo.
    trips: Vec<f64>,
    /// Echoes that are not what was sent.
    broken: u64,
    /// The longest time without any echo, in milliseconds.
    stall: f64,
}

fn hear(stream: &mut TcpStream, sent: &Sent) -> Heard {
    let mut heard = Heard::default();
    let (mut frame, mut expected) = ([0; FRAME], [0; FRAME]);
    let mut last = Instant::now();
    while stream.read_exact(&mut frame).is_ok() {
        let now = Instant::now();
        let milliseconds = |since: Instant| now.duration_since(since).as_secs_f64() * 1000.0;
        heard.stall = heard.stall.max(milliseconds(last));
        last = now;
        let due = sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some((number, when)) = due else {
            heard.broken += 1; // more came back than went out
            continue;
        };
        noise(number + 1, &mut expected);
        expected[..8].copy_from_slice(&number.to_le_bytes());
        heard.broken += u64::from(frame != expected);
        heard.trips.push(milliseconds(when));
    }
    heard
}
