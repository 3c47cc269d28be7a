//! The bits that a packet carries through the pipeline, declared once.

use std::fmt;

/// The network that a packet belongs to. Every match on an address also matches this register:
/// tenants may use the same addresses.
pub const VNI: &str = "reg0";

/// Where a packet came in, as an [`Origin`].
pub const ORIGIN: &str = "reg1";

/// Who opened the connection that a packet belongs to, where a policy concerns it.
pub const OPENER: &str = "reg2";

/// To whom it was opened.
pub const TARGET: &str = "reg3";

/// To which service: the IP protocol in bits 16 to 23; below it the port that was connected to, or an ICMP request's
/// type and code.
pub const SERVICE: &str = "reg4";

/// 1 where the connection was seen first in its middle, and by a packet of its target: it is not put on record until
/// its opener sends one.
pub const GUESSED: &str = "reg5";

/// Where a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Origin {
    /// A container of this host.
    Container = 1,
    /// The network's service namespace on this host: DNS answers, replies from the world.
    Service = 2,
    /// Another host.
    Tunnel = 3,
}

impl Origin {
    /// The origin that is written as `number`.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Container, Self::Service, Self::Tunnel]
            .into_iter()
            .find(|o| *o as u32 == number)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", *self as u8)
    }
}
