//! A resolver of the world outside: answers every question with one address and remembers what it was asked.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it answers.
pub const ANSWER: [u8; 4] = [203, 0, 113, 7];

/// Runs until it is dropped.
pub struct Resolver {
    asked: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

impl Resolver {
    /// Starts it in a network namespace, on every address there.
    pub fn start(netns: &str) -> Self {
        let resolver = Self {
            asked: Arc::default(),
            ended: Arc::default(),
        };
        let (asked, ended) = (resolver.asked.clone(), resolver.ended.clone());
        let file = std::fs::File::open(format!("/run/netns/{netns}")).unwrap();
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 512];
            while !ended.load(Ordering::Acquire) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let (name, reply) = answer(&buffer[..length]);
                    asked.lock().unwrap().push(name);
                    socket.send_to(&reply, from).unwrap();
                }
            }
        });
        wait.recv().unwrap();
        resolver
    }

    /// The names that it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// The name of a question and the answer to it: the question again, with one address unless another type was asked for.
fn answer(query: &[u8]) -> (String, Vec<u8>) {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        name += &String::from_utf8_lossy(&query[at + 1..end]);
        name.push('.');
        at = end;
    }
    let question = &query[12..at + 5];
    let address = query[at + 1..at + 3] == [0, 1];
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    reply.extend(question);
    if address {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(ANSWER);
    }
    (name, reply)
}
