//! The kernel's own interface for devices, addresses, routes and forwarding entries: one message and one answer
//! where a program would be started, which is most of the time that attaching a container would take.
//!
//! A socket belongs to the network namespace of the thread that opened it, for ever.

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd};

const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// Flag of a message that makes what is not there.
pub const CREATE: u16 = 0x400;
/// Flag of a message that replaces what is there.
pub const REPLACE: u16 = 0x100;
/// Flag of a message that fails where there is something already.
pub const EXCLUSIVE: u16 = 0x200;
/// Flag of a message that asks for everything.
pub const DUMP: u16 = 0x300;

const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
const HEADER: usize = 16;
/// Attributes that hold attributes carry this bit.
const NESTED: u16 = 0x8000;

/// A message to the kernel, in the making.
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A message of a kind (`RTM_…`) with its fixed part.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self {
            kind,
            flags,
            body: padded(fixed),
        }
    }

    /// Adds an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.body, kind, value);
        self
    }

    /// Adds an attribute that holds others, see [`attributes`].
    pub fn nested(self, kind: u16, inner: &[u8]) -> Self {
        self.attribute(kind | NESTED, inner)
    }
}

/// Attributes one after another, for an attribute that holds them.
pub fn attributes(list: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, value) in list {
        put(&mut out, *kind, value);
    }
    out
}

/// The kind of an attribute that holds others.
pub fn nest(kind: u16) -> u16 {
    kind | NESTED
}

/// A text as the kernel wants it.
pub fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(bytes.len().next_multiple_of(4), 0);
    out
}

fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // No attribute of ours comes near 64 KiB.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(padded(value));
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// What the kernel answered.
pub struct Answer(Vec<u8>);

impl Answer {
    /// The fixed part and what follows, as sent.
    pub fn fixed<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        number(&self.0, at)
    }

    /// The value of an attribute after a fixed part of `fixed` bytes.
    pub fn attribute(&self, fixed: usize, kind: u16) -> Option<&[u8]> {
        let mut rest = self.0.get(fixed.next_multiple_of(4)..)?;
        while rest.len() >= 4 {
            let length = usize::from(u16::from_ne_bytes(number(rest, 0)?));
            let found = u16::from_ne_bytes(number(rest, 2)?) & !NESTED;
            let value = rest.get(4..length)?;
            if found == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }
}

/// A socket to the kernel.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// For devices, addresses, routes and neighbours of this thread's namespace.
    pub fn route() -> Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For everything that has no protocol of its own.
    pub fn generic() -> Result<Self> {
        Self::open(SockProtocol::NetlinkGeneric)
    }

    fn open(protocol: SockProtocol) -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a message and returns what the kernel answers: nothing but its consent, an object, or all of a dump.
    pub fn ask(&mut self, message: Message) -> Result<Vec<Answer>> {
        self.sequence += 1;
        let flags = REQUEST | message.flags | if message.flags & DUMP == DUMP { 0 } else { ACK };
        let length = u32::try_from(HEADER + message.body.len()).map_err(Error::other)?;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(message.kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(message.body);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let (mut answers, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let received = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if self.take(&buffer[..received], &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Reads the messages of one datagram; true when the answer is complete.
    fn take(&self, datagram: &[u8], answers: &mut Vec<Answer>) -> Result<bool> {
        let broken = || Error::from(ErrorKind::InvalidData);
        let mut rest = datagram;
        while rest.len() >= HEADER {
            let word = |at| number(rest, at).map(u32::from_ne_bytes).ok_or_else(broken);
            let (length, sequence) = (word(0)? as usize, word(8)?);
            let kind = u16::from_ne_bytes(number(rest, 4).ok_or_else(broken)?);
            let body = rest.get(HEADER..length).ok_or_else(broken)?;
            if sequence == self.sequence {
                match kind {
                    KIND_DONE => return Ok(true),
                    KIND_ERROR => {
                        let code = i32::from_ne_bytes(number(body, 0).ok_or_else(broken)?);
                        return if code == 0 {
                            Ok(true)
                        } else {
                            Err(Error::from_raw_os_error(-code))
                        };
                    }
                    _ => answers.push(Answer(body.to_vec())),
                }
            }
            rest = rest
                .get(length.next_multiple_of(4).min(rest.len())..)
                .ok_or_else(broken)?;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again_behind_the_fixed_part() {
        let message = Message::new(16, 0, &[1, 2, 3])
            .attribute(3, &text("eth0"))
            .nested(18, &attributes(&[(1, b"veth")]));
        let answer = Answer(message.body);
        assert_eq!(answer.attribute(3, 3), Some(&b"eth0\0"[..]));
        let info = Answer(answer.attribute(3, 18).unwrap().to_vec());
        assert_eq!(info.attribute(0, 1), Some(&b"veth"[..]));
        assert_eq!(answer.attribute(3, 7), None);
    }

    #[test]
    fn the_kernel_knows_the_loopback_device() {
        let ask = Message::new(18, 0, &[0; 16]).attribute(3, &text("lo"));
        let answers = Netlink::route().unwrap().ask(ask).unwrap();
        assert_eq!(answers[0].fixed(4).map(i32::from_ne_bytes), Some(1));
    }
}
