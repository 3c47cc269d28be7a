//! Which address an interface gets. Pure.

use ipnet::Ipv4Net;
use skysail_schemas::container::Attachment;
use skysail_schemas::{Network, network};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Why an interface has no address: shown as the condition's reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A CamelCase word.
    pub reason: &'static str,
    /// Path of the field, what is wrong, the way out.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// What is known of the addresses of one Network.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Addresses {
    /// Claimed, with the Container that has it.
    pub taken: BTreeMap<Ipv4Addr, String>,
    /// Asked for by name by other Containers; automatic addresses keep off them.
    pub asked_for: BTreeSet<Ipv4Addr>,
    /// Older Containers that wait for an automatic address too: they get the lowest ones, so
    /// that many at once do not all claim the same.
    pub ahead: usize,
}

/// The address to claim for the interface at `path` of a Container.
pub fn choose(
    path: &str,
    wish: &Attachment,
    network: &Network,
    addresses: &Addresses,
    before: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Refusal> {
    let cidr = network.spec.cidr;
    let Some(address) = wish.address else {
        let free =
            |a: &Ipv4Addr| !addresses.taken.contains_key(a) && !addresses.asked_for.contains(a);
        // What it had before, if its Port was lost, else the lowest that nobody older waits for.
        if let Some(before) = before.filter(|a| network::is_usable(cidr, *a) && free(a)) {
            return Ok(before);
        }
        let choice = network::usable(cidr).filter(free).nth(addresses.ahead);
        return choice.ok_or_else(|| {
            let count = network::usable_count(cidr);
            let message = format!(
                "{path}.name: all {count} addresses of Network {:?} ({cidr}) are taken; delete Containers on it or make a larger Network",
                wish.name
            );
            Refusal::new("AddressesExhausted", message)
        });
    };
    check_usable(path, wish, cidr, address)?;
    match addresses.taken.get(&address) {
        None => Ok(address),
        Some(holder) => {
            let message = format!(
                "{path}.address: {address} is taken by Container {holder:?}; choose another address or delete that Container"
            );
            Err(Refusal::new("AddressTaken", message))
        }
    }
}

fn check_usable(
    path: &str,
    wish: &Attachment,
    cidr: Ipv4Net,
    address: Ipv4Addr,
) -> Result<(), Refusal> {
    if network::is_usable(cidr, address) {
        return Ok(());
    }
    let range = {
        let (first, last) = (
            u32::from(cidr.network()) + 2,
            u32::from(cidr.broadcast()) - 1,
        );
        format!("{} to {}", Ipv4Addr::from(first), Ipv4Addr::from(last))
    };
    let what = if !cidr.contains(&address) {
        format!("{address} is not in Network {:?} ({cidr})", wish.name)
    } else if address == network::gateway(cidr) {
        format!("{address} is the gateway of Network {:?}", wish.name)
    } else {
        format!(
            "{address} is the network or broadcast address of Network {:?} ({cidr})",
            wish.name
        )
    };
    Err(Refusal::new(
        "AddressNotUsable",
        format!("{path}.address: {what}; choose from {range}"),
    ))
}
