//! An application of two tiers, and the client that uses it while its containers move.
//!
//! ```text
//! shop db                       counts what it is asked, in memory
//! shop web DATABASE…            asks the database whose turn it is, over one connection for each of its clients
//! shop client STOP WEB…         asks every web server without a pause until the file STOP exists; prints what it saw as JSON
//! ```
//!
//! A request is lost when its connection ends before the answer came; an answer is wrong when it is not about what was
//! asked, or when a database counts less than before: then it was started anew.

use serde_json::json;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

type Outcome = Result<(), Box<dyn Error>>;

const DATABASE: u16 = 5900;
const WEB: u16 = 5901;
/// From an answer to the next request.
const PACE: Duration = Duration::from_millis(5);
/// Longer than a connection that lives may be without an answer.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["db"] => db(),
        ["web", ref databases @ ..] if !databases.is_empty() => web(databases),
        ["client", stop, ref webs @ ..] if !webs.is_empty() => client(Path::new(stop), webs),
        _ => Err("shop db | web DATABASE… | client STOP WEB…".into()),
    }
}

/// A number and what was counted; in a request the second is nothing.
fn read(stream: &mut TcpStream) -> std::io::Result<(u64, u64)> {
    let mut both = [0; 16];
    stream.read_exact(&mut both)?;
    let (number, count) = both.split_at(8);
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    Ok((word(number), word(count)))
}

fn write(stream: &mut TcpStream, number: u64, count: u64) -> std::io::Result<()> {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&number.to_le_bytes());
    both[8..].copy_from_slice(&count.to_le_bytes());
    stream.write_all(&both)
}

fn connect(address: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((address, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn db() -> Outcome {
    let count = Arc::new(AtomicU64::new(0));
    for stream in TcpListener::bind(("0.0.0.0", DATABASE))?.incoming() {
        let (mut stream, count) = (stream?, count.clone());
        stream.set_nodelay(true)?;
        thread::spawn(move || -> std::io::Result<()> {
            loop {
                let (number, _) = read(&mut stream)?;
                write(
                    &mut stream,
                    number,
                    count.fetch_add(1, Ordering::Relaxed) + 1,
                )?;
            }
        });
    }
    Ok(())
}

fn web(databases: &[&str]) -> Outcome {
    let databases: Vec<String> = databases.iter().map(|d| (*d).to_owned()).collect();
    for stream in TcpListener::bind(("0.0.0.0", WEB))?.incoming() {
        let (mut stream, databases) = (stream?, databases.clone());
        stream.set_nodelay(true)?;
        thread::spawn(move || -> std::io::Result<()> {
            let asked = databases.iter().map(|d| connect(d, DATABASE));
            let mut asked = asked.collect::<Result<Vec<_>, _>>()?;
            loop {
                let (number, _) = read(&mut stream)?;
                let turn = number as usize % asked.len();
                write(&mut asked[turn], number, 0)?;
                let (number, count) = read(&mut asked[turn])?;
                write(&mut stream, number, count)?;
            }
        });
    }
    Ok(())
}

/// What a client saw.
#[derive(Default)]
struct Seen {
    requests: u64,
    lost: u64,
    wrong: u64,
    /// The longest time from a request to its answer.
    stall: Duration,
}

fn client(stop: &Path, webs: &[&str]) -> Outcome {
    let ask = |web: &&str| {
        let (web, stop): (String, PathBuf) = ((*web).to_owned(), stop.to_owned());
        thread::spawn(move || ask(&web, &stop))
    };
    let threads: Vec<_> = webs.iter().map(ask).collect();
    let mut all = Seen::default();
    for thread in threads {
        let seen = thread.join().map_err(|_| "a thread ended")?;
        all.requests += seen.requests;
        all.lost += seen.lost;
        all.wrong += seen.wrong;
        all.stall = all.stall.max(seen.stall);
    }
    let answer = json!({
        "requests": all.requests, "lost": all.lost, "wrong": all.wrong,
        "stall_ms": all.stall.as_secs_f64() * 1000.0,
    });
    println!("{answer}");
    Ok(())
}

fn ask(web: &str, stop: &Path) -> Seen {
    let mut seen = Seen::default();
    let mut counted = BTreeMap::new();
    let mut stream = connect(web, WEB);
    for number in 0.. {
        if stop.exists() {
            break;
        }
        seen.requests += 1;
        let begun = Instant::now();
        let answer = stream.as_mut().map_err(|_| ()).and_then(|stream| {
            write(stream, number, 0).map_err(|_| ())?;
            read(stream).map_err(|_| ())
        });
        seen.stall = seen.stall.max(begun.elapsed());
        match answer {
            Ok((told, count)) => {
                // Two databases, asked in turn.
                let before = counted.insert(number % 2, count);
                seen.wrong += u64::from(told != number || before.is_some_and(|b| b >= count));
            }
            Err(()) => {
                seen.lost += 1;
                thread::sleep(Duration::from_millis(50));
                stream = connect(web, WEB);
            }
        }
        thread::sleep(PACE);
    }
    seen
}
