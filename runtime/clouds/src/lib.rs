//! Machines from somewhere: one small contract, a driver per kind of cloud.
//!
//! A driver yields machines that answer SSH and nothing more; everything after
//! that (bootstrap, agent, containers) is the same on every machine. Drivers know
//! no API object but the [`Cloud`](skysail_schemas::Cloud) they were opened from.
//!
//! Invariant: what a driver made can always be found again from the cloud itself
//! and the driver's durable records, whichever process was killed at whichever
//! moment, so that it is either adopted or removed.

pub mod command;
pub mod ec2;
pub mod hetzner;
mod https;
pub mod mmdebstrap;
pub mod open;
pub mod qemu;
pub mod sandbox;
pub mod ssh;

use async_trait::async_trait;
use skysail_schemas::{host::Resources, quantity::Bandwidth};
use std::{collections::BTreeMap, net::IpAddr};

/// What every driver answers with.
pub type Result<T> = std::result::Result<T, Error>;

/// The contract. All methods may be called at the same time, from several tasks.
#[async_trait]
pub trait Driver: Send + Sync {
    /// The sizes that can be ordered, with prices; empty where the driver cannot tell.
    /// Changes nothing. An answer also proves that the cloud is reachable and that
    /// its credentials work.
    async fn offers(&self) -> Result<Vec<Offer>>;

    /// Makes the machine that `order` describes, or finishes making it.
    ///
    /// Idempotent by `order.name`: a second call, also from another process after the
    /// first was killed, returns the same machine with the same addresses and disk,
    /// started again if it had stopped or lost its surroundings. Returns once the cloud
    /// has taken the order; the machine is usable when [`get`](Driver::get) says
    /// [`State::Running`] and its SSH port answers.
    async fn create(&self, order: &Order) -> Result<Machine>;

    /// The machine `id` as it is now, not as it was ordered.
    /// [`Error::NotFound`] where it does not exist (any more).
    async fn get(&self, id: &str) -> Result<Machine>;

    /// Every machine that this driver ever made for this cloud and that still takes
    /// up room there, in whatever state, whoever ordered it. In order of names.
    async fn list(&self) -> Result<Vec<Machine>>;

    /// Gives the machine back with its disk and addresses. Idempotent: a machine that
    /// does not exist is success. Finished when it returns: nothing of it is left.
    async fn delete(&self, id: &str) -> Result<()>;

    /// The last that the machine `id` said on its console, short enough for a condition: it
    /// tells why a machine that runs answers nobody. Empty where that is not known.
    async fn console(&self, _id: &str) -> Result<String> {
        Ok(String::new())
    }

    /// Removes what belongs to the cloud itself rather than to a machine (routers,
    /// networks). Idempotent. [`Error::Refused`] while machines are left.
    async fn retire(&self) -> Result<()>;
}

/// A machine to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The Host's name; unique over all clouds of an installation.
    pub name: String,
    /// The driver's name of the size, as in [`Offer::name`].
    pub offer: String,
    /// What the machine shall have; drivers that cut machines to measure use it.
    pub resources: Resources,
    /// Whether it needs an address that other clouds can reach.
    pub public_address: bool,
    /// Public keys (OpenSSH, one line each) that may log in.
    pub authorized_keys: Vec<String>,
    /// Marks to find the machine by; kept as they are.
    pub tags: BTreeMap<String, String>,
    /// Whether to buy on the spot market, where the cloud has one.
    pub spot: bool,
    /// The id of the machine that was the Host's before and certainly is gone. It makes
    /// the order another one than that which bought the old machine.
    pub instead_of: Option<String>,
}

/// A size of machine that can be ordered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Offer {
    /// The driver's name for it, for example `small` or `m5.large`.
    pub name: String,
    /// What such a machine has.
    pub resources: Resources,
    /// Price on demand per hour, a decimal number.
    pub price_per_hour: Option<String>,
    /// Price on the spot market now.
    pub spot_price_per_hour: Option<String>,
    /// Network bandwidth, where known.
    pub bandwidth: Option<Bandwidth>,
}

/// A machine of a cloud.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// The driver's own name for it.
    pub id: String,
    /// The `Order::name` that it was made for.
    pub name: String,
    /// The marks it was made with.
    pub tags: BTreeMap<String, String>,
    /// What it does.
    pub state: State,
    /// Address inside its cloud.
    pub internal: Option<IpAddr>,
    /// Address that other clouds can reach.
    pub external: Option<IpAddr>,
    /// How to log in.
    pub ssh: SshTarget,
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being made or is booting.
    Starting,
    /// It runs. Its sshd may need a moment longer.
    Running,
    /// It exists with its disk and addresses but does not run; `create` starts it.
    Stopped,
}

/// How to log in to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// Address or DNS name.
    pub address: String,
    /// TCP port of sshd.
    pub port: u16,
    /// Login name: root, or one that can `sudo -n`.
    pub user: String,
    /// An OpenSSH `ProxyCommand` where the address cannot be reached directly.
    pub proxy_command: Option<String>,
    /// The Secret in `skysail-system` with the key; Skysail's own key where absent.
    pub key_secret: Option<String>,
}

/// Why a driver could not do what it was asked; each kind has one reaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The machine does not exist. Reaction: make it, or be done deleting it.
    #[error("{0}")]
    NotFound(String),
    /// The cloud has no room for such a machine now. Reaction: another offer, or later.
    #[error("{0}")]
    NoCapacity(String),
    /// The account's limit is reached. Reaction: wait for a person.
    #[error("{0}")]
    Quota(String),
    /// Credentials are missing or refused. Reaction: wait for a person.
    #[error("{0}")]
    Denied(String),
    /// Too many requests. Reaction: wait longer.
    #[error("{0}")]
    Throttled(String),
    /// Anything that may pass by itself. Reaction: again, with backoff.
    #[error("{0}")]
    Transient(String),
    /// It cannot work as it is written. Reaction: wait for a change of the object.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// The CamelCase word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "NotFound",
            Self::NoCapacity(_) => "NoCapacity",
            Self::Quota(_) => "QuotaExceeded",
            Self::Denied(_) => "Denied",
            Self::Throttled(_) => "Throttled",
            Self::Transient(_) => "Unavailable",
            Self::Refused(_) => "Refused",
        }
    }
}

impl From<command::Failure> for Error {
    fn from(failure: command::Failure) -> Self {
        Self::Transient(failure.to_string())
    }
}
