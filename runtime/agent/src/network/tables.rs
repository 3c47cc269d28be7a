//! The pipeline, declared once: which tables there are, in which order, and what happens to a packet
//! that none of a table's flows matches.

use std::fmt;

/// A table of the pipeline. Packets only go from smaller numbers to larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Which network and origin a packet has, by its port (and by the tunnel's key). Others are dropped.
    Classify = 0,
    /// A container may only use the MAC and the address of its own port. Others are dropped.
    Spoof = 10,
    /// What comes from, or goes to, a container of this host that a SecurityPolicy selects is looked up among the
    /// network's connections. Everything else passes.
    Policy = 20,
    /// Which connection a packet belongs to: who opened it, to whom, to which service. Nonsense is dropped.
    Connection = 21,
    /// Whether the opener, if it is a selected container of this host, may open it (egress).
    Opener = 22,
    /// Whether it may be opened to the target, if that is a selected container of this host (ingress).
    Target = 23,
    /// Allowed connections that are new are put on record, so that replies are told from requests.
    Remember = 24,
    /// Answers ARP for every port of the network, so that no broadcast leaves a host.
    Arp = 30,
    /// What goes to the gateway: echo is answered, DNS and the way out go to the service namespace.
    Gateway = 40,
    /// To the container on this host, or through the tunnel to the host that has it. Others are dropped.
    Output = 50,
}

/// What happens to a packet that no flow of a table matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// It is dropped.
    Drop,
    /// It goes on.
    Goto(Table),
}

/// Every table with its miss. The order is the order of the pipeline.
pub const PIPELINE: [(Table, Miss); 10] = [
    (Table::Classify, Miss::Drop),
    (Table::Spoof, Miss::Drop),
    (Table::Policy, Miss::Goto(Table::Arp)),
    (Table::Connection, Miss::Drop),
    (Table::Opener, Miss::Goto(Table::Target)),
    (Table::Target, Miss::Goto(Table::Remember)),
    (Table::Remember, Miss::Goto(Table::Arp)),
    (Table::Arp, Miss::Goto(Table::Gateway)),
    (Table::Gateway, Miss::Goto(Table::Output)),
    (Table::Output, Miss::Drop),
];

impl Table {
    /// The table with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        PIPELINE
            .iter()
            .map(|(t, _)| *t)
            .find(|t| *t as u8 == number)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}
